"""Photo -> avatar code: image trunks, UV queries and the skip path (SPEC 4, 5)."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from flexavatar_cli.model.attention import (
    PointEmbedding,
    Transformer,
    feed_forward,
    merge_heads,
    split_heads,
    to_tokens,
)
from flexavatar_cli.model.config import DetailConfig, ModelConfig, TrunkConfig


def plucker_map(
    cam2world: Tensor,  # [B, 4, 4] OpenCV
    intrinsics: Tensor,  # [B, 3, 3] normalised: fx, fy, cx, cy in pixels divided by the picture size
    height: int,
    width: int,
) -> Tensor:  # [B, 6, height, width]
    """Ray of every pixel as moment o x d (3), then unit direction d (3), in world space (SPEC 4.1).

    The grid is x / (W - 1) without a half-pixel offset: a quirk of the published model, kept by ours.
    """
    device, dtype = cam2world.device, cam2world.dtype
    x = torch.arange(width, device=device, dtype=dtype) / (width - 1)
    y = torch.arange(height, device=device, dtype=dtype) / (height - 1)
    fx, fy, cx, cy = (intrinsics[:, i, j, None, None] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    dx = ((x - cx) / fx).expand(-1, height, -1)
    dy = ((y[:, None] - cy) / fy).expand(-1, -1, width)
    local = torch.stack([dx, dy, torch.ones_like(dx)], 1)
    direction = functional.normalize(torch.einsum("bij,bjhw->bihw", cam2world[:, :3, :3], local), dim=1)
    origin = cam2world[:, :3, 3, None, None].expand_as(direction)
    return torch.cat([torch.linalg.cross(origin, direction, dim=1), direction], 1)


def patchify(maps: Tensor, patch: int) -> Tensor:
    """[B, C, R, R] -> tokens [B, (R / patch)^2, C * patch * patch], channel-major within a token."""
    b, c, h, w = maps.shape
    blocks = maps.reshape(b, c, h // patch, patch, w // patch, patch)
    return blocks.permute(0, 2, 4, 1, 3, 5).reshape(b, -1, c * patch * patch)


def unpatchify(tokens: Tensor, patch: int) -> Tensor:
    """The inverse of `patchify` on a square grid: [B, L, C * patch * patch] -> [B, C, R, R]."""
    side = math.isqrt(tokens.shape[1])
    blocks = tokens.unflatten(2, (-1, patch, patch)).unflatten(1, (side, side))
    return blocks.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


def end_inclusive_grid(resolution: int, device: torch.device | None = None) -> Tensor:
    """Sampling grid [R, R, 2] of linspace(-1, 1) nodes, x first (SPEC 1)."""
    line = torch.linspace(-1, 1, resolution, device=device)
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x, y], -1)


def sample(maps: Tensor, grid: Tensor) -> Tensor:
    """Bilinear, zero-padded, align_corners=False: [B, C, S, S] at [H, W, 2] -> [B, C, H, W] (SPEC 1)."""
    grid = grid.to(maps.dtype).expand(len(maps), -1, -1, -1)
    return functional.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def cosine_basis(patch: int, order: int) -> Tensor:
    """[order^2, patch^2] orthonormal rows: the lowest 2-D cosines of a patch (DCT-II), frequency row-major."""
    k, n = torch.arange(order, dtype=torch.float64)[:, None], torch.arange(patch, dtype=torch.float64)
    line = torch.cos(math.pi * (n + 0.5) * k / patch) * math.sqrt(2 / patch)
    line[0] /= math.sqrt(2)
    return torch.kron(line, line).float()


def detail_basis(detail: DetailConfig, width: int) -> Tensor:
    """[width, 5 * patch^2]: initial code of the detail channels colour (3), displacement, opacity logit.

    Rows are orthonormal, so its transpose decodes what it encodes; rows past `detail.dims` are zero.
    """
    area = detail.patch**2
    color, smooth = cosine_basis(detail.patch, detail.color_order), cosine_basis(detail.patch, detail.smooth_order)
    basis = torch.zeros(width, 5 * area)
    row = 0
    for channel in range(5):
        part = color if channel < 3 else smooth
        basis[row : row + len(part), channel * area : (channel + 1) * area] = part
        row += len(part)
    return basis


class ResidualConv(nn.Module):
    """Two 3x3 convolutions beside the identity, GroupNorm before each."""

    def __init__(self, width: int) -> None:
        super().__init__()
        groups = math.gcd(8, width)
        self.norm1, self.norm2 = nn.GroupNorm(groups, width), nn.GroupNorm(groups, width)
        self.conv1, self.conv2 = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same shape."""
        inner = self.conv1(functional.silu(self.norm1(x)))
        return x + self.conv2(functional.silu(self.norm2(inner)))


