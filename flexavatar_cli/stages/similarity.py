"""How renders are compared with pictures: structural similarity (SPEC 11), and colours apart from outlines."""

import torch
from torch import Tensor
from torch.nn import functional

WINDOW, SIGMA = 11, 1.5
C1, C2 = 1e-4, 9e-4
SOFTEST = 0.25  # alpha under which a pixel's own colour is not told from what it was composited on


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


def own_colors(
    picture: Tensor,  # [..., H, W, 3] on white
    alpha: Tensor,  # [..., H, W] of the picture
    cover: Tensor,  # [..., H, W] of the render
    ground: Tensor,  # [3] behind the render
) -> tuple[Tensor, Tensor]:  # [..., H, W, 3] what the render should show, [..., H, W, 1] how much each pixel counts
    """The picture's own colours, over the ground as far as the render leaves it open.

    Over the ground by the picture's own alpha, a pixel that the render covers and a soft matte does not would chase a
    ground that is drawn anew in each step, and turn grey: light streaks along outlines that cannot be met. Righting
    the outline is another term's task.
    """
    color = (picture + alpha[..., None] - 1) / alpha[..., None].clamp_min(SOFTEST)
    wanted = ground + cover.detach()[..., None] * (color - ground)
    return wanted, (alpha * (alpha > SOFTEST))[..., None]
