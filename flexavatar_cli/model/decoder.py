"""Avatar code, expression and bias sink -> Gaussian attributes (SPEC 6-8)."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from flexavatar_cli.model.attention import PointEmbedding, Transformer, to_grid
from flexavatar_cli.model.config import ModelConfig
from flexavatar_cli.model.encoder import patchify, unpatchify
from flexavatar_cli.model.gaussian_heads import DETAIL_CHANNELS, GaussianHeads, Raw
from flexavatar_cli.model.upsampler import ConvUpsampler, StyleUpsampler


class Decoder(nn.Module):
    """Expression transformer, upsampler, heads, and the linear detail path from A."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, options, detail = config.width, config.decoder, config.detail
        sizes = [options.expression_dim, *options.expression_hidden, options.expression_tokens * width]
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.options = options
        self.patch = detail.patch if detail else 0
        self.expression = nn.Sequential(*layers[:-1])
        # from_pretrained: without filling, which on the meta device would import all of torch.compile (1.1 s)
        self.sinks = nn.Embedding.from_pretrained(torch.empty(options.sinks, width), freeze=False)
        self.norm = nn.LayerNorm(width) if options.input_norm else None
        self.points = PointEmbedding(width) if options.positions else None
        condition = options.condition_channels * options.condition_patch**2
        self.condition = nn.Linear(condition, width) if condition else None
        self.transformer = Transformer(options.blocks, width, config.heads, width)
        kind = StyleUpsampler if config.upsampler.kind == "stylegan" else ConvUpsampler
        self.upsampler = kind(width, config.upsampler.widths)
        self.heads = GaussianHeads(config.gaussians, self.upsampler.channels)
        area = DETAIL_CHANNELS * self.patch**2
        self.detail_code = nn.Linear(width, area) if detail else None  # from A: identity
        self.detail_tokens = nn.Linear(width, area) if detail else None  # from h: what moves with the expression

    def context(self, expression: Tensor, sink: Tensor) -> Tensor:
        """expression [B, E], sink [B] int -> [bias sink, expression tokens] [B, 1 + tokens, D] (SPEC 6.2)."""
        tokens = self.expression(expression).unflatten(1, (self.options.expression_tokens, -1))
        return torch.cat([self.sinks(sink)[:, None], tokens], 1)

    def tokens(
        self,
        code: Tensor,  # [B, L, D]
        context: Tensor,  # [B, C, D]
        query_positions: Tensor,  # [L, 3]
        condition: Tensor | None,  # [B, channels, R, R]
    ) -> Tensor:  # [B, L, D]
        """Output h of the expression transformer (SPEC 6.3)."""
        x = code
        if condition is not None:
            if self.condition is None or condition.shape[1] != self.options.condition_channels:
                raise ValueError(f"this model takes {self.options.condition_channels} uv_condition channels")
            x = x + self.condition(patchify(condition, self.options.condition_patch))
        if self.norm is not None:
            x = self.norm(x)
        if self.points is not None:
            x = x + self.points(query_positions)
        return self.transformer(x, context)

    def detail(self, code: Tensor) -> Tensor | None:
        """Detail channels [B, 5, R, R] of A alone: colour - 0.5, displacement in units, opacity logit."""
        return None if self.detail_code is None else unpatchify(self.detail_code(code), self.patch)

    def raw(self, h: Tensor, detail: Tensor | None, texel_index: Tensor, resolution: int) -> Raw:
        """Head outputs at the kept texels from h [B, L, D] and the detail [B or 1, 5, R, R] of A."""
        if detail is not None and self.detail_tokens is not None:
            detail = detail + unpatchify(self.detail_tokens(h), self.patch)
        return self.heads.raw(self.upsampler(to_grid(h)), detail, texel_index, resolution)
