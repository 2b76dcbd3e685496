"""Measures have closed forms on made-up pictures."""

import numpy as np
import pytest

from flexavatar_cli.evaluation import quality
from flexavatar_cli.stages import trajectories


def disk(radius: float, size: int = 128, centre: tuple[float, float] = (64, 64)) -> np.ndarray:
    rows, columns = np.mgrid[:size, :size] + 0.5
    return np.clip(radius + 0.5 - np.hypot(rows - centre[0], columns - centre[1]), 0, 1)


def test_psnr_inside_the_matte_only():
    target = np.full((8, 8, 3), 0.5)
    image = target.copy()
    image[:4] += 0.1
    image[4:] = 1.0
    mask = np.zeros((8, 8))
    mask[:4] = 1
    assert quality.psnr(image, target, mask) == pytest.approx(20)
    assert quality.psnr(target, target) == quality.HIGHEST_PSNR
    assert np.isnan(quality.psnr(image, target, np.zeros((8, 8))))


def test_iou_stops_at_the_shoulders_and_at_the_photos_border():
    alpha, matte = np.zeros((10, 10)), np.zeros((10, 10))
    alpha[:4], matte[:8] = 1, 1
    assert quality.silhouette_iou(alpha, matte, rows=10) == pytest.approx(0.5)
    assert quality.silhouette_iou(alpha, matte, rows=4) == 1
    inside = np.ones((10, 10))
    inside[4:] = 0
    assert quality.silhouette_iou(alpha, matte, rows=10, inside=inside) == 1
    assert np.isnan(quality.silhouette_iou(np.zeros((4, 4)), np.zeros((4, 4)), 4))


def test_shoulder_row_lies_below_the_chin():
    camera = trajectories.front(1, 512)
    row = quality.shoulder_row(camera)
    assert row == round(256 + 0.12 / 0.40 * 512)


def test_a_closed_head_has_no_holes_and_a_pierced_one_has():
    head = disk(50)
    assert quality.holes(head) == 0
    pierced = head * (1 - disk(5, centre=(60, 70)))
    area = np.pi * (50 - 1) ** 2
    assert quality.holes(pierced) == pytest.approx(np.pi * 5**2 / area, rel=0.3)
    assert quality.holes(np.zeros((16, 16))) == 1


def test_a_notch_at_the_border_is_outline():
    head = disk(50, centre=(80, 64))
    head[100:, 60:68] = 0  # between the shoulders, open to the lower border
    assert quality.holes(head) < 0.01


def test_agreement_looks_at_the_heads_only():
    white, head = np.ones((128, 128, 3)), disk(40)
    before = white - 0.5 * head[..., None]
    after = white - 0.6 * head[..., None]
    assert quality.agreement((before, head), (after, head)) == pytest.approx(20, abs=0.1)
    assert quality.psnr(before, after) > 22  # white surroundings flatter


def test_colour_noise_tells_noise_from_shading():
    head = disk(50)
    smooth = np.repeat(np.linspace(0.2, 0.8, 128)[:, None, None], 128, 1) * [1, 0.8, 0.7]
    assert quality.colour_noise(smooth, head) < 1
    noise = smooth + np.random.default_rng(0).normal(0, 0.1, smooth.shape)
    assert quality.colour_noise(noise, head) > 10
