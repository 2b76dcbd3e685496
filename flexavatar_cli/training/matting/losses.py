"""MODNet's three losses (Ke et al. 2022, Eqs. 1 to 4), where the truth is known."""

import torch
import torch.nn.functional as F
from torch import Tensor

from flexavatar_cli.training.matting.network import SEMANTIC_STRIDE

SEMANTIC_WEIGHT, DETAIL_WEIGHT, FUSION_WEIGHT = 3.0, 3.0, 3.0
EDGE_EMPHASIS = 4.0  # of the fusion loss within the band
GRADIENT_WEIGHT = 1.0


def mean_where(value: Tensor, weight: Tensor) -> Tensor:
    """The mean of `value` where `weight` is, 0 where it is nowhere."""
    return (value * weight).sum() / weight.sum().clamp(min=1.0)


def matting_losses(
    logits: tuple[Tensor, Tensor, Tensor],  # semantic [B, 1, H/32, W/32], detail [B, 1, H/2, W/2], alpha [B, 1, H, W]
    truth: Tensor,  # [B, 4, H, W] alpha, known, band, contrast
) -> dict[str, Tensor]:
    """The weighted terms by name. `certain` is a cross entropy, whose slope does not vanish far from the truth."""
    semantic, detail, fused = (part.float() for part in logits)
    alpha, known, band, contrast = truth.split(1, 1)
    coarse = F.avg_pool2d(alpha * known, SEMANTIC_STRIDE) / F.avg_pool2d(known, SEMANTIC_STRIDE).clamp(min=1e-3)
    certain = (F.avg_pool2d(known, SEMANTIC_STRIDE) > 0.5).float()
    meaning = F.binary_cross_entropy_with_logits(semantic, coarse, reduction="none")
    half, half_band = F.avg_pool2d(alpha, 2), F.max_pool2d(band, 2)
    edge = (torch.sigmoid(detail) - half).abs()
    found = torch.sigmoid(fused)
    error = (found - alpha).abs()
    steps = torch.zeros((), device=alpha.device)
    for axis in (2, 3):
        slope = torch.diff(found, dim=axis) - torch.diff(alpha, dim=axis)
        steps = steps + mean_where(slope.abs(), band.narrow(axis, 0, band.shape[axis] - 1))
    return {
        "semantic": SEMANTIC_WEIGHT * mean_where(meaning, certain),
        "detail": DETAIL_WEIGHT * mean_where(edge, half_band),
        "fusion": FUSION_WEIGHT * mean_where(error * (1 + EDGE_EMPHASIS * band), known),
        "certain": 0.3 * mean_where(F.binary_cross_entropy_with_logits(fused, alpha, reduction="none"), known),
        "composition": FUSION_WEIGHT * mean_where(error * contrast, known),
        "gradient": GRADIENT_WEIGHT * steps,
    }
