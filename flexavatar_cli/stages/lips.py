"""Lips that a photo shows parted: along their inner edge a track that is a little off reads teeth.

Parted, they keep what the photo shows there, or a smile would lose its teeth. As they meet, what is bright along the
edge takes the colour of the lip beside it; else a closed mouth kept a white seam.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from flexavatar_cli.core.attributes import TexelAttributes
from flexavatar_cli.core.expression import INDEX
from flexavatar_cli.core.ramps import smoothstep
from flexavatar_cli.heads import HeadModel
from flexavatar_cli.heads.surface import surface
from flexavatar_cli.heads.texels import TexelGrid
from flexavatar_cli.stages.eyelids import DARKEST

INNER_EDGE = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308, 324, 318, 402, 317, 14, 87, 178, 88, 95)  # FaceMesh
MIDDLES = (13, 14)  # FaceMesh, upper and lower lip
SEAM = (0.003, 0.005)  # metres from the inner edge, between which teeth are no longer expected
LIP = 0.009  # metres from it, up to which skin tells what these lips are like
MEETING = (0.001, 0.004)  # metres that the lips are further apart than at rest, from meeting to parted
TOOTHY = (0.2, 0.45)  # logarithm of brightness over the lip's, and of hue beside it, between which lip turns to tooth
ALIKE = 0.25  # of the same, within which colours of the lip count as the lip's
SOFTNESS = 0.002  # metres; the lip's influence on the edge falls with the square of its distance beyond this


@dataclass(frozen=True)
class Lips:
    """The inner edge of a head model's lips: M texels whose colour closing the mouth changes."""

    parting: Tensor  # [E] metres by which each expression value parts the lips
    texels: Tensor  # [M] int64
    weight: Tensor  # [M] in 0..1
    lip: Tensor  # [S] int64, the rest of the lips
    influence: Tensor  # [M, S] of the latter on the former, rows sum to 1

    def to(self, device: torch.device | str) -> "Lips":
        """The same lips on `device`."""
        return Lips(**{name: value.to(device) for name, value in vars(self).items()})


@torch.no_grad()
def lips(head: HeadModel, grid: TexelGrid) -> Lips:
    """The lips of `head`, found by FaceMesh's landmarks on it."""
    shapes = head.vertices(None, torch.cat([torch.zeros(1, len(INDEX)), torch.eye(len(INDEX))]).to(head.device))
    gap = head.landmarks(shapes)[:, list(MIDDLES), 1]
    gap = gap[:, 0] - gap[:, 1]
    edge = head.landmarks(shapes[0])[list(INNER_EDGE)]
    places = surface(grid, shapes[0]).reshape(-1, 3)
    distance = torch.cdist(places, torch.cat([edge, (edge + edge.roll(-1, 0)) / 2])).amin(1)
    face = grid.part == head.part_names.index("face")
    weight = 1 - smoothstep(distance, SEAM)
    texels = torch.nonzero(face & (weight > 0))[:, 0]
    lip = torch.nonzero(face & (weight < 1) & (distance < LIP))[:, 0]
    influence = 1 / (torch.cdist(places[texels], places[lip]) ** 2 + SOFTNESS**2)
    return Lips(gap[1:] - gap[0], texels, weight[texels], lip, influence / influence.sum(1, keepdim=True))


def with_lips_closed(
    mouth: Lips,
    attributes: TexelAttributes,  # of B expressions
    expression: Tensor,  # [B, E]
) -> TexelAttributes:
    """The attributes without teeth on the lips, as far as `expression` has the lips meet; smooth in both."""
    parted = expression.to(attributes.color) @ mouth.parting.to(attributes.color)
    closed = 1 - smoothstep(parted, MEETING)[:, None]
    if not len(mouth.lip) or not (closed > 0).any():
        return attributes
    lip = attributes.color[:, mouth.lip].detach()  # the edge teaches nothing about the lip
    usual = lip.median(1, keepdim=True).values
    alike = torch.exp(-0.5 * (_toothiness(lip, usual) / ALIKE) ** 2)[..., None]
    usual = (mouth.influence @ (alike * lip)) / (mouth.influence @ alike).clamp_min(1e-4)
    own = attributes.color[:, mouth.texels]
    share = closed * mouth.weight * smoothstep(_toothiness(own.detach(), usual), TOOTHY)
    color = own + share[..., None] * (usual - own)
    return replace(attributes, color=attributes.color.index_copy(1, mouth.texels, color))


def _toothiness(color: Tensor, usual: Tensor) -> Tensor:  # [B, M, 3], [B, M or 1, 3] -> [B, M]
    """How much brighter a colour is than a lip, and how far off its hue; below 0 in the shade between lips."""
    off = torch.log(color.clamp_min(0) + DARKEST) - torch.log(usual.clamp_min(0) + DARKEST)
    brightness = off.mean(-1)
    return brightness + (off - brightness[..., None]).abs().amax(-1)
