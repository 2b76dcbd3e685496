"""Registration by looks, on a head with a painted skin whose poses are known."""

import numpy as np
import pytest
import torch

from flexavatar_cli.core.expression import INDEX
from flexavatar_cli.core.options import TrackOptions
from flexavatar_cli.render.mesh import rasterize_mesh
from flexavatar_cli.stages import tracking
from flexavatar_cli.stages.tracking import appearance, solver
from flexavatar_cli.stages.tracking.appearance import Look, Skin

FRAMES = 16
PLACE = np.array([0.02, -0.01, 1.0])


def painted(head, vertices: np.ndarray, pose: solver.Poses, lens: solver.Pinhole) -> np.ndarray:  # [512, 512, 3] uint8
    """The head with a pattern of a centimetre's scale painted on its template, seen by `lens`."""
    faces = head.faces.numpy()
    seen = pose.camera_points(vertices[None])[0]
    triangle, bary, _ = rasterize_mesh(lens.project(seen), seen[:, 2], faces, 512, 512)
    at = np.einsum("hwk,hwkc->hwc", bary, head.template.numpy()[faces[triangle]]) / 0.01
    x, y, z = np.moveaxis(at, -1, 0)
    pattern = np.sin(2.4 * x + 0.4 * z) + np.sin(2.2 * y - 0.5 * x) + np.sin(1.5 * (x + y))
    grey = np.where(triangle < 0, 255, 128 + 25 * pattern).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


@pytest.fixture(scope="module")
def film(head, model, lens, poses_of):
    """True poses and expression [T, 52] of a head that nods, turns and raises its brows; its looks."""
    time = np.linspace(0, 2 * np.pi, FRAMES)
    angles = np.stack([0.15 * np.sin(time), 0.1 * np.cos(time), 0.05 * np.sin(2 * time)], -1)
    poses = poses_of(angles, PLACE)
    expression = np.zeros((FRAMES, 52))
    expression[:, INDEX["browInnerUp"]] = 0.4 - 0.4 * np.cos(time)
    landmarks = lens.project(poses.camera_points(model.points(np.zeros(model.modes), expression)))
    looks = []
    for t in range(FRAMES):
        vertices = head.vertices(None, torch.from_numpy(np.pad(expression[t], (0, 7))).float()).numpy()
        looks.append(Look.of(painted(head, vertices.astype(np.float64), poses[[t]], lens), landmarks[t]))
    return poses, expression, looks


def blurred(poses: solver.Poses, seed: int = 0) -> solver.Poses:
    """Poses that are wrong by about half a degree and two millimetres."""
    rng = np.random.default_rng(seed)
    turn = solver.rotation_of(rng.normal(0, np.radians(0.5), (len(poses), 3)))
    return solver.Poses(
        turn @ poses.rotation, poses.translation + rng.normal(0, 1, (len(poses), 3)) * [2e-3, 2e-3, 4e-3]
    )


def degrees_off(found: solver.Poses, truth: solver.Poses) -> np.ndarray:  # [T, 3]
    error = np.degrees(solver.head_angles(found) - solver.head_angles(truth))
    return error - error.mean(0)  # the mean over the film is the landmarks' alone


def test_looks_tell_poses_and_brows(film, head, model, lens):
    truth, expression, looks = film
    start = blurred(truth)
    found, shapes = appearance.registered(
        Skin.of(head), looks, lens, start, np.zeros(model.modes), np.full_like(expression, 0.0)
    )
    before, after = degrees_off(start, truth).std(0), degrees_off(found, truth).std(0)
    assert (after < 0.4 * before).all()
    brow = INDEX["browInnerUp"]
    assert np.corrcoef(shapes[:, brow], expression[:, brow])[0, 1] > 0.98
    untouched = np.delete(shapes, appearance.BROWS, axis=1)
    assert (untouched == 0).all()
    assert shapes.min() >= 0


def test_hidden_faces_keep_the_landmarks_pose(film, head, model, lens):
    truth, expression, looks = film
    start = blurred(truth)
    noise = np.random.default_rng(1).integers(0, 255, looks[3].contrast.shape).astype(np.uint8)
    hidden = [Look(noise, look.view) if t == 3 else look for t, look in enumerate(looks)]
    found, shapes = appearance.registered(Skin.of(head), hidden, lens, start, np.zeros(model.modes), expression)
    np.testing.assert_array_equal(found.rotation[3], start.rotation[3])
    np.testing.assert_array_equal(shapes[3], expression[3])
    others = np.arange(FRAMES) != 3
    assert (degrees_off(found, truth)[others].std(0) < 0.7 * degrees_off(start, truth)[others].std(0)).all()


def test_looks_do_not_see_brightness(film):
    _, _, looks = film
    grey = np.random.default_rng(0).integers(60, 120, (96, 96)).astype(np.uint8)
    np.testing.assert_allclose(appearance._contrast(grey), appearance._contrast(grey + 90), atol=1e-4)
    assert looks[0].contrast.nbytes < 40_000  # a minute of video at 30 fps takes 70 MB


def test_a_film_is_registered_and_a_photo_is_not(film, head, model, lens):
    truth, expression, looks = film
    landmarks = lens.project(blurred(truth).camera_points(model.points(np.zeros(model.modes), expression)))

    steps: list[tuple[int, int]] = []

    def track(frames: int, seen: list[Look]) -> np.ndarray:
        options = TrackOptions(smoothing=0)  # in 16 frames round the circle it would cost half a degree
        known = {
            "focal_px": 1400,
            "head": head,
            "looks": seen,
            "on_step": lambda done, total: steps.append((done, total)),
        }
        return tracking.track_landmarks(landmarks[:frames], (512, 512), options, **known).cam2world

    few = tracking.FEWEST_LOOKS - 1
    np.testing.assert_array_equal(track(few, looks[:few]), track(few, []))
    errors = []
    for seen in ([], looks):
        rotation = track(FRAMES, seen)[:, :3, :3].transpose(0, 2, 1)
        errors.append(degrees_off(solver.Poses(rotation, np.tile(PLACE, (FRAMES, 1))), truth)[:, 0].std())
    assert errors[1] < 0.5 * errors[0]
    assert steps[-1] == (3 * FRAMES, 3 * FRAMES)
