"""Texture of unseen hair, made from the hair that a photo shows."""

import numpy as np
import pytest

from flexavatar_cli.stages.hair_detail import Swatch, laid_windows, window_places

PIXEL = 0.002


def swatch(detail: np.ndarray, hair: np.ndarray) -> Swatch:
    color = np.full((*hair.shape, 3), 0.3, np.float32)
    return Swatch(detail, color, hair, PIXEL)


def stripes(side: int) -> np.ndarray:
    """Strands that hang down: brightness changes across, not along."""
    return np.broadcast_to(0.2 * np.sin(np.arange(side) * 2.1), (side, side)).astype(np.float32)


def chart(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Places in a chart whose +x is down on the head: a quarter turn from the photo."""
    row, column = np.divmod(np.arange(side * side), side)
    places = np.stack([column, row], -1) * PIXEL
    points = np.stack([-places[:, 1], -places[:, 0], np.zeros(len(places))], -1)
    return places, points


def test_windows_lie_in_hair_alone():
    hair = np.zeros((40, 60), bool)
    hair[10:30, 10:40] = True
    places = window_places(swatch(np.zeros(hair.shape, np.float32), hair), radius=0.01)
    assert len(places) > 4
    assert places[:, 0].min() >= 14
    assert places[:, 0].max() <= 35
    assert len(window_places(swatch(np.zeros(hair.shape, np.float32), hair), radius=0.03)) == 0


def test_strands_keep_their_contrast_and_hang_down():
    photo = swatch(stripes(60), np.ones((60, 60), bool))
    sources = window_places(photo, 0.012)
    places, points = chart(40)
    laid = laid_windows(photo, sources, 0.012, places, points, np.full((1600, 3), 0.3), np.random.default_rng(0))
    picture = laid.reshape(40, 40)
    assert picture.std() == pytest.approx(photo.detail.std(), rel=0.25)
    along_x, along_y = np.abs(np.diff(picture, axis=1)).mean(), np.abs(np.diff(picture, axis=0)).mean()
    assert along_y > 3 * along_x  # the chart's x is the head's down, along which a strand does not change


def test_the_same_photo_gives_the_same_hair():
    photo = swatch(stripes(60), np.ones((60, 60), bool))
    places, points = chart(20)
    color = np.full((400, 3), 0.3)
    sources = window_places(photo, 0.012)
    first, second = (
        laid_windows(photo, sources, 0.012, places, points, color, np.random.default_rng(3)) for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)
