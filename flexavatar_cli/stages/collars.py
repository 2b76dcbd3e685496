"""Collars that a photo shows beside the neck, continued behind it.

What no photo shows of a neck is filled with skin. Where cloth lies on both sides, that ended collars in a torn edge as
the head turned: a collar goes round at the height that it has beside the neck.
"""

import torch
from torch import Tensor

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
    beside = _rising(angle.abs(), BESIDE) * (1 - _rising(angle.abs(), BEFORE)) * torch.maximum(on_neck, on_bust)
    telling = torch.nonzero((beside > 0) & (height < HIGHEST))[:, 0]
    cloth = seen.new_zeros(seen.shape)
    for number in range(len(seen)):
        cloth[number, telling] = _likeness(color[number], telling, [material[number] for material in materials])
    slices = LOWEST + SLICE * torch.arange(SLICES).to(height)
    near = torch.exp(-0.5 * ((height - slices[:, None]) / SLICE) ** 2)  # [S, N]
    at = ((height - LOWEST) / SLICE).clamp(0, SLICES - 1.001)
    low, part = at.long(), at - at.floor()
    share, tint = seen.new_zeros(seen.shape), torch.zeros_like(color)
    for side in (-1, 1):
        weight = near * beside * torch.where(angle * side > 0, 1.0, HEARSAY)
        covered = (seen * cloth) @ weight.T  # [B, S]
        own = torch.einsum("bnc,sn->bsc", color * (seen * cloth)[..., None], weight) / covered[..., None].clamp_min(
            1e-6
        )
        own, sure = _hanging(own, covered / (seen @ weight.T + ENOUGH))
        mine = 0.5 + 0.5 * torch.sin(torch.deg2rad(angle.clamp(-90, 90))) * side
        for slice_, weight in ((low, mine * (1 - part)), (low + 1, mine * part)):
            share = share + weight * sure[:, slice_]
            tint = tint + (weight * sure[:, slice_])[..., None] * own[:, slice_]
    tint = tint / share[..., None].clamp_min(1e-6)
    return share * on_neck * (1 - _rising(angle.abs(), BEHIND)), tint


def _hanging(own: Tensor, sure: Tensor) -> tuple[Tensor, Tensor]:  # [B, S, 3], [B, S] from below
    """Where a height shows less of a collar than one above it, what is above goes on: cloth hangs down."""
    for number in range(SLICES - 2, -1, -1):
        above = sure[:, number + 1] > sure[:, number]
        own[:, number] = torch.where(above[:, None], own[:, number + 1], own[:, number])
        sure[:, number] = torch.maximum(sure[:, number], sure[:, number + 1])
    return own, sure


def _likeness(color: Tensor, texels: Tensor, materials: list[Tensor]) -> Tensor:  # [N, 3], [M] -> [M]
    """1 for texels that look more like the first material than like the others."""
    logs = torch.log(color.clamp_min(0) + DARKEST)
    apart = []
    for weight in materials:
        total = weight.cumsum(0)
        if total[-1] < NEAREST:
            apart.append(torch.full((len(texels),), torch.inf).to(color))
            continue
        evenly = (torch.arange(SWATCHES).to(total) + 0.5) / SWATCHES * total[-1]
        swatches = logs[torch.searchsorted(total, evenly).clamp_max(len(total) - 1)]
        apart.append(torch.cdist(logs[texels], swatches).topk(NEAREST, largest=False).values.mean(-1))
    return (apart[0] < torch.minimum(apart[1], apart[2])).to(color)


def _rising(values: Tensor, limits: tuple[float, float]) -> Tensor:
    return ((values - limits[0]) / (limits[1] - limits[0])).clamp(0, 1)
