"""Laws of smoothing in time."""

import numpy as np
import pytest

from flexavatar_cli.stages.tracking.smoothing import segments, smooth, smooth_rotations
from flexavatar_cli.stages.tracking.solver import rotation_of


@pytest.mark.parametrize("sigma", [0.0, 0.8, 3.0])
@pytest.mark.parametrize("frames", [1, 2, 7])
def test_constants_stay(sigma, frames):
    values = np.full((frames, 2, 2), 0.37)
    np.testing.assert_allclose(smooth(values, sigma), values)
    rotations = np.tile(rotation_of(np.array([0.3, 0.2, 0.1])), (frames, 1, 1))
    np.testing.assert_allclose(smooth_rotations(rotations, sigma), rotations, atol=1e-12)


def test_smoothing_calms_noise_and_keeps_lines():
    rng = np.random.default_rng(0)
    assert smooth(rng.normal(size=500), 0.8).std() < 0.65
    line = np.arange(50.0)
    np.testing.assert_allclose(smooth(line, 0.8)[5:-5], line[5:-5])


def test_smoothed_rotations_are_rotations():
    rng = np.random.default_rng(1)
    found = smooth_rotations(rotation_of(rng.normal(size=(20, 3)) * 0.3), 1.0)
    np.testing.assert_allclose(found @ found.transpose(0, 2, 1), np.tile(np.eye(3), (20, 1, 1)), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(found), 1)


def test_segments_end_at_gaps_and_cuts():
    valid = np.array([0, 1, 1, 0, 1, 1, 1], bool)
    jump = np.array([np.inf, np.inf, 0.1, np.inf, 0.1, 0.1, 0.9])
    assert [list(run) for run in segments(valid, jump, 0.5)] == [[1, 2], [4, 5], [6]]
