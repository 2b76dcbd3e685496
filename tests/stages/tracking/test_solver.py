"""Closed forms of the solver: derivatives, what exact landmarks give back, and its symmetries."""

import numpy as np
import pytest

from flexavatar_cli.core.expression import ARKIT_NAMES
from flexavatar_cli.stages.tracking import solver

FREE = solver.Weights(identity=1e-6, lasso=1e-6, opposed=0.0)
NEUTRAL = np.zeros((1, 52))


def expression(**weights: float) -> np.ndarray:
    e = np.zeros((1, 52))
    for name, value in weights.items():
        e[0, ARKIT_NAMES.index(name)] = value
    return e


def test_rotation_of_is_a_rotation_about_its_vector():
    vector = np.array([[0.3, -0.2, 0.9], [0.0, 0.0, 0.0], [np.pi, 0.0, 0.0]])
    rotation = solver.rotation_of(vector)
    np.testing.assert_allclose(rotation @ rotation.transpose(0, 2, 1), np.tile(np.eye(3), (3, 1, 1)), atol=1e-12)
    np.testing.assert_allclose((rotation @ vector[:, :, None])[..., 0], vector, atol=1e-12)
    assert np.trace(rotation[2]) == pytest.approx(-1)


def test_jacobian_is_that_of_finite_differences(model, lens, poses_of):
    rng = np.random.default_rng(0)
    poses = poses_of(np.array([[0.4, -0.2, 0.1]]), np.array([0.03, 0.02, 0.9]))
    rotation, translation = poses.rotation[0], poses.translation[0]
    rows = model.used
    points = model.points(rng.normal(size=model.modes), np.full(52, 0.1))[rows]
    view = solver._Frame(model, rng.normal(256, 50, (478, 2)), lens, 1400.0)
    by_pose, by_point = view.jacobian(rotation, translation, points)
    step = 1e-6
    for k in range(6):
        vector = np.zeros(6)
        vector[k] = step
        values = [
            view.residuals(solver.rotation_of(s * vector[:3]) @ rotation, translation + s * vector[3:], points)
            for s in (1, -1)
        ]
        np.testing.assert_allclose(by_pose[..., k], (values[0] - values[1]) / (2 * step), rtol=1e-5, atol=1e-3)
    for k in range(3):
        shift = np.eye(3)[k] * step
        values = [view.residuals(rotation, translation, points + s * shift) for s in (1, -1)]
        np.testing.assert_allclose(by_point[..., k], (values[0] - values[1]) / (2 * step), rtol=1e-5, atol=1e-3)


def test_exact_landmarks_without_priors_give_back_pose_and_expression(model, lens, faces, poses_of):
    angles = np.array([[0.5, -0.2, 0.3]])
    truth = expression(jawOpen=0.6, mouthSmileLeft=0.4, browInnerUp=0.5)
    seen = faces(angles, truth, np.zeros(model.modes))
    found = solver.solve(model, seen, lens, FREE, identity=np.zeros(model.modes), most_iterations=100, tolerance=1e-9)
    np.testing.assert_allclose(found.expression, truth, atol=0.02)
    np.testing.assert_allclose(found.poses.rotation, poses_of(angles, np.zeros(3)).rotation, atol=2e-3)
    np.testing.assert_allclose(found.poses.translation[0], [0.02, -0.01, 1.0], atol=2e-3)


@pytest.mark.parametrize("yaw", [-60, -25, 0, 25, 60])
def test_pose_is_found_from_the_closed_form_start(model, lens, faces, yaw, poses_of):
    rng = np.random.default_rng(1)
    angles = np.radians([[yaw, 12.0, -20.0]])
    seen = faces(angles, NEUTRAL, 0.7 * rng.normal(size=model.modes))
    found = solver.solve(model, seen, lens, solver.Weights())
    turn = found.poses.rotation[0] @ poses_of(angles, np.zeros(3)).rotation[0].T
    assert np.degrees(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1))) < 4


def test_several_views_tell_the_identity(model, lens, faces):
    rng = np.random.default_rng(2)
    identity = np.zeros(model.modes)
    identity[:10] = rng.normal(size=10)
    angles = np.radians([[-40, 0, 0], [-15, 10, 0], [0, -10, 5], [20, 0, 0], [45, 5, 0]])
    seen = faces(angles, np.zeros((5, 52)), identity)
    joint = solver.solve(model, seen, lens, solver.Weights(identity=0.1))
    error = model.identity @ (joint.identity - identity)
    truth = model.identity @ identity
    error, truth = (v - v.mean(0) for v in (error, truth))
    assert np.linalg.norm(error) < 0.4 * np.linalg.norm(truth)


def test_expression_stays_in_bounds_and_faces_at_rest_have_none(model, lens, faces):
    rng = np.random.default_rng(3)
    seen = faces(np.zeros((1, 3)), expression(jawOpen=1.4, mouthSmileLeft=1.3), np.zeros(model.modes))
    wild = solver.solve(model, seen, lens, FREE, identity=np.zeros(model.modes))
    assert wild.expression.min() >= 0
    assert wild.expression.max() <= 1
    noise = rng.normal(0, 0.5, (1, 478, 2))
    calm = solver.solve(model, faces(np.zeros((1, 3)), NEUTRAL, np.zeros(model.modes)) + noise, lens, solver.Weights())
    assert calm.expression.sum() < 0.3


