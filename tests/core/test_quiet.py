"""Libraries that write to the terminal past Python."""

import os
import warnings

import pytest

from flexavatar_cli.core.quiet import native_silence


def test_chatter_is_swallowed_and_what_comes_after_is_not(capfd):
    with native_silence():
        os.write(2, b"native chatter")
        warnings.warn("a warning", stacklevel=1)
    os.write(2, b"after")
    assert capfd.readouterr().err == "after"


def test_what_was_written_before_a_failure_is_shown(capfd):
    @native_silence()
    def fails() -> None:
        os.write(2, b"native reason")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert capfd.readouterr().err == "native reason"
