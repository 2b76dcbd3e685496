"""Laws of smoothing in time."""

import numpy as np
import pytest

from flexavatar_cli.stages.tracking.landmarks import EYES_OUTER
from flexavatar_cli.stages.tracking.smoothing import CUT, cuts, runs, smooth, smooth_rotations
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


def test_runs_end_at_gaps_and_cuts():
    face = np.random.default_rng(2).uniform(0, 100, (478, 2))
    face[list(EYES_OUTER)] = [0, 0], [50, 0]
    steps = np.array([0, 0.9, 0.9, 0.9, 1.1]) * CUT * 50  # pixels
    seen = face + np.cumsum(steps)[:, None, None] * [0.6, 0.8]
    cut = cuts(seen)
    assert cut.tolist() == [False, False, False, False, True]
    assert [run.tolist() for run in runs(np.array([1, 2, 4, 5, 6]), cut)] == [[0, 1], [2, 3], [4]]
    assert [run.tolist() for run in runs(np.array([7]), cuts(seen[:1]))] == [[0]]
