"""Texture of unseen hair and skin, made from what a photo shows."""

import numpy as np
import pytest

from flexavatar_cli.stages.laid_detail import COMBED, Swatch, coherence, combed, laid_windows, window_places

PIXEL = 0.002


def swatch(detail: np.ndarray, there: np.ndarray) -> Swatch:
    color = np.full((*there.shape, 3), 0.3, np.float32)
    return Swatch(detail, color, there, PIXEL)


def stripes(side: int) -> np.ndarray:
    """Strands that hang down: brightness changes across, not along."""
    return np.broadcast_to(0.2 * np.sin(np.arange(side) * 2.1), (side, side)).astype(np.float32)


def wall(side: int, turn: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Points, row by row, and normals of an upright wall turned about the vertical."""
    row, column = np.divmod(np.arange(side * side), side)
    normal = np.array([np.sin(turn), 0.0, np.cos(turn)])
    across = np.array([np.cos(turn), 0.0, -np.sin(turn)])
    points = (column[:, None] * across - row[:, None] * np.array([0.0, 1.0, 0.0])) * PIXEL
    return points, np.tile(normal, (side * side, 1))


def test_windows_lie_in_hair_alone():
    hair = np.zeros((40, 60), bool)
    hair[10:30, 10:40] = True
    places = window_places(swatch(np.zeros(hair.shape, np.float32), hair), radius=0.01)
    assert len(places) > 4
    assert places[:, 0].min() >= 14
    assert places[:, 0].max() <= 35
    assert len(window_places(swatch(np.zeros(hair.shape, np.float32), hair), radius=0.03)) == 0


@pytest.mark.parametrize("turn", [0.0, 1.0, np.pi])
def test_strands_keep_their_contrast_and_hang_down(turn):
    photo = swatch(stripes(60), np.ones((60, 60), bool))
    sources = window_places(photo, 0.012)
    laid = laid_windows(photo, sources, 0.012, *wall(40, turn), np.full((1600, 3), 0.3), np.random.default_rng(0))
    picture = laid.reshape(40, 40)
    assert picture.std() == pytest.approx(photo.detail.std(), rel=0.25)
    along_x, along_y = np.abs(np.diff(picture, axis=1)).mean(), np.abs(np.diff(picture, axis=0)).mean()
    assert along_x > 3 * along_y


def test_sheets_that_lie_upon_one_another_get_one_texture():
    photo = swatch(stripes(60), np.ones((60, 60), bool))
    points, outward = wall(20)
    sources = window_places(photo, 0.012)
    laid = laid_windows(
        photo,
        sources,
        0.012,
        np.concatenate([points, points]),
        np.concatenate([outward, outward]),
        np.full((800, 3), 0.3),
        np.random.default_rng(0),
    )
    np.testing.assert_allclose(laid[:400], laid[400:], atol=1e-6)


def test_crown_has_a_texture_too():
    photo = swatch(stripes(60), np.ones((60, 60), bool))
    points, _ = wall(20)
    level = points[:, [0, 2, 1]]
    up = np.tile([0.0, 1.0, 0.0], (400, 1))
    sources = window_places(photo, 0.012)
    laid = laid_windows(photo, sources, 0.012, level, up, np.full((400, 3), 0.3), np.random.default_rng(0))
    assert laid.std() == pytest.approx(photo.detail.std(), rel=0.4)


def test_the_same_photo_gives_the_same_hair():
    photo = swatch(stripes(60), np.ones((60, 60), bool))
    points, outward = wall(20)
    color = np.full((400, 3), 0.3)
    sources = window_places(photo, 0.012)
    first, second = (
        laid_windows(photo, sources, 0.012, points, outward, color, np.random.default_rng(3)) for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)


def test_lively_windows_are_left_out():
    skin = np.ones((40, 80), bool)
    detail = stripes(80)[:40] * np.where(np.arange(80) < 40, 0.1, 1.0)
    everywhere = window_places(swatch(detail, skin), radius=0.008)
    calm = window_places(swatch(detail, skin), radius=0.008, liveliest=0.8)
    assert everywhere[:, 0].max() > 60
    assert 0 < len(calm) < len(everywhere)
    assert calm[:, 0].max() < 45


@pytest.mark.parametrize("turn", [0.0, np.pi / 2])
def test_lumps_are_combed_into_strands_of_the_same_contrast(turn):
    side = 40
    lumps = np.random.default_rng(0).normal(0, 0.1, side * side).astype(np.float32)
    points, outward = wall(side, turn)
    strands = combed(lumps, points, outward, 10 * PIXEL, PIXEL)
    picture = strands.reshape(side, side)
    assert strands.std() == pytest.approx(COMBED * lumps.std(), rel=1e-3)
    along_x, along_y = np.abs(np.diff(picture, axis=1)).mean(), np.abs(np.diff(picture, axis=0)).mean()
    assert along_x > 3 * along_y
    np.testing.assert_array_equal(combed(lumps, points, outward, 0.0, PIXEL), lumps)


def test_combing_stops_where_the_surface_ends():
    """Two walls far apart: each keeps its own brightness."""
    points, outward = wall(20)
    detail = np.repeat([0.1, -0.1], 400).astype(np.float32)
    both = np.concatenate([points, points - [0, 0.2, 0]])
    strands = combed(detail, both, np.concatenate([outward, outward]), 10 * PIXEL, PIXEL)
    np.testing.assert_allclose(strands, COMBED * detail, atol=1e-6)


def test_straight_hair_is_told_from_curls():
    there = np.ones((60, 60), bool)
    curls = np.random.default_rng(0).normal(0, 0.2, (60, 60)).astype(np.float32)
    assert coherence(swatch(stripes(60), there)) > 0.95
    assert coherence(swatch(curls, there)) < 0.35
    assert coherence(swatch(curls, np.zeros_like(there))) == 0
