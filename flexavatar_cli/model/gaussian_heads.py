"""Feature map -> attributes of the kept texels (SPEC 8)."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from flexavatar_cli.core.attributes import TexelAttributes
from flexavatar_cli.model.config import GaussiansConfig
from flexavatar_cli.model.encoder import end_inclusive_grid, sample

SH_DC = 0.28209479177387814  # value of the constant spherical harmonic
CHANNELS = {"color": 3, "scale": 3, "offset": 3, "opacity": 1, "rotation": 4}
DETAIL_CHANNELS = 5  # color 3, displacement 1, opacity 1


class Raw(NamedTuple):
    """Head outputs at the kept texels, before any activation."""

    color: Tensor  # [B, N, 3]
    scale: Tensor  # [B, N, 3]
    offset: Tensor  # [B, N, 3], or [B, N, 4] with the detail displacement last
    opacity: Tensor  # [B, N, 1]
    rotation: Tensor  # [B, N, 4]


class GaussianHeads(nn.Module):
    """Five linear heads, applied before the bilinear sampling, with which they commute."""

    def __init__(self, config: GaussiansConfig, features: int) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleDict({name: nn.Linear(features, size) for name, size in CHANNELS.items()})

    def raw(
        self,
        features: Tensor,  # [B, F, S, S]
        detail: Tensor | None,  # [B or 1, 5, R, R]
        texel_index: Tensor,  # [N] into R x R
        resolution: int,  # R
    ) -> Raw:
        """Head outputs at the kept texels; colour and opacity of `detail` are added, displacement is kept apart."""
        layers = [layer for layer in self.layers.values() if isinstance(layer, nn.Linear)]
        weight = torch.cat([layer.weight for layer in layers])
        bias = torch.cat([layer.bias for layer in layers])
        channels = functional.conv2d(features, weight[..., None, None])
        if self.config.sampling == "end_inclusive":
            nodes = end_inclusive_grid(resolution, features.device).flatten(0, 1)[texel_index]
            values = sample(channels, nodes[None])[:, :, 0].transpose(1, 2)
        else:
            if channels.shape[-1] != resolution:
                channels = functional.interpolate(
                    channels, size=(resolution, resolution), mode="bilinear", align_corners=False
                )
            if detail is not None:
                channels = torch.cat([channels, detail.expand(len(channels), -1, -1, -1)], 1)
            values = channels.flatten(2).transpose(1, 2)[:, texel_index]
        values = values.float()
        parts = (values[..., : len(bias)] + bias).split(list(CHANNELS.values()), -1)
        color, scale, offset, opacity, rotation = parts
        if detail is not None:
            extra = values[..., len(bias) :]
            color, opacity = color + extra[..., :3], opacity + extra[..., 4:]
            offset = torch.cat([offset, extra[..., 3:4]], -1)
        return Raw(color, scale, offset, opacity, rotation)

    def attributes(self, raw: Raw) -> TexelAttributes:
        """Activated outputs; see TexelAttributes for what they mean under each anchor."""
        return self._rigged(raw) if self.config.anchor == "rigged" else self._static(raw)

    def _static(self, raw: Raw) -> TexelAttributes:
        """SPEC 8.2, 8.3: absolute attributes; the colour head is a spherical-harmonic constant."""
        return TexelAttributes(
            offset=(raw.offset.sigmoid() - 0.5) * (2 * self.config.offset_range),
            scale=raw.scale.exp().clamp(0, self.config.scale_max),
            rotation=functional.normalize(raw.rotation, dim=-1, eps=1e-12),
            opacity=raw.opacity[..., 0].sigmoid(),
            color=(SH_DC * raw.color + 0.5).clamp_min(0),
        )

    def _rigged(self, raw: Raw) -> TexelAttributes:
        """Relative to the moving surface; all-zero outputs leave the anchor as it is, grey and nearly opaque."""
        config = self.config
        ranges = raw.offset.new_tensor([config.tangent_range, config.tangent_range, config.offset_range])
        offset = raw.offset[..., :3].tanh() * ranges
        if raw.offset.shape[-1] == 4:
            normal = offset[..., 2:] + config.displacement_unit * raw.offset[..., 3:]
            offset = torch.cat([offset[..., :2], normal], -1)
        start = math.log(config.opacity_start / (1 - config.opacity_start))
        identity = raw.rotation.new_tensor([1.0, 0, 0, 0])
        return TexelAttributes(
            offset=offset,
            scale=raw.scale.clamp(*config.log_scale_range).exp(),
            rotation=functional.normalize(identity + raw.rotation, dim=-1, eps=1e-12),
            opacity=(raw.opacity[..., 0] + start).sigmoid(),
            color=0.5 + raw.color,
        )
