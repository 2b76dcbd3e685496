"""Gaze and lids from exact landmarks."""

import numpy as np
import pytest
import torch

from flexavatar_cli.core.expression import ARKIT_NAMES, INDEX
from flexavatar_cli.stages.tracking import eyes, solver


@pytest.mark.parametrize("angles", [(0.0, 0.0, 0.0), (0.3, -0.2, 0.2)])
def test_gaze_of_exact_irises_is_exact(head, model, lens, angles, poses_of):
    code = torch.zeros(59)
    gaze = torch.tensor([0.2, -0.1, 0.25, -0.1])
    code[[INDEX[n] for n in ("gazeLeftYaw", "gazeLeftPitch", "gazeRightYaw", "gazeRightPitch")]] = gaze
    points = head.landmarks(head.vertices(None, code)).double().numpy()[None]
    poses = poses_of(np.array([angles]), np.array([0.0, 0.02, 0.8]))
    seen = lens.project(poses.camera_points(points))
    found = eyes.seen_gaze(model, seen, lens, poses, np.zeros(model.modes), np.zeros((1, 52)))
    np.testing.assert_allclose(found.ravel(), gaze.numpy(), atol=0.02)


def test_gaze_is_held_through_a_blink_and_zero_without_irises():
    raw = np.zeros((5, 2, 2))
    raw[:, :, 0] = np.array([0.1, 0.1, 0.9, 0.1, 0.1])[:, None]
    trusted = np.array([True, True, False, True, True])
    held = eyes.true_gaze(raw, trusted)
    np.testing.assert_allclose(held[2], held[1])
    assert not eyes.true_gaze(raw, np.zeros(5, bool)).any()


def test_look_shapes_point_where_the_eyes_do():
    gaze = np.array([[[0.2, 0.1], [0.2, 0.1]], [[-0.2, -0.1], [-0.2, -0.1]]])
    found = {ARKIT_NAMES[row]: weight for row, weight in eyes.look_shapes(gaze).items()}
    for name in ("eyeLookOutLeft", "eyeLookInRight", "eyeLookUpLeft", "eyeLookUpRight"):
        assert found[name][0] > 0
        assert found[name][1] == 0
    for name in ("eyeLookInLeft", "eyeLookOutRight", "eyeLookDownLeft", "eyeLookDownRight"):
        assert found[name][0] == 0
        assert found[name][1] > 0


@pytest.mark.parametrize("angles", [(0.0, 0.0, 0.0), (0.4, 0.2, 0.3)])
def test_lid_opening_does_not_depend_on_the_pose(model, lens, angles, poses_of):
    closed = np.zeros((1, 52))
    closed[0, eyes.BLINKS[0]] = 1
    poses = poses_of(np.array([angles]), np.array([0.0, 0.02, 0.8]))
    zero = np.zeros(model.modes)
    seen = lens.project(poses.camera_points(model.points(zero, closed)))
    left, right = eyes.lid_opening(model, seen, lens, poses, zero, np.zeros((1, 52)))[0]
    assert left < 0.35
    assert right == pytest.approx(1, abs=1e-9)


def test_blinks_run_from_the_persons_open_eyes_to_closed():
    opening = np.tile([0.8, 0.8], (100, 1))
    opening[50] = eyes.CLOSED * 0.8
    reference = eyes.open_eyes(opening, 1.0)
    np.testing.assert_allclose(reference, 0.8, atol=0.03)
    blink = eyes.blinks(opening, reference)
    assert not blink[0].any()
    np.testing.assert_allclose(blink[50], 1, atol=0.05)
    assert not eyes.wides(opening, reference).any()
    assert (eyes.wides(opening * 1.4, reference) > 0.5)[0].all()


def test_reference_of_one_photo_is_the_prior():
    np.testing.assert_allclose(eyes.open_eyes(np.array([[0.4, 0.5]]), 1.0), 1.0)


def test_irises_are_no_evidence_for_the_pose(model):
    assert not model.used[solver.IRISES].any()
