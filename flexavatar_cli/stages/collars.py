"""Collars that a photo shows beside the neck, continued behind it.

What no photo shows of a neck is filled with skin. Where cloth lies on both sides, that ended collars in a torn edge as
the head turned: a collar goes round at the height that it has beside the neck.
"""

import torch
from torch import Tensor

from flexavatar_cli.core.ramps import ramp

AXIS = -0.02  # metres, head space: depth of the neck's middle
BESIDE = (40.0, 60.0)  # degrees from the very back, from which on, and with which fully, a texel says what lies beside
BEFORE = (110.0, 135.0)  # ... and between which it ends to, where collars open
BEHIND = (95.0, 115.0)  # ... and between which what is filled ends
SLICES = 40  # heights ...
SLICE = 0.003  # ... metres apart ...
LOWEST = -0.15  # ... from here, head space
HIGHEST = -0.05  # metres, head space: a dark jaw is no collar
HEARSAY = 0.1  # what a texel says about the other side, where that shows nothing itself
ENOUGH = 1.0  # seen texels at one height at which half of what they say is believed
SWATCHES = 192  # colours that a material is known by ...
NEAREST = 4  # ... the mean distance to so many of which tells whether a colour is of it
DARKEST = 0.05  # added to a colour before the logarithm


@torch.no_grad()
def collars(
    places: Tensor,  # [N, 3] metres, on the template
    on_neck: Tensor,  # [N]
    on_bust: Tensor,  # [N]
    materials: tuple[Tensor, Tensor, Tensor],  # [B, N] each, how well a texel shows cloth, skin, hair
    color: Tensor,  # [B, N, 3]
    seen: Tensor,  # [B, N] in 0..1
) -> tuple[Tensor, Tensor]:
    """How sure each texel [B, N] behind the neck is to be under a collar, and the collar's colour there [B, N, 3]."""
    x, height, depth = places.T
    angle = torch.rad2deg(torch.atan2(x, AXIS - depth))  # 0 behind, 90 on the subject's left
    beside = ramp(angle.abs(), BESIDE) * ramp(angle.abs(), BEFORE[::-1]) * torch.maximum(on_neck, on_bust)
    telling = torch.nonzero(beside > 0)[:, 0]
    cloth = torch.stack([_likeness(*sample) for sample in zip(color, color[:, telling], *materials, strict=True)])
    cloth = cloth * seen[:, telling] * (height[telling] < HIGHEST)
    slices = LOWEST + SLICE * torch.arange(SLICES).to(height)
    near = torch.exp(-0.5 * ((height[telling] - slices[:, None]) / SLICE) ** 2) * beside[telling]  # [S, M]
    at = ((height - LOWEST) / SLICE).clamp(0, SLICES - 1.001)
    low, part = at.long(), at - at.floor()
    share, tint = torch.zeros_like(seen), torch.zeros_like(color)
    for side in (-1, 1):
        weight = (near * torch.where(angle[telling] * side > 0, 1.0, HEARSAY)).T  # [M, S]
        covered = cloth @ weight  # [B, S]
        own = (color[:, telling] * cloth[..., None]).mT @ weight / covered[:, None].clamp_min(1e-6)  # [B, 3, S]
        own, sure = _hanging(own.mT.contiguous(), covered / (seen[:, telling] @ weight + ENOUGH))
        mine = 0.5 + 0.5 * torch.sin(torch.deg2rad(angle.clamp(-90, 90))) * side
        for slice_, portion in ((low, mine * (1 - part)), (low + 1, mine * part)):
            here = portion * sure[:, slice_]
            share, tint = share + here, tint + here[..., None] * own[:, slice_]
    tint = tint / share[..., None].clamp_min(1e-6)
    return share * on_neck * ramp(angle.abs(), BEHIND[::-1]), tint


def _hanging(own: Tensor, sure: Tensor) -> tuple[Tensor, Tensor]:  # [B, S, 3], [B, S] from below
    """Where a height shows less of a collar than one above it, what is above goes on: cloth hangs down."""
    for number in range(SLICES - 2, -1, -1):
        above = sure[:, number + 1] > sure[:, number]
        own[:, number] = torch.where(above[:, None], own[:, number + 1], own[:, number])
        sure[:, number] = torch.maximum(sure[:, number], sure[:, number + 1])
    return own, sure


def _likeness(color: Tensor, asked: Tensor, *materials: Tensor) -> Tensor:  # [N, 3], [M, 3], [N] each -> [M]
    """1 for colours `asked` that look more like the first material in `color` than like the others."""
    first, *others = (unlikeness(color, asked, weight) for weight in materials)
    return (first < torch.stack(others).amin(0)).to(color)


def unlikeness(color: Tensor, asked: Tensor, material: Tensor) -> Tensor:  # [N, 3], [M, 3], [N] -> [M]
    """How far colours `asked` are from those of a material in `color`, in logs; infinite where it hardly shows."""
    logs, wanted = (torch.log(values.clamp_min(0) + DARKEST) for values in (color, asked))
    total = material.cumsum(0)
    if total[-1] < NEAREST:
        return torch.full_like(wanted[:, 0], torch.inf)
    evenly = (torch.arange(SWATCHES).to(total) + 0.5) / SWATCHES * total[-1]
    swatches = logs[torch.searchsorted(total, evenly).clamp_max(len(total) - 1)]
    return torch.cdist(wanted, swatches).topk(NEAREST, largest=False).values.mean(-1)