class ConvTrunk(nn.Module):
    """Strided convolutions with residual blocks: [B, 9, S, S] -> tokens [B, (S / 2^stages)^2, width]."""

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        self.width = config.widths[-1]
        stages: list[nn.Module] = []
        before = config.channels
        for width, blocks in zip(config.widths, config.residual_blocks, strict=True):
            stages += [nn.Conv2d(before, width, 3, stride=2, padding=1), nn.GroupNorm(math.gcd(8, width), width)]
            stages += [nn.SiLU(), *(ResidualConv(width) for _ in range(blocks))]
            before = width
        self.stages = nn.Sequential(*stages)

    def forward(self, image: Tensor, features: Tensor | None) -> Tensor:
        """image [B, 9, S, S]; features must be None."""
        if features is not None:
            raise ValueError("a conv trunk takes no image features")
        return to_tokens(self.stages(image))


class CausalBlock(nn.Module):
    """Pre-norm block with causal attention in raster order and exact GELU (SPEC 4.3)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_ff = nn.LayerNorm(width, eps=1e-5), nn.LayerNorm(width, eps=1e-5)
        self.to_qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.ff = feed_forward(width, "none")

    def attention(self, x: Tensor) -> Tensor:
        """What attention adds to x: [B, L, D] -> [B, L, D]."""
        q, k, v = (split_heads(part, self.heads) for part in self.to_qkv(self.norm_attention(x)).chunk(3, -1))
        return self.out(merge_heads(functional.scaled_dot_product_attention(q, k, v, is_causal=True)))

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D]."""
        x = x + self.attention(x)
        return x + self.ff(self.norm_ff(x))


class GptTrunk(nn.Module):
    """Patchify, causal transformer, fusion with frozen image features (SPEC 4.2, 4.3, 4.5)."""

    def __init__(self, config: TrunkConfig, width: int, heads: int) -> None:
        super().__init__()
        self.width = width
        self.grid = config.image_size // config.patch
        self.patchify = nn.Conv2d(config.channels, width, config.patch, config.patch, bias=False)
        self.positions = nn.Embedding(self.grid**2, width)
        self.blocks = nn.ModuleList(CausalBlock(width, heads) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width, eps=1e-5)
        self.feature_dim = config.feature_dim
        self.fuse = nn.Linear(width + config.feature_dim, width) if config.feature_dim else None

    def tokens(self, image: Tensor) -> Tensor:
        """[B, 9, S, S] -> [B, L, D], before fusion."""
        x = to_tokens(self.patchify(image)) + self.positions.weight
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def upsampled(self, features: Tensor) -> Tensor:
        """Feature map [B, F, s, s] -> tokens [B, L, F], on the end-inclusive grid (SPEC 4.4)."""
        return to_tokens(sample(features, end_inclusive_grid(self.grid, features.device)))

    def forward(self, image: Tensor, features: Tensor | None) -> Tensor:
        """image [B, 9, S, S], features [B, F, s, s] -> [B, L, D]."""
        tokens = self.tokens(image)
        if self.fuse is None:
            return tokens
        if features is None or features.shape[1] != self.feature_dim:
            raise ValueError(f"this model needs image features [B, {self.feature_dim}, s, s]")
        return self.fuse(torch.cat([tokens, self.upsampled(features)], -1))


class Encoder(nn.Module):
    """Image, camera and UV features -> avatar code A."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, uv = config.width, config.uv_features
        trunk, heads = config.trunk, config.heads
        self.trunk = ConvTrunk(trunk) if trunk.kind == "conv" else GptTrunk(trunk, width, heads)
        self.points = PointEmbedding(width)
        self.transformer = Transformer(config.encoder, width, heads, self.trunk.width)
        self.patch = uv.patch if uv else 0
        self.uv_channels = uv.channels if uv else 0
        self.uv_patch = nn.Linear(uv.channels * uv.patch**2, width) if uv else None
        self.patch_code = nn.Linear(4 * config.detail.patch**2, width) if config.detail else None
        self.to_code = nn.Linear(width, width) if config.code_norm == "none" else None

    def forward(
        self,
        image: Tensor,  # [B, 3, S, S] RGB on white
        plucker: Tensor,  # [B, 6, S, S]
        query_positions: Tensor,  # [L, 3]
        uv_features: Tensor | None,  # [B, C, R, R]
        image_features: Tensor | None,  # [B, F, s, s]
    ) -> Tensor:  # [B, L, D]
        """A = skip path + transformer output; with `code_norm: layernorm` the transformer's norm is the last step."""
        context = self.trunk(torch.cat([image, plucker], 1), image_features)
        queries = self.points(query_positions).expand(len(image), -1, -1)
        if self.uv_patch is None:
            code = self.transformer(queries, context)
        elif uv_features is None or uv_features.shape[1] != self.uv_channels:
            raise ValueError(f"this model needs uv_features [B, {self.uv_channels}, R, R]")
        else:
            code = self.transformer(queries + self.uv_patch(patchify(uv_features, self.patch)), context)
        if self.to_code is not None:
            code = self.to_code(code)
        if self.patch_code is not None and uv_features is not None:
            code = code + self.patch_code(patchify(uv_features[:, :4], self.patch))
        return code
