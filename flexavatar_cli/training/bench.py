"""What one texel resolution needs in training: the network's template, the closed-form prior, the rig."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from flexavatar_cli.heads import HeadModel
from flexavatar_cli.heads.surface import surface
from flexavatar_cli.model import ModelConfig, Template
from flexavatar_cli.stages.rig import RigAnchor, rig_anchor
from flexavatar_cli.stages.uv_prior import UVPrior, uv_prior
from flexavatar_cli.training.batches import texel_rows
from flexavatar_cli.training.synthetic.pack import Pack


@dataclass(frozen=True)
class Bench:
    """Constants of one head and resolution, prior and anchor on the training device."""

    template: Template
    prior: UVPrior
    anchor: RigAnchor


def make_bench(head: HeadModel, pack: Pack, config: ModelConfig, resolution: int, device: torch.device) -> Bench:
    """For texel grids of `resolution`, which may be lower than the network's."""
    mean = torch.from_numpy(pack.materials.mean_color[texel_rows(head, resolution)])
    prior = uv_prior(head, resolution, mean)
    moved: dict[str, Any] = {name: value.to(device) for name, value in vars(prior).items() if isinstance(value, Tensor)}
    there = head if device.type == "cpu" else head.to(device)
    return Bench(template_of(head, config, resolution), replace(prior, **moved), rig_anchor(there, resolution))


def template_of(head: HeadModel, config: ModelConfig, resolution: int) -> Template:
    """Texels and token positions of `head` at `resolution`, with patches of the network's own size."""
    grid = config.grid * resolution // config.gaussians.resolution
    tokens = head.texels(grid)
    return Template.from_texels(
        resolution, head.texels(resolution).index, grid, tokens.index, surface(tokens, head.template)
    )
