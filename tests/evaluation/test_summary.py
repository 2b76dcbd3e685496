"""Means, CSV, and two runs compared."""

import csv
import io
import json

import numpy as np
import pytest

from flexavatar_cli.core.errors import InputError
from flexavatar_cli.evaluation import summary


def rows(values, metric="psnr", system="ours"):
    """A row per value."""
    return [
        {"protocol": "self", "scene": "a", "group": "", "system": system, "frame": at, metric: value}
        for at, value in enumerate(values)
    ]


def test_means_leave_out_what_is_missing_and_say_so():
    (line,) = summary.table(rows([1.0, None, 3.0], "akd"))
    cell = line["cells"]["akd"]
    assert (cell.mean, cell.count, cell.total) == (2.0, 2, 3)
    assert summary.shown(cell, 2) == "2.00 (2/3)"
    assert summary.shown(None, 2) == "n/a"


def test_best_knows_which_way_is_better():
    cases = (("psnr", (20.0, 30.0), 30.0), ("lpips", (0.1, 0.3), 0.1), ("flicker", (0.5, 1.2), 1.2))
    for metric, values, best in cases:
        lines = summary.table([*rows(values[:1], metric, "a"), *rows(values[1:], metric, "b")])
        assert summary.best(lines, metric) == best


def test_interval_of_known_data():
    generator = np.random.default_rng(3)
    values = generator.normal(1.0, 2.0, 400)
    low, high = summary.interval(values)
    half = 1.96 * values.std() / np.sqrt(400)
    assert low == pytest.approx(values.mean() - half, abs=0.05)
    assert high == pytest.approx(values.mean() + half, abs=0.05)
    assert summary.interval(np.full(10, 0.25)) == (0.25, 0.25)
    assert summary.interval(values) == (low, high)  # one seed, one answer


def test_compare_pairs_frames():
    base = np.random.default_rng(4).normal(25, 5, 60)
    before = {"rows": rows(base.tolist())}
    after = {"rows": rows((base + 0.3).tolist())[:50]}  # far less than the spread, but in every frame
    (change,) = summary.compare(before, after)
    assert change.frames == 50
    assert change.verdict == "better"
    assert change.after - change.before == pytest.approx(0.3)
    assert (change.low, change.high) == pytest.approx((0.3, 0.3))
    (same,) = summary.compare(before, before)
    assert same.verdict == ""


def test_compare_needs_something_in_common():
    with pytest.raises(InputError, match="in common"):
        summary.compare({"rows": rows([1.0])}, {"rows": rows([1.0], system="other")})


def test_sinks_are_compared_view_by_view():
    flat = rows([20.0, 22.0], system="encoded, 2d sink") + rows([21.0, 21.5], system="photo on rig")
    deep = rows([20.5, 22.5], system="encoded, 3d sink")
    (change,) = summary.sink_effect(flat + deep)
    assert (change.system, change.before, change.after, change.verdict) == ("encoded", 21.0, 21.5, "better")
    assert summary.sink_effect(flat) == []


def test_csv_reads_back():
    lines = summary.table(rows([20.0, 30.0]))
    (line,) = csv.DictReader(io.StringIO(summary.as_csv(lines)))
    assert float(line["psnr"]) == 25
    assert line["lpips"] == ""
    assert len(list(csv.DictReader(io.StringIO(summary.frames_csv(rows([20.0, None])))))) == 2


def test_foreign_results_are_refused(tmp_path):
    path = tmp_path / "r.json"
    for content in ("", "[]", json.dumps({"format": 99, "rows": []}), json.dumps({"format": 1, "rows": [{}]})):
        path.write_text(content)
        with pytest.raises(InputError):
            summary.read_result(path)


def test_losses_are_listed():
    lines = summary.table([*rows([30.0], system="still photo"), *rows([25.0], system="fitted, 3d sink")])
    (loss,) = summary.losses(lines)
    assert (loss.winner, loss.winning, loss.ours) == ("still photo", 30.0, 25.0)
    text = summary.as_markdown(lines)
    assert "| still photo | **30.00** |" in text
    assert "- self, PSNR: still photo 30.00 against our best 25.00" in text
    assert summary.losses(summary.table(rows([25.0], system="fitted, 3d sink"))) == []
