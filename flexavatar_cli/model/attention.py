"""Transformer blocks over the UV tokens: `joint` (SPEC 5.4) and `dw`, its cheap sibling."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


def feed_forward(width: int, approximate: str = "tanh") -> nn.Sequential:
    """D -> 4 D -> D with GELU (SPEC 5.4: the tanh approximation; 4.3: exact)."""
    return nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate), nn.Linear(4 * width, width))


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[B, L, D] -> [B, heads, L, D / heads]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """[B, heads, L, d] -> [B, L, heads * d]."""
    return x.transpose(1, 2).flatten(2)


class Projections(nn.Module):
    """Queries, keys and values of one stream; queries and keys RMS-normed per head (SPEC 5.4)."""

    def __init__(self, width: int, heads: int, asks: bool = True) -> None:
        super().__init__()
        self.heads = heads
        if asks:
            self.to_q = nn.Linear(width, width)
            self.norm_q = nn.RMSNorm(width // heads, eps=1e-6)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        self.norm_k = nn.RMSNorm(width // heads, eps=1e-6)

    def queries(self, x: Tensor) -> Tensor:
        """[B, L, D] -> [B, heads, L, d]."""
        return self.norm_q(split_heads(self.to_q(x), self.heads))

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[B, L, D] -> two of [B, heads, L, d]."""
        return self.norm_k(split_heads(self.to_k(x), self.heads)), split_heads(self.to_v(x), self.heads)


class JointBlock(nn.Module):
    """Tokens and context attend to each other in one softmax, with weights of their own (SPEC 5.4)."""

    def __init__(self, width: int, heads: int, last: bool) -> None:
        super().__init__()
        self.last = last
        self.norm_x = nn.LayerNorm(width, eps=1e-5)
        self.norm_context = nn.LayerNorm(width, eps=1e-5)
        self.x = Projections(width, heads)
        self.context = Projections(width, heads, asks=not last)
        self.out_x = nn.Linear(width, width)
        self.ff_x = feed_forward(width)
        if not last:
            self.out_context = nn.Linear(width, width)
            self.ff_context = feed_forward(width)

    def forward(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, L, D], context [B, C, D] -> both updated; the last block leaves the context as it is."""
        xn, cn = self.norm_x(x), self.norm_context(context)
        kx, vx = self.x.keys_values(xn)
        kc, vc = self.context.keys_values(cn)
        k, v = torch.cat([kx, kc], 2), torch.cat([vx, vc], 2)
        q = self.x.queries(xn)
        if not self.last:
            q = torch.cat([q, self.context.queries(cn)], 2)
        attended = merge_heads(functional.scaled_dot_product_attention(q, k, v))
        x = x + self.out_x(attended[:, : x.shape[1]])
        x = x + self.ff_x(functional.layer_norm(x, x.shape[-1:], eps=1e-6))
        if not self.last:
            context = context + self.out_context(attended[:, x.shape[1] :])
            context = context + self.ff_context(functional.layer_norm(context, context.shape[-1:], eps=1e-6))
        return x, context


class DepthwiseBlock(nn.Module):
    """Depthwise 7x7 on the token grid, cross-attention to the context, feed-forward; all pre-norm.

    Half the time of a joint block (10 ms against 21 at D = 256 on two cores), and the few expression tokens are not
    outvoted by the many texels, as they are in one joint softmax.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm_grid = nn.LayerNorm(width, eps=1e-5)
        self.conv = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm_x = nn.LayerNorm(width, eps=1e-5)
        self.norm_context = nn.LayerNorm(width, eps=1e-5)
        self.attend = Projections(width, heads)
        self.out = nn.Linear(width, width)
        self.norm_ff = nn.LayerNorm(width, eps=1e-5)
        self.ff = feed_forward(width)

    def forward(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, L, D] on a square grid, context [B, C, D] -> x updated, the context as it is."""
        x = x + to_tokens(self.conv(to_grid(self.norm_grid(x))))
        k, v = self.attend.keys_values(self.norm_context(context))
        q = self.attend.queries(self.norm_x(x))
        x = x + self.out(merge_heads(functional.scaled_dot_product_attention(q, k, v)))
        return x + self.ff(self.norm_ff(x)), context


class Transformer(nn.Module):
    """A stack of blocks between a linear map of the context and a final norm (SPEC 5.4)."""

    def __init__(self, blocks: Sequence[str], width: int, heads: int, context_width: int) -> None:
        super().__init__()
        self.context_in = nn.Linear(context_width, width)
        self.blocks = nn.ModuleList(
            JointBlock(width, heads, last=index == len(blocks) - 1) if kind == "joint" else DepthwiseBlock(width, heads)
            for index, kind in enumerate(blocks)
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """x [B, L, D], context [B, C, context width] -> [B, L, D]."""
        context = self.context_in(context)
        for block in self.blocks:
            x, context = block(x, context)
        return self.norm(x)


class PointEmbedding(nn.Module):
    """Surface points as tokens: sines and cosines of eight octaves, a linear layer and a norm (SPEC 5.3)."""

    octaves = 8

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Linear(6 * self.octaves + 3, width)
        self.norm = nn.LayerNorm(width, eps=1e-5)

    def basis(self, device: torch.device | None = None) -> Tensor:
        """[3, 24]: the frequencies pi 2^k of each axis, axis-major."""
        frequencies = math.pi * 2.0 ** torch.arange(self.octaves, device=device)
        return torch.block_diag(frequencies, frequencies, frequencies)

    def forward(self, points: Tensor) -> Tensor:
        """[..., 3] metres -> [..., D]."""
        angles = points @ self.basis(points.device).to(points.dtype)
        return self.norm(self.mlp(torch.cat([angles.sin(), angles.cos(), points], -1)))


def to_grid(x: Tensor) -> Tensor:
    """Tokens [B, L, D] in row-major order -> [B, D, g, g], channels last in memory."""
    side = math.isqrt(x.shape[1])
    return x.unflatten(1, (side, side)).permute(0, 3, 1, 2)


def to_tokens(grid: Tensor) -> Tensor:
    """[B, D, g, g] -> tokens [B, g * g, D] in row-major order."""
    return grid.flatten(2).transpose(1, 2)
