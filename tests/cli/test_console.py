import json
from pathlib import Path

import numpy as np
import pytest

from flexavatar_cli.cli import console


@pytest.fixture(autouse=True)
def released():
    yield
    console.release()


def test_report_is_one_json_object(capsys):
    console.configure(json=True, quiet=False, verbose=False)
    values = {"path": Path("a.mp4"), "array": np.eye(2), "one": np.float32(0.5), "lost": float("nan"), "set": (1, 2)}
    console.report(values, text="not this")
    expected = {"path": "a.mp4", "array": [[1, 0], [0, 1]], "one": 0.5, "lost": None, "set": [1, 2]}
    assert json.loads(capsys.readouterr().out) == expected


def test_report_for_people(capsys):
    console.configure(json=False, quiet=False, verbose=False)
    console.report({"a": 0.123456, "long": {"b": [1, 2]}, "c": True, "d": None})
    assert capsys.readouterr().out == "a     0.1235\nlong  b 1 2\nc     yes\nd     -\n"


def test_progress_is_silent_where_no_one_watches(capfd):
    with console.progress("Working", 3) as on_step:
        on_step(1, 3)
    assert capfd.readouterr() == ("", "")


def test_say_goes_to_stderr_unless_quiet(capsys):
    console.configure(json=False, quiet=False, verbose=False)
    console.say("hello")
    console.configure(json=False, quiet=True, verbose=False)
    console.say("not this")
    assert capsys.readouterr() == ("", "hello\n")
