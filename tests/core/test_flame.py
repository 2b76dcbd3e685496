"""The 135-d code and its 6-D rotations."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from flexavatar_cli.core.flame import (
    FLAME_NAMES,
    expression_code,
    neutral_code,
    proper_rotation,
    rotation_from_6d,
    rotation_to_6d,
)


def test_the_neutral_code_is_the_published_one():
    code = neutral_code()
    ones = [100, 104, 106, 110, 114, 118, 120, 124, 126, 130]
    assert code.shape == (135,) == (len(FLAME_NAMES),) == (len(set(FLAME_NAMES)),)
    assert np.flatnonzero(code).tolist() == ones
    assert (code[ones] == 1).all()


def test_parts_go_where_the_layout_says():
    code = expression_code(expression=np.ones((2, 100)), jaw=np.full(6, 3.0), translation=[7, 8, 9], eyelids=[4, 5])
    assert code.shape == (2, 135)
    assert (code[:, :100] == 1).all()
    assert (code[0, 120:126] == 3).all()
    assert code[1, 132:].tolist() == [7, 8, 9]
    assert code[1, 112:114].tolist() == [4, 5]
    with pytest.raises(ValueError, match="tongue"):
        expression_code(tongue=1)


def test_rotations_survive_the_six_numbers():
    turns = Rotation.random(5, random_state=0).as_matrix()
    np.testing.assert_allclose(rotation_from_6d(rotation_to_6d(turns)), turns, atol=1e-12)
    np.testing.assert_allclose(rotation_from_6d(2.5 * rotation_to_6d(turns)), turns, atol=1e-12)


def test_the_nearest_rotation_is_proper():
    turn = Rotation.from_rotvec([0.1, 0.5, -0.2]).as_matrix()
    np.testing.assert_allclose(proper_rotation(1.3 * turn), turn, atol=1e-12)
    assert np.linalg.det(proper_rotation(np.diag([1.0, 1, -1]))) == pytest.approx(1)
