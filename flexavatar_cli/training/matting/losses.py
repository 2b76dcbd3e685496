"""MODNet's three losses (Ke et al. 2022, Eqs. 1 to 4), where the truth is known."""

import torch
import torch.nn.functional as F
from torch import Tensor

SEMANTIC_WEIGHT, DETAIL_WEIGHT, FUSION_WEIGHT = 3.0, 3.0, 3.0
EDGE_EMPHASIS = 4.0  # of the fusion loss within the band
GRADIENT_WEIGHT, CERTAINTY_WEIGHT = 1.0, 0.3


def mean_where(value: Tensor, weight: Tensor) -> Tensor:
    """The mean of `value` where `weight` is, 0 where it is nowhere."""
    return (value * weight).sum() / weight.sum().clamp(min=1.0)


def matting_losses(
    logits: tuple[Tensor | None, Tensor, Tensor],  # semantic [B, 1, h, w], detail [B, 1, H/2, W/2], alpha [B, 1, H, W]
    truth: Tensor,  # [B, 4 or more, H, W] alpha, known, band, contrast
) -> dict[str, Tensor]:
    """The weighted terms by name. `certain` is a cross entropy, whose slope does not vanish far from the truth."""
    semantic, detail, fused = logits
    alpha, known, band, contrast = truth[:, :4].split(1, 1)
    terms = {} if semantic is None else {"semantic": semantic_loss(semantic.float(), alpha, known)}
    edge = (torch.sigmoid(detail.float()) - F.avg_pool2d(alpha, 2)).abs()
    found = torch.sigmoid(fused.float())
    error = (found - alpha).abs()
    steps = torch.zeros((), device=alpha.device)
    for axis in (2, 3):
        slope = torch.diff(found, dim=axis) - torch.diff(alpha, dim=axis)
        steps = steps + mean_where(slope.abs(), band.narrow(axis, 0, band.shape[axis] - 1))
    certain = F.binary_cross_entropy_with_logits(fused.float(), alpha, reduction="none")
    return terms | {
        "detail": DETAIL_WEIGHT * mean_where(edge, F.max_pool2d(band, 2)),
        "fusion": FUSION_WEIGHT * mean_where(error * (1 + EDGE_EMPHASIS * band), known),
        "certain": CERTAINTY_WEIGHT * mean_where(certain, known),
        "composition": FUSION_WEIGHT * mean_where(error * contrast, known),
        "gradient": GRADIENT_WEIGHT * steps,
    }


def semantic_loss(semantic: Tensor, alpha: Tensor, known: Tensor) -> Tensor:
    """Cross entropy of coarse logits [B, 1, h, w] with alpha [B, 1, H, W] averaged over each cell."""
    cells = semantic.shape[2], semantic.shape[3]
    share = F.adaptive_avg_pool2d(known, cells)
    coarse = F.adaptive_avg_pool2d(alpha * known, cells) / share.clamp(min=1e-3)
    error = F.binary_cross_entropy_with_logits(semantic, coarse, reduction="none")
    return SEMANTIC_WEIGHT * mean_where(error, (share > 0.5).float())
