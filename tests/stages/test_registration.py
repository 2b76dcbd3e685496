"""Cameras around a head are placed in another's space by the landmarks that they see."""

import numpy as np
import pytest

from flexavatar_cli.core.camera import Camera
from flexavatar_cli.stages.registration import (
    Registration,
    Similarity,
    registered,
    robust_similarity,
    similarity_between,
    triangulated,
)
from flexavatar_cli.stages.tracking.solver import rotation_of
from flexavatar_cli.stages.trajectories import turn

AZIMUTHS = np.radians([-60.0, -30.0, 0.0, 30.0, 60.0, 180.0])
MOVE = Similarity(0.93, rotation_of(np.array([0.08, -0.06, 0.03])), np.array([0.01, -0.02, 0.015]))


@pytest.fixture(scope="module")
def landmarks() -> np.ndarray:
    """478 points on the front of a sphere the size of a face."""
    generator = np.random.default_rng(0)
    points = generator.normal(size=(478, 3))
    points[:, 2] = np.abs(points[:, 2])
    return 0.09 * points / np.linalg.norm(points, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def rig() -> Camera:
    return turn(AZIMUTHS, 512)


def place(found: Registration, rig: Camera) -> tuple[float, float]:
    """How far the cameras are off: metres, degrees."""
    wanted = MOVE.camera(rig).cam2world
    shift = np.linalg.norm(found.camera.cam2world[:, :3, 3] - wanted[:, :3, 3], axis=-1).max()
    turned = np.einsum("vij,vij->v", found.camera.cam2world[:, :3, :3], wanted[:, :3, :3])
    return float(shift), float(np.degrees(np.arccos(np.clip((turned.min() - 1) / 2, -1, 1))))


def test_a_similarity_is_found_again(landmarks):
    found = similarity_between(landmarks, MOVE.points(landmarks), np.ones(478))
    assert found.scale == pytest.approx(MOVE.scale)
    assert found.rotation == pytest.approx(MOVE.rotation, abs=1e-9)
    assert found.shift == pytest.approx(MOVE.shift, abs=1e-9)


def test_a_third_of_made_up_landmarks_turns_no_head(landmarks):
    moved = MOVE.points(landmarks)
    moved[landmarks[:, 0] > 0.04, 2] += 0.01
    sigma = np.full(478, 0.001)
    plain = similarity_between(landmarks, moved, sigma**-2.0).rotation
    robust = robust_similarity(landmarks, moved, sigma).rotation
    assert np.abs(robust - MOVE.rotation).max() < 0.5 * np.abs(plain - MOVE.rotation).max()


def test_lines_of_sight_meet_in_the_points(landmarks, rig):
    seen, _ = rig.project(landmarks)
    points, error = triangulated(rig, seen)
    assert points == pytest.approx(landmarks, abs=1e-9)
    assert error.max() < 1e-6


def test_cameras_find_their_places(landmarks, rig):
    """With noise, with landmarks that the 60 degree views guess, and with a face seen on the back of the head."""
    generator = np.random.default_rng(1)
    seen, _ = rig.project(landmarks)
    faces: list[np.ndarray | None] = [*(seen + generator.normal(0, 0.7, seen.shape))]
    for view, side in ((0, landmarks[:, 0] > 0.03), (4, landmarks[:, 0] < -0.03)):
        faces[view][side] += generator.normal(0, 12, (int(side.sum()), 2))
    faces[5] = faces[5] + generator.normal(0, 60, faces[5].shape)
    found = registered(rig, faces, MOVE.points(landmarks), np.full(478, 0.02), rig)
    assert found.views == [0, 1, 2, 3, 4]
    shift, degrees = place(found, rig)
    assert shift < 0.01  # of about a metre: a half of a percent in scale
    assert degrees < 0.3
    assert found.residual < 0.002
    assert "5 views" in found.words


def test_one_view_of_the_face_is_too_few(landmarks, rig):
    seen, _ = rig.project(landmarks)
    faces = [None, None, seen[2], None, None, None]
    found = registered(rig, faces, landmarks, np.ones(478), MOVE.camera(rig))
    assert found.views == []
    assert found.camera.cam2world == pytest.approx(MOVE.camera(rig).cam2world)
    assert "alone" in found.words
