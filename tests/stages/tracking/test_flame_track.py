"""FLAME fitted to landmarks that a known FLAME head made."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from flexavatar_cli.core.errors import WeightsError
from flexavatar_cli.core.expression import EXPRESSION_NAMES, INDEX
from flexavatar_cli.core.flame import FLAME_NAMES, rotation_from_6d
from flexavatar_cli.core.track import Track
from flexavatar_cli.heads.flame import FlameHead
from flexavatar_cli.stages.tracking import solver
from flexavatar_cli.stages.tracking.flame import Rows, track_flame

JAWS = (0.0, 0.1, 0.25)  # radians
FOCAL, SIZE = 1500.0, 512


@pytest.fixture(scope="module")
def poses() -> solver.Poses:
    turns = Rotation.from_rotvec([[0, 0, 0], [0.1, 0.2, 0], [0, -0.3, 0.1]]).as_matrix() @ np.diag([1.0, -1, -1])
    return solver.Poses(turns, np.array([[0, 0, 1.0], [0.02, 0.01, 1.1], [-0.03, 0, 0.95]]))


@pytest.fixture(scope="module")
def seen(flame: FlameHead, poses) -> Track:
    """Landmarks of a person whose jaw opens, and what the open head's track would add to them."""
    shape, expression = torch.zeros(10), torch.zeros(3, 100)
    shape[:3] = torch.tensor([1.0, -1.0, 0.5])
    rotations = torch.eye(3).repeat(3, 5, 1, 1)
    rotations[:, 2] = torch.from_numpy(solver.rotation_of(np.outer(JAWS, [1, 0, 0]))).float()
    points = flame.landmarks(flame.vertices(shape, expression, rotations)).double().numpy()
    intrinsics = np.array([[FOCAL, 0, SIZE / 2], [0, FOCAL, SIZE / 2], [0, 0, 1]])
    pixels = solver.Pinhole(FOCAL, (SIZE / 2, SIZE / 2)).project(poses.camera_points(points))
    arkit = np.zeros((3, len(EXPRESSION_NAMES)), np.float32)
    arkit[1, [INDEX["gazeLeftYaw"], INDEX["eyeBlinkLeft"]]] = 0.2, 1
    return Track(
        cam2world=np.tile(np.eye(4), (3, 1, 1)),
        intrinsics=np.tile(intrinsics, (3, 1, 1)),
        size=np.array([SIZE, SIZE]),
        fps=25.0,
        expression_code=arkit,
        expression_names=EXPRESSION_NAMES,
        identity=np.zeros(5, np.float32),
        confidence=np.ones(3, np.float32),
        reprojection_px=np.zeros(3, np.float32),
        landmarks=pixels.astype(np.float32),
        head_model="open-head",
    )


@pytest.fixture(scope="module")
def found(seen, flame) -> Track:
    return track_flame(seen, flame)


def test_landmarks_cameras_and_jaw_come_back(found, poses):
    assert found.expression_names == FLAME_NAMES
    assert found.reprojection_px.max() < 0.6, "pixels of 512"
    truth = poses.cam2world()
    assert np.abs(found.cam2world[:, :3, 3] - truth[:, :3, 3]).max() < 0.06, "metres; depth trades with size"
    turn = Rotation.from_matrix(found.cam2world[:, :3, :3] @ truth[:, :3, :3].transpose(0, 2, 1))
    assert np.degrees(turn.magnitude()).max() < 3
    jaw = Rotation.from_matrix(rotation_from_6d(found.expression_code[:, 120:126])).as_rotvec()[:, 0]
    assert np.diff(jaw).min() > 0.02
    assert np.abs(jaw - JAWS).max() < 0.1


def test_gaze_and_lids_are_taken_over(found):
    ahead = rotation_from_6d(found.expression_code[1, 100:106]) @ [0, 0, 1]
    np.testing.assert_allclose(ahead, [np.sin(0.2), 0, np.cos(0.2)], atol=1e-6)
    assert found.expression_code[1, 112] == pytest.approx(0.8)
    assert (found.expression_code[:, 114:120] == [1, 0, 0, 0, 1, 0]).all(), "the neck rests"


def test_nothing_is_smoothed_across_a_cut(seen, flame):
    """Landmarks that jump across the picture: the second and third frame share no values with the first."""
    landmarks = seen.landmarks[[0, 1, 1]] + np.array([[[0, 0]], [[150, 0]], [[150, 0]]], np.float32)
    cut = Track(**(vars(seen) | {"landmarks": landmarks, "expression_code": seen.expression_code[[0, 1, 1]]}))
    rough, calm = (track_flame(cut, flame, smoothing) for smoothing in (0.0, 2.0))
    np.testing.assert_allclose(calm.cam2world, rough.cam2world, atol=1e-3)
    np.testing.assert_allclose(calm.expression_code, rough.expression_code, atol=0.02)


def test_frames_without_a_face_repeat_a_neighbour(seen, flame):
    values = vars(seen) | {"confidence": np.array([0, 1, 0], np.float32)}
    result = track_flame(Track(**values), flame)
    assert np.array_equal(result.expression_code[0], result.expression_code[2])
    assert result.confidence.tolist() == [0, 1, 0]


def test_rows_are_the_heads_own_landmarks(flame):
    """The tracker's small model equals the full skinned head where the landmarks are."""
    draw = np.random.default_rng(0)
    shape, expression, jaw = 0.5 * draw.standard_normal(100), 0.5 * draw.standard_normal(100), np.array([0.3, 0.05, 0])
    rows = Rows.of(flame)
    rotations = torch.eye(3).repeat(5, 1, 1)
    rotations[2] = torch.from_numpy(solver.rotation_of(jaw)).float()
    vertices = flame.vertices(torch.from_numpy(shape).float(), torch.from_numpy(expression).float(), rotations)
    wanted = flame.landmarks(vertices).numpy()[rows.used]
    eyes = flame.skin_weights[:, 3:].sum(-1)[flame.faces[flame.landmark_face]].sum(-1).numpy()[rows.used] > 0
    assert np.abs(rows.points(shape, expression, jaw) - wanted)[~eyes].max() < 1e-5
    slopes = rows.slopes(jaw, with_shape=True)
    for column in (3, 150):
        step = np.zeros(200)
        step[column] = 1e-4
        moved = rows.points(shape + step[100:], expression + step[:100], jaw)
        numeric = (moved - rows.points(shape, expression, jaw)) / 1e-4
        np.testing.assert_allclose(slopes[..., column], numeric, atol=1e-8)


def test_a_head_without_landmarks_is_refused(flame_file, seen):
    from flexavatar_cli.heads.flame import load_flame

    with pytest.raises(WeightsError, match="models add flame"):
        track_flame(seen, load_flame(flame_file))
