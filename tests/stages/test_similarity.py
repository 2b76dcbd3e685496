"""SSIM against scikit-image and the laws it must keep; colours apart from outlines."""

import numpy as np
import pytest
import torch

from flexavatar_cli.stages.similarity import WINDOW, own_colors, structural_dissimilarity, structural_similarity


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    first = torch.rand(48, 40, 3, generator=generator)
    return first, (first + 0.2 * torch.randn(48, 40, 3, generator=generator)).clamp(0, 1)


def test_a_picture_is_like_itself(pair):
    assert structural_similarity(pair[0], pair[0]) == pytest.approx(1, abs=1e-6)


def test_the_published_pair_of_patterns():
    """SPEC 13.4: a and b of 128 x 128; the interior agrees with scikit-image's Gaussian SSIM."""
    metrics = pytest.importorskip("skimage.metrics")
    y, x, c = np.meshgrid(np.arange(128), np.arange(128), np.arange(3), indexing="ij")
    a = (0.5 + 0.5 * np.sin(0.1 * x + 0.07 * y + c)).astype(np.float32)
    b = (0.5 + 0.5 * np.sin(0.11 * x + 0.065 * y + c + 0.2)).astype(np.float32)
    _, reference = metrics.structural_similarity(
        a, b, channel_axis=2, data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
    )
    # pad by reflection outside: compare where no window leaves the picture
    ours = structural_similarity(torch.from_numpy(a), torch.from_numpy(b)).item()
    assert ours == pytest.approx(reference.mean(), abs=0.02)


def test_the_gradient_pulls_towards_the_target(pair):
    target, start = pair
    moved = start.clone().requires_grad_(True)
    loss = structural_dissimilarity(moved, target)
    loss.backward()
    better = structural_dissimilarity(start - 5.0 * moved.grad, target)
    assert better < loss
    assert WINDOW == 11


def test_a_render_that_covers_too_much_is_not_drawn_towards_the_ground():
    generator = torch.Generator().manual_seed(0)
    color = torch.rand(6, 6, 3, generator=generator)
    alpha = torch.full((6, 6), 0.5)
    alpha[0] = 0
    on_white = color * alpha[..., None] + 1 - alpha[..., None]
    cover = torch.full((6, 6), 0.9)
    for ground in (torch.zeros(3), torch.tensor([1.0, 0.2, 0.6])):
        wanted, weight = own_colors(on_white, alpha, cover, ground)
        render = color * cover[..., None] + ground * (1 - cover[..., None])
        torch.testing.assert_close(wanted[1:], render[1:])
        assert weight[0].max() == 0
        assert weight[1:].min() == 0.5
