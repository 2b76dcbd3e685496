"""The measures of `eval` against closed forms and against the libraries that papers use."""

import numpy as np
import pytest

from flexavatar_cli.evaluation import metrics
from flexavatar_cli.evaluation.quality import psnr


@pytest.fixture
def pair(picture) -> tuple[np.ndarray, np.ndarray]:
    """A picture [48, 64, 3] and a disturbed copy."""
    noise = np.random.default_rng(0).normal(0, 0.08, picture.shape)
    return picture, np.clip(picture + noise, 0, 1).astype(np.float32)


def test_equal_pictures_are_perfect(picture):
    similar = metrics.ssim_map(picture, picture)
    assert psnr(picture, picture) == 99.0
    assert metrics.ssim_mean(similar) == pytest.approx(1)
    assert metrics.ssim_mean(similar, np.ones(picture.shape[:2])) == pytest.approx(1)


def test_psnr_and_ssim_are_those_of_scikit_image(pair):
    reference = pytest.importorskip("skimage.metrics", reason="scikit-image")
    one, two = pair
    assert psnr(two, one) == pytest.approx(reference.peak_signal_noise_ratio(one, two, data_range=1), abs=1e-4)
    expected = reference.structural_similarity(
        one, two, data_range=1, channel_axis=-1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert metrics.ssim_mean(metrics.ssim_map(two, one)) == pytest.approx(expected, abs=1e-5)


def test_psnr_and_ssim_are_those_of_torchmetrics(pair):
    reference = pytest.importorskip("torchmetrics.functional.image", reason="torchmetrics")
    import torch

    one, two = (torch.from_numpy(picture).permute(2, 0, 1)[None] for picture in pair)
    assert psnr(pair[1], pair[0]) == pytest.approx(
        float(reference.peak_signal_noise_ratio(two, one, data_range=1.0)), abs=1e-3
    )
    _, full = reference.structural_similarity_index_measure(two, one, data_range=1.0, return_full_image=True)
    expected = float(full[..., 5:-5, 5:-5].mean())  # it also averages the mirrored border, scikit-image does not
    assert metrics.ssim_mean(metrics.ssim_map(pair[1], pair[0])) == pytest.approx(expected, abs=1e-4)


def test_ssim_inside_a_mask_sees_only_the_mask(pair):
    one, two = pair
    mixed = np.where(np.arange(64)[None, :, None] < 32, one, two)
    mask = np.zeros(one.shape[:2])
    mask[:, :24] = 1  # farther from the damage than half a window
    assert metrics.ssim_mean(metrics.ssim_map(mixed, one), mask) == pytest.approx(1)
    assert np.isnan(metrics.ssim_mean(metrics.ssim_map(mixed, one), np.zeros_like(mask)))


def test_landmark_distance_is_in_pixels_of_512():
    points = np.zeros((5, 2))
    assert metrics.keypoint_distance(points, points + np.array([3, 4]), 256) == pytest.approx(10)


def test_code_distances_are_mean_absolute_differences():
    one, two = np.zeros((2, 59)), np.zeros((2, 59))
    two[0, :52], two[0, -3:] = 0.5, [0.1, 0.2, 0.3]
    aed, apd = metrics.code_distances(one, two)
    assert aed == pytest.approx([0.5, 0])
    assert apd == pytest.approx([0.2, 0])


def test_steady_motion_does_not_flicker_and_a_flash_does(picture):
    steps = [np.uint8(np.full((4, 4, 3), level)) for level in (10, 20, 30)]
    assert metrics.second_difference(steps).max() == 0
    steps[1] = steps[1] + 8
    assert metrics.second_difference(steps) == pytest.approx(16)


def test_similarity_transform_is_recovered():
    angle, scale, shift = 0.4, 1.7, np.array([12.0, -5.0])
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = np.random.default_rng(1).normal(0, 50, (6, 2))
    found = metrics.similarity_transform(points, points @ turn.T + shift)
    assert found == pytest.approx(np.column_stack([turn, shift]))


def test_cosine():
    assert metrics.cosine(np.array([1.0, 0]), np.array([2.0, 0])) == pytest.approx(1)
    assert metrics.cosine(np.array([1.0, 0]), np.array([0, 3.0])) == pytest.approx(0)


@pytest.mark.filterwarnings("ignore:Please import `mat_struct`:DeprecationWarning")  # its own, for SciPy 2
def test_jod_is_ten_without_a_difference_and_falls_with_noise():
    pytest.importorskip("pyfvvdp", reason="pyfvvdp")
    from flexavatar_cli.evaluation.networks import jod

    generator = np.random.default_rng(0)
    driver = np.repeat(generator.integers(60, 200, (1, 8, 8, 3)), 4, 0).repeat(16, 1).repeat(16, 2).astype(np.uint8)
    little, much = (np.clip(driver + generator.normal(0, by, driver.shape), 0, 255).astype(np.uint8) for by in (4, 40))
    assert jod(driver, driver, 25.0) == pytest.approx(10)
    assert 10 > jod(little, driver, 25.0) > jod(much, driver, 25.0)
