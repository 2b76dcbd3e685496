"""Hostile pickles do not run and are named; arrays come back as they were."""

import io
import os
import pickle
import subprocess

import numpy as np
import pytest

from flexavatar_cli.core.safe_pickle import Refused, StandIn, read_arrays, stand_in


class Evil:
    """Unpickling it would run a command."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def read(content: object, **options: object) -> object:
    return read_arrays(io.BytesIO(pickle.dumps(content, protocol=2)), **options)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_arrays_and_containers_come_back(protocol):
    content = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": [1, 2.5, "x", None, True], "c": np.float64(3)}
    found = read_arrays(io.BytesIO(pickle.dumps(content, protocol=protocol)))
    assert (found["a"] == content["a"]).all()
    assert found["b"] == content["b"]
    assert found["c"] == 3


@pytest.mark.parametrize(
    ("evil", "name"),
    [
        (Evil(os.system, "touch {}"), "system"),
        (Evil(eval, "open({!r}, 'w')"), "eval"),
        (Evil(subprocess.check_output, ["touch", "{}"]), "check_output"),
        (Evil(getattr, os, "system"), "getattr"),
        (np.load, "load"),
    ],
)
def test_nothing_runs_and_the_culprit_is_named(evil, name, tmp_path):
    mark = tmp_path / "ran"
    if isinstance(evil, Evil) and evil.call[0] is not getattr:
        function, (argument, *_) = evil.call
        filled = (
            [part.format(str(mark)) for part in argument] if isinstance(argument, list) else argument.format(str(mark))
        )
        evil = Evil(function, filled)
    content = b"cnumpy\nload\n." if evil is np.load else None
    if isinstance(evil, Evil) and evil.call[0] is getattr:
        content = b"c__builtin__\ngetattr\n(cos\nsystem\nX\x01\x00\x00\x00atR."
    with pytest.raises(Refused, match=name):
        read_arrays(io.BytesIO(content or pickle.dumps({"a": [evil]}, protocol=2)))
    assert not mark.exists()


def test_stand_ins_cannot_be_used_to_reach_out():
    names = {("chumpy.ch", "Ch"): stand_in("chumpy.ch.Ch")}
    found = read_arrays(
        io.BytesIO(b"cchumpy.ch\nCh\n)\x81}(X\x01\x00\x00\x00xK\x01ub."), lambda m, n: names.get((m, n))
    )
    assert isinstance(found, StandIn)
    assert found.state == {"x": 1}
    rebuild = b"ccopy_reg\n_reconstructor\n(c__builtin__\nobject\nc__builtin__\nobject\nNtR."
    with pytest.raises(Refused, match="strange class"):
        read_arrays(io.BytesIO(rebuild), lambda m, n: None)


@pytest.mark.parametrize("content", [b"", b"\x80\x02", b"garbage", b"(lp0\n", b"\x80\x02U\x05ab.", b"\x80\x63."])
def test_damaged_pickles_are_refused(content):
    with pytest.raises(Refused):
        read_arrays(io.BytesIO(content))


def test_data_outside_the_pickle_is_refused():
    with pytest.raises(Refused, match="outside"):
        read_arrays(io.BytesIO(b"X\x01\x00\x00\x00aQ."))


def test_numpy_2_names_are_known():
    content = pickle.dumps(np.arange(3), protocol=2).replace(b"cnumpy.core.multiarray", b"cnumpy._core.multiarray")
    assert (read_arrays(io.BytesIO(content)) == np.arange(3)).all()


def test_python_2_pickles_with_arrays():
    state = b"\x00\x00\x80?"  # 1.0
    text = b"".join([
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I1\nt",
        b"cnumpy\ndtype\n(S'f4'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\nS'",
        repr(state)[2:-1].encode(),
        b"'\ntb.",
    ])  # fmt: skip
    assert read_arrays(io.BytesIO(text), encoding="latin1") == np.float32([1])
