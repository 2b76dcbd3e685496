"""Published `.frame`, crop and code files: read as they are written, refused when they are not what they seem."""

import io
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from flexavatar_cli.core.errors import InputError
from flexavatar_cli.media.frame_files import (
    ARRAYS,
    TrackedFrame,
    crop_box,
    frame_files,
    read_frame,
    read_npy,
    write_frame,
    write_npy,
)


@pytest.fixture
def frame() -> TrackedFrame:
    draw = np.random.default_rng(3)
    return TrackedFrame(**{name: draw.standard_normal(shape) for name, (_, shape) in ARRAYS.items()})


def rewritten(source: Path, target: Path, change) -> Path:
    """The archive with its pickle changed, as another program would write it."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, change(content) if name.endswith("data.pkl") else content)
    return target


def test_what_is_written_is_read(frame, tmp_path):
    again = read_frame(write_frame(frame, tmp_path / "00000.frame"))
    for name in ARRAYS:
        assert np.array_equal(getattr(again, name), getattr(frame, name)), name


def test_other_torch_programs_read_it_too(frame, tmp_path):
    path = write_frame(frame, tmp_path / "00007.frame", 7)
    safe = [np.core.multiarray._reconstruct, np.ndarray, np.dtype, type(np.dtype("f4")), type(np.dtype("i8"))]
    with torch.serialization.safe_globals(safe):
        content = torch.load(path, weights_only=True)
    assert content["frame_id"] == 7
    assert content["flame"]["exp"].shape == (1, 100)
    assert content["flame"]["R_rotation_matrix"].shape == (1, 3, 3)
    assert content["img_size"].tolist() == [256, 256]


def test_files_of_numpy_2_are_read(frame, tmp_path):
    path = write_frame(frame, tmp_path / "a.frame")

    def renamed(content: bytes) -> bytes:
        assert b"numpy.core.multiarray" in content
        return content.replace(b"cnumpy.core.multiarray", b"cnumpy._core.multiarray")

    again = read_frame(rewritten(path, tmp_path / "b.frame", renamed))
    assert np.array_equal(again.expression, frame.expression)


class Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def test_a_hostile_file_does_not_run_and_is_named(frame, tmp_path):
    mark = tmp_path / "ran"
    path = write_frame(frame, tmp_path / "good.frame")
    evil = rewritten(path, tmp_path / "evil.frame", lambda _: pickle.dumps({"flame": Evil(mark)}, protocol=2))
    with pytest.raises(InputError, match=r"evil.frame: .*system.*nothing was run"):
        read_frame(evil)
    assert not mark.exists()


def test_damaged_files_are_named(frame, tmp_path):
    good = write_frame(frame, tmp_path / "good.frame").read_bytes()
    path = tmp_path / "bad.frame"
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as made:
        made.writestr("x/data.pkl", pickle.dumps({"flame": {}}, protocol=2))
    for content in (b"", b"PK\x03\x04", good[:300], good[:-40], archive.getvalue()):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"bad\.frame"):
            read_frame(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_frame(tmp_path / "none.frame")


def test_a_folder_holds_one_sequence(frame, tmp_path):
    for number in (10, 2, 1):
        write_frame(frame, tmp_path / "seq" / "tracking" / "checkpoint" / f"{number:05d}.frame")
    assert [path.stem for path in frame_files(tmp_path)] == ["00001", "00002", "00010"]
    assert frame_files(tmp_path / "none") == []
    write_frame(frame, tmp_path / "other" / "checkpoint" / "00000.frame")
    with pytest.raises(InputError, match="2 tracked sequences"):
        frame_files(tmp_path)


def test_arrays_without_objects(tmp_path):
    path = write_npy(np.arange(6, dtype=np.float32).reshape(2, 3), tmp_path / "a.npy")
    assert read_npy(path).shape == (2, 3)
    path.write_bytes(path.read_bytes()[:90])
    with pytest.raises(InputError, match=r"a\.npy"):
        read_npy(path)
    with open(tmp_path / "o.npy", "wb") as stream:
        np.lib.format.write_array(stream, np.array([{"a": 1}], object))
    with pytest.raises(InputError, match=r"o\.npy"):
        read_npy(tmp_path / "o.npy")


def test_crop_boxes(tmp_path):
    assert crop_box(write_npy(np.array([1, 5, 2, 6], np.int32), tmp_path / "box.npy")) == (1, 5, 2, 6)
    for wrong in ([5, 1, 2, 6], [1, 2, 3], [0.5, 1, 2, 3]):
        with pytest.raises(InputError, match=r"box\.npy"):
            crop_box(write_npy(np.array(wrong), tmp_path / "box.npy"))
