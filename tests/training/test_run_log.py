"""The record of a run, and the table that is shown meanwhile."""

import importlib.util
import json
import sys

from flexavatar_cli.cli.train import live_table
from flexavatar_cli.training.run_log import RunLog


def test_a_resumed_run_writes_its_last_steps_again(tmp_path):
    with RunLog(tmp_path, 0) as log:
        for step in (1, 2, 3):
            log(step, {"total": float(step)})
    with RunLog(tmp_path, 2) as log:
        log(3, {"total": 30.0})
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert rows == [{"step": 1, "total": 1.0}, {"step": 2, "total": 2.0}, {"step": 3, "total": 30.0}]
    assert (tmp_path / "tensorboard").is_dir() == (importlib.util.find_spec("tensorboard") is not None)


def test_a_terminal_gets_a_table_with_running_means(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with live_table() as show:
        show(1, {"total": 1.0})
        show(2, {"total": 2.0})
    shown = capsys.readouterr().err
    assert "step 2" in shown
    assert "1.02" in shown


def test_elsewhere_a_line_is_said(caplog):
    with live_table() as show, caplog.at_level("INFO", logger="flexavatar"):
        show(1, {"total": 1.0, "rate": 0.1})
        show(2, {"total": 2.0, "rate": 0.1})
    assert [record.message for record in caplog.records] == ["step 1: total 1.0000"]
