"""Structural similarity, as the published fitting loss defines it (SPEC 11)."""

import torch
from torch import Tensor
from torch.nn import functional

WINDOW, SIGMA = 11, 1.5
C1, C2 = 1e-4, 9e-4


def structural_similarity(a: Tensor, b: Tensor) -> Tensor:  # [H, W, C] each -> scalar
    """Mean SSIM: 11 x 11 Gaussian window of sigma 1.5, zero padding, over all pixels and channels."""
    x = torch.arange(WINDOW, dtype=a.dtype, device=a.device) - WINDOW // 2
    line = torch.exp(-(x**2) / (2 * SIGMA**2))
    line = line / line.sum()
    planes = torch.stack([a, b, a * a, b * b, a * b]).permute(0, 3, 1, 2)  # [5, C, H, W]
    flat = planes.reshape(1, -1, *planes.shape[2:])
    count = flat.shape[1]
    flat = functional.conv2d(flat, line[:, None].expand(count, 1, -1, 1), padding=(WINDOW // 2, 0), groups=count)
    flat = functional.conv2d(flat, line[None, :].expand(count, 1, 1, -1), padding=(0, WINDOW // 2), groups=count)
    mean_a, mean_b, square_a, square_b, product = flat.reshape(planes.shape)
    variance_a, variance_b = square_a - mean_a**2, square_b - mean_b**2
    covariance = product - mean_a * mean_b
    similarity = (2 * mean_a * mean_b + C1) * (2 * covariance + C2)
    return (similarity / ((mean_a**2 + mean_b**2 + C1) * (variance_a + variance_b + C2))).mean()


def structural_dissimilarity(a: Tensor, b: Tensor) -> Tensor:
    """1 - SSIM."""
    return 1 - structural_similarity(a, b)
