"""What one texel resolution needs in training: the network's template, the closed-form prior, the way to Gaussians."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from flexavatar_cli.core.attributes import TexelAttributes
from flexavatar_cli.core.gaussians import Gaussians
from flexavatar_cli.heads import HeadModel
from flexavatar_cli.heads.surface import surface
from flexavatar_cli.model import ModelConfig, Template
from flexavatar_cli.stages.rig import RigAnchor, expressed, rig_anchor, rigged_gaussians
from flexavatar_cli.stages.uv_prior import UVPrior, uv_prior
from flexavatar_cli.training.batches import texel_rows
from flexavatar_cli.training.synthetic.pack import Pack


@dataclass(frozen=True)
class Bench:
    """Constants of one head and resolution; all but the template on the training device."""

    template: Template
    head: HeadModel
    prior: UVPrior
    anchor: RigAnchor | None  # None for a static surface
    base: Tensor | None  # [N, 3] metres, that surface

    def gaussians(
        self,
        attributes: TexelAttributes,  # of B = 1
        identity: Tensor,  # [K]
        expression: Tensor,  # [59]
    ) -> Gaussians:
        """The head that the attributes describe; on a static surface they alone say who it is and what it does."""
        if self.base is None:
            assert self.anchor is not None
            return rigged_gaussians(
                self.anchor, expressed(self.anchor, attributes, expression[None]), identity, expression
            )
        fields = (attributes.rotation, attributes.scale, attributes.opacity, attributes.color)
        return Gaussians(self.base + attributes.offset[0], *(field[0] for field in fields))


def make_bench(head: HeadModel, pack: Pack, config: ModelConfig, resolution: int, device: torch.device) -> Bench:
    """For texel grids of `resolution`, which may be lower than the network's."""
    mean = torch.from_numpy(pack.materials.mean_color[texel_rows(head, resolution)])
    prior = uv_prior(head, resolution, mean)
    moved: dict[str, Any] = {name: value.to(device) for name, value in vars(prior).items() if isinstance(value, Tensor)}
    there = head if device.type == "cpu" else head.to(device)
    template = template_of(head, config, resolution)
    static = template.base_positions
    return Bench(
        template,
        there,
        replace(prior, **moved),
        rig_anchor(head, resolution, device) if static is None else None,
        None if static is None else static.to(device),
    )


def template_of(head: HeadModel, config: ModelConfig, resolution: int) -> Template:
    """Texels and token positions of `head` at `resolution`, with patches of the network's own size."""
    grid = config.grid * resolution // config.gaussians.resolution
    texels, tokens = head.texels(resolution), head.texels(grid)
    base = surface(texels, head.template) if config.anchor == "static" else None
    return Template.from_texels(
        resolution, texels.index, grid, tokens.index, surface(tokens, head.template), base_positions=base
    )