def test_wrong_landmarks_hardly_move_the_pose(model, lens, faces):
    seen = faces(np.zeros((1, 3)), NEUTRAL, np.zeros(model.modes))
    broken = seen.copy()
    broken[:, ::12] += 40
    found = [solver.solve(model, s, lens, solver.Weights()) for s in (seen, broken)]
    angles = np.degrees([solver.head_angles(f.poses)[0] for f in found])
    assert np.abs(angles[0] - angles[1]).max() < 3


def test_moving_picture_and_principal_point_together_changes_nothing(model, lens, faces):
    seen = faces(np.radians([[10.0, 5.0, 0.0]]), expression(jawOpen=0.3), np.zeros(model.modes))
    shift = np.array([37.0, -80.0])
    moved = solver.Pinhole(lens.focal, tuple(np.asarray(lens.centre) + shift))
    one, two = (
        solver.solve(model, seen, lens, solver.Weights()),
        solver.solve(model, seen + shift, moved, solver.Weights()),
    )
    np.testing.assert_allclose(one.poses.translation, two.poses.translation, atol=1e-6)
    np.testing.assert_allclose(one.expression, two.expression, atol=1e-5)


def test_scaling_picture_and_focal_length_together_changes_nothing(model, lens, faces):
    seen = faces(np.radians([[10.0, 5.0, 0.0]]), expression(jawOpen=0.3), np.zeros(model.modes))
    larger = solver.Pinhole(3 * lens.focal, tuple(3 * np.asarray(lens.centre)))
    one, two = (
        solver.solve(model, seen, lens, solver.Weights()),
        solver.solve(model, 3 * seen, larger, solver.Weights()),
    )
    np.testing.assert_allclose(one.poses.translation, two.poses.translation, atol=1e-6)
    np.testing.assert_allclose(one.expression, two.expression, atol=1e-5)


def test_opposed_shapes_are_not_used_together(model, lens, faces):
    rng = np.random.default_rng(4)
    for _ in range(3):
        seen = faces(np.zeros((1, 3)), NEUTRAL, rng.normal(size=model.modes)) + rng.normal(0, 1, (1, 478, 2))
        found = solver.solve(model, seen, lens, solver.Weights()).expression[0]
        for pair in solver.OPPOSED:
            assert min(found[ARKIT_NAMES.index(name)] for name in pair) < 0.05


def test_head_angles_are_those_the_pose_was_made_of(poses_of):
    angles = np.array([[0.4, -0.2, 0.1], [-0.9, 0.3, -0.5], [0.0, 0.0, 0.0]])
    poses = poses_of(angles, np.array([0.0, 0.0, 1.0]))
    np.testing.assert_allclose(solver.head_angles(poses), angles, atol=1e-12)


def test_head_that_faces_the_camera_from_the_border_has_no_angles():
    sight = np.array([0.3, 0.0, 1.0])
    turn = solver.rotation_of(np.array([0.0, np.arctan2(0.3, 1.0), 0.0]))
    poses = solver.Poses((turn @ solver.FRONTAL)[None], sight[None])
    np.testing.assert_allclose(solver.head_angles(poses), 0, atol=1e-12)


def test_cameras_project_like_the_poses(model, lens, faces, poses_of):
    from flexavatar_cli.core.camera import Camera

    poses = poses_of(np.array([[0.3, 0.1, -0.2]]), np.array([0.02, -0.01, 1.0]))
    intrinsics = np.array([[lens.focal, 0, 256.0], [0, lens.focal, 256.0], [0, 0, 1]])
    pixels, _ = Camera(poses.cam2world(), intrinsics, 512, 512).project(model.mean)
    np.testing.assert_allclose(pixels, faces(np.array([[0.3, 0.1, -0.2]]), NEUTRAL, np.zeros(model.modes)), atol=1e-8)


def test_landmark_rows_are_those_of_the_head(head, model):
    import torch

    generator = torch.Generator().manual_seed(0)
    identity = torch.randn(model.modes, generator=generator)
    code = torch.zeros(59)
    code[:52] = torch.rand(52, generator=generator) * 0.3
    expected = head.landmarks(head.vertices(identity, code)).numpy()
    found = model.points(identity.double().numpy(), code[:52].double().numpy())
    np.testing.assert_allclose(found, expected, atol=2e-6)
    centres = model.eye_centres + model.eye_identity @ identity.double().numpy()
    np.testing.assert_allclose(centres, head.eye_centres(identity).numpy(), atol=2e-6)


def test_what_is_held_stays(model, lens, faces, poses_of):
    angles = np.array([[0.2, -0.1, 0.0]])
    truth = expression(jawOpen=0.6, browInnerUp=0.5)
    seen = faces(angles, truth, np.zeros(model.modes))
    start = solver.Solution(poses_of(angles + 0.01, np.array([0.02, -0.01, 1.0])), np.zeros(model.modes), NEUTRAL, 0, 0)
    held = (solver.POSE, "browInnerUp")
    found = solver.solve(model, seen, lens, FREE, np.zeros(model.modes), start, held)
    np.testing.assert_array_equal(found.poses.rotation, start.poses.rotation)
    np.testing.assert_array_equal(found.poses.translation, start.poses.translation)
    assert found.expression[0, ARKIT_NAMES.index("browInnerUp")] == 0
    assert found.expression[0, ARKIT_NAMES.index("jawOpen")] > 0.3
