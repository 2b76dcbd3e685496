"""The file of a track."""

import numpy as np
import pytest

from flexavatar_cli.core.errors import InputError
from flexavatar_cli.core.track import Track


def test_a_single_array_is_no_track(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(3))
    with pytest.raises(InputError, match=r"a\.npy: not a track file \(one array alone"):
        Track.load(tmp_path / "a.npy")
