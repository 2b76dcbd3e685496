"""The file of a track, and how its frames are named."""

import numpy as np
import pytest

from flexavatar_cli.core.errors import InputError
from flexavatar_cli.core.track import Track, name_frames


def test_a_single_array_is_no_track(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(3))
    with pytest.raises(InputError, match=r"a\.npy: not a track file \(one array alone"):
        Track.load(tmp_path / "a.npy")


def test_frame_numbers_read_as_ranges():
    assert name_frames([0, 1, 2, 5, 7, 8]) == "0-2, 5, 7-8"
    assert name_frames(np.array([3])) == "3"
    assert name_frames([]) == ""
