"""Views, and MediaPipe on a real picture that is moved, shrunk, turned and cut."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexavatar_cli.core.errors import InputError, UsageError
from flexavatar_cli.stages.tracking.landmarks import FaceFollower, View, eye_distance, face_height, view_of


@given(
    st.tuples(st.floats(-500, 500), st.floats(-500, 500)), st.floats(8, 4000), st.floats(-3.2, 3.2), st.integers(8, 600)
)
def test_points_return_from_the_view(centre, side, angle, size):
    view = View(centre, side, angle, size)
    points = np.array([[0.0, 0.0], [17.0, 400.0], [-3.0, 2.0]])
    np.testing.assert_allclose(view.points_back(view.points(points)), points, atol=1e-6 * (side + 500))
    np.testing.assert_allclose(view.points(np.array(centre)), size / 2, atol=1e-6)


@pytest.mark.parametrize("side", [128.0, 60.0, 400.0])
@pytest.mark.parametrize("angle", [0.0, 0.7])
def test_picture_and_points_of_a_view_agree(side, angle):
    rows, columns = np.mgrid[0:200, 0:200] + 0.5
    spot = np.array([90.3, 110.7])
    image = np.exp(-((columns - spot[0]) ** 2 + (rows - spot[1]) ** 2) / (2 * (side / 25) ** 2))
    picture = View((100, 100), side, angle, 128).image((np.repeat(image[..., None], 3, 2) * 255).astype(np.uint8))
    weight = picture[..., 0].astype(float)
    r, c = np.mgrid[0:128, 0:128] + 0.5
    centre = np.array([(c * weight).sum(), (r * weight).sum()]) / weight.sum()
    np.testing.assert_allclose(centre, View((100, 100), side, angle, 128).points(spot), atol=0.3)


def test_view_of_a_rolled_face_shows_it_upright():
    points = np.zeros((478, 2))
    points[10], points[152], points[33], points[263] = (100, 100), (200, 100), (130, 60), (130, 140)
    view = view_of(points)
    down = view.points(points[152]) - view.points(points[10])
    assert abs(down[0]) < 1e-6
    assert down[1] > 0


def look(image: np.ndarray, passes: int = 4) -> np.ndarray:
    with FaceFollower(passes=passes) as follow:
        found = follow(image)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def known(portrait) -> np.ndarray:
    return look(portrait)


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Mean distance as a fraction of the outer-eye distance."""
    return float(np.linalg.norm(found - expected, axis=-1).mean() / eye_distance(expected))


def test_landmarks_are_found_and_repeat(portrait, known):
    assert 100 < face_height(known) < 300
    np.testing.assert_array_equal(look(portrait), known)


@pytest.mark.parametrize("degrees", [45, -70, 180])
def test_rolled_faces_are_found(portrait, known, degrees):
    height, width = portrait.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, 250), degrees, 0.8)
    turned = cv2.warpAffine(portrait, matrix, (width, height), borderValue=(255, 255, 255))
    centres = known - 0.5  # cv2 puts pixel centres at integers
    assert difference(look(turned), centres @ matrix[:, :2].T + matrix[:, 2] + 0.5) < 0.03


def test_small_face_in_a_large_picture_is_found(portrait, known):
    scale = 45 / float(face_height(known))
    small = cv2.resize(portrait, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    page = np.full((900, 1300, 3), 200, np.uint8)
    page[500 : 500 + len(small), 900 : 900 + small.shape[1]] = small
    scale = small.shape[0] / portrait.shape[0]
    assert difference(look(page), known * scale + np.array([900, 500])) < 0.04


def test_face_at_the_border_is_found(portrait, known):
    x, y = (known.min(0) + 5).astype(int)
    assert difference(look(portrait[y:, x:].copy()), known - np.array([x, y])) < 0.04


def test_faces_are_chosen_by_size_or_number(portrait, known):
    half = cv2.resize(portrait, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    page = np.full((portrait.shape[0], portrait.shape[1] + half.shape[1], 3), 255, np.uint8)
    page[: len(half), : half.shape[1]] = half
    page[:, half.shape[1] :] = portrait
    sizes = []
    for face in ("largest", "0", "1"):
        with FaceFollower(face) as follow:
            sizes.append(float(face_height(follow(page))))
    assert sizes[0] == pytest.approx(sizes[2], rel=0.02)
    assert sizes[1] == pytest.approx(sizes[0] / 2, rel=0.1)
    with FaceFollower("5") as follow, pytest.raises(InputError, match="face 5"):
        follow(page)


def test_no_face_is_none(portrait):
    with FaceFollower() as follow:
        assert follow(np.full((240, 320, 3), 128, np.uint8)) is None
        assert follow(portrait) is not None


def test_face_must_be_a_number():
    with pytest.raises(UsageError):
        FaceFollower("smallest")
