"""Upper eyelids: an open eye folds them away, so a photo shows stripes of lash and crease where a blink unrolls skin.

As an eye closes, its lid takes the colour of the skin under the eye; open, it keeps what the photo shows.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from flexavatar_cli.core.attributes import TexelAttributes
from flexavatar_cli.core.expression import INDEX
from flexavatar_cli.heads import HeadModel
from flexavatar_cli.heads.surface import deformation, surface
from flexavatar_cli.heads.texels import TexelGrid

GROWTH = (1.3, 1.8)  # of a texel's area from open to closed eyes, between which it turns from skin to lid
CLOSING = (0.1, 0.6)  # blink coefficients between which the colour changes
UNDER = (-0.022, -0.011)  # metres above the eye's centre: skin under the eye, below the lashes
BESIDE = 0.015  # metres to either side of it
SHADE = 0.86  # of a closed lid, which looks down under the brow, to that skin
SIDES = {"left": "eyeBlinkLeft", "right": "eyeBlinkRight"}


@dataclass(frozen=True)
class Lid:
    """One upper lid of a head model, on N texels."""

    blink: int  # which coefficient of the expression code closes it
    texels: Tensor  # [M] int64
    weight: Tensor  # [M] in 0..1
    skin: Tensor  # [R] int64, texels under the eye


def lids(head: HeadModel, grid: TexelGrid) -> tuple[Lid, ...]:
    """Both lids, but for the row of lashes along the slit."""
    closed = torch.zeros(len(INDEX), device=head.device)
    closed[[INDEX[name] for name in SIDES.values()]] = 1
    with torch.no_grad():
        stretch = deformation(head, grid, head.vertices(None, None), head.vertices(None, closed)).stretch
        points = surface(grid, head.template)
    growth = stretch.prod(-1)
    on_face = grid.part == head.part_names.index("face")
    weight = ((growth - GROWTH[0]) / (GROWTH[1] - GROWTH[0])).clamp(0, 1) * on_face
    weight = weight * grid.valid.roll(-1, 0).reshape(-1)[grid.index]  # the last row of a chart is the slit
    result = []
    for side, name in SIDES.items():
        from_eye = points - head.joints[f"eye_{side}"]
        texels = torch.nonzero((weight > 0) & (from_eye[:, 0].abs() < 0.03))[:, 0]
        low, high = UNDER
        under = on_face & (from_eye[:, 1] > low) & (from_eye[:, 1] < high) & (from_eye[:, 0].abs() < BESIDE)
        skin = torch.nonzero(under & (weight == 0) & (from_eye[:, 2] > 0))[:, 0]
        result.append(Lid(INDEX[name], texels, weight[texels], skin))
    return tuple(result)


def with_lids_closed(
    pair: tuple[Lid, ...],
    attributes: TexelAttributes,  # of B expressions
    expression: Tensor,  # [B, E]
) -> TexelAttributes:
    """The attributes with the lids' colours as far towards skin as `expression` closes them."""
    color = attributes.color
    for lid in pair:
        blink = expression[:, lid.blink].to(color)
        share = ((blink - CLOSING[0]) / (CLOSING[1] - CLOSING[0])).clamp(0, 1)
        if not (share > 0).any():
            continue
        skin = SHADE * color[:, lid.skin].detach().median(1, keepdim=True).values  # glasses and creases are no skin
        mix = (share[:, None] * lid.weight)[..., None]
        color = color.index_copy(1, lid.texels, (1 - mix) * color[:, lid.texels] + mix * skin)
    return replace(attributes, color=color)
