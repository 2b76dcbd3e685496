"""Texels of a head's UV atlas: which are valid, and the surface point each one stands for."""

from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from flexavatar_cli.core.errors import WeightsError


@dataclass(frozen=True)
class TexelGrid:
    """The N valid texels of an R x R atlas in row-major order; a texel is valid where its centre lies in a chart.

    Where texels are much higher than wide (the neck), each column stands for points a little further up or down than
    the one beside it, so that all together cover the surface evenly: `staggered`.
    """

    resolution: int  # R
    valid: Tensor  # [R, R] bool
    index: Tensor  # [N] int64, row * R + column
    face: Tensor  # [N] int64, triangle
    bary: Tensor  # [N, 3] float32, weights of the triangle's corners, sum 1
    part: Tensor  # [N] int64, index into HeadModel.part_names
    mirror: Tensor  # [N] int64, texel nearest to the point mirrored in x
    corners: Tensor  # [N, 3] int64, vertices of the texel's triangle
    neighbours: Tensor  # [4, N] int64: texel to the left, right, above, below (itself where there is none)
    cache: dict = field(default_factory=dict, init=False, repr=False, compare=False)  # matrices made on demand

    def __len__(self) -> int:
        return len(self.index)

    def to(self, device: torch.device | str) -> "TexelGrid":
        """The same grid on `device`."""
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return TexelGrid(resolution=self.resolution, **moved)

    def scatter(self, values: Tensor, fill: float = 0.0) -> Tensor:
        """Picture [..., R, R, C] of texel values [..., N, C], `fill` where no texel is."""
        size = self.resolution
        picture = values.new_full((*values.shape[:-2], size * size, values.shape[-1]), fill)
        picture[..., self.index, :] = values
        return picture.unflatten(-2, (size, size))

    def gather(self, picture: Tensor) -> Tensor:
        """Texel values [..., N, C] of a picture [..., R, R, C]."""
        return picture.flatten(-3, -2)[..., self.index, :]


def rasterise(uv_triangles: np.ndarray, resolution: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Texels whose centre lies in a triangle: index [N] ascending, triangle [N], barycentric weights [N, 3].

    `uv_triangles` [F, 3, 2] in 0..1, v down. Where triangles overlap the first one wins.
    """
    corners = uv_triangles.astype(np.float64) * resolution - 0.5  # texel centres are now integers
    low = np.clip(np.ceil(corners.min(1) - 1e-9), 0, resolution).astype(np.int64)
    high = np.clip(np.floor(corners.max(1) + 1e-9) + 1, 0, resolution).astype(np.int64)
    span = np.maximum(high - low, 0)
    count = span[:, 0] * span[:, 1]
    triangle = np.repeat(np.arange(len(corners)), count)
    rank = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    column = low[triangle, 0] + rank % np.maximum(span[triangle, 0], 1)
    row = low[triangle, 1] + rank // np.maximum(span[triangle, 0], 1)
    a, b, c = corners[triangle, 0], corners[triangle, 1], corners[triangle, 2]
    point = np.stack([column, row], -1)
    area = _cross(b - a, c - a)
    with np.errstate(divide="ignore", invalid="ignore"):
        bary = np.stack([_cross(b - point, c - point), _cross(c - point, a - point), _cross(a - point, b - point)], -1)
        bary /= area[:, None]
    inside = (bary > -1e-7).all(-1) & (np.abs(area) > 1e-12)
    texel, first = np.unique((row * resolution + column)[inside], return_index=True)
    weights = np.clip(bary[inside][first], 0, None)
    return texel, triangle[inside][first], weights / weights.sum(-1, keepdims=True)


def texel_grid(
    template: Tensor,  # [V, 3] metres
    faces: Tensor,  # [F, 3]
    uv: Tensor,  # [W, 2]
    faces_uv: Tensor,  # [F, 3]
    face_part: Tensor,  # [F]
    part_names: tuple[str, ...],
    resolution: int,
) -> TexelGrid:
    """Texels of the atlas at `resolution`. Raises WeightsError if none is valid."""
    uv_triangles, triangles = uv[faces_uv].cpu().numpy(), template.cpu().numpy()[faces.cpu().numpy()]
    index, face, bary = rasterise(uv_triangles, resolution)
    if len(index) == 0:
        raise WeightsError(f"head model: its atlas has no valid texel at {resolution}")
    part_of, named = face_part.cpu().numpy(), np.array(part_names)
    height = np.where(np.isin(named[part_of], STAGGERED_PARTS), _heights(uv_triangles, triangles), 1.0)[face]
    face, bary = staggered(index, face, bary, height, uv_triangles, resolution)
    part = part_of[face]
    corners = faces.cpu().numpy()[face]
    triangle = triangles[face]
    points = np.einsum("nk,nkc->nc", bary, triangle)
    normal = np.cross(triangle[:, 1] - triangle[:, 0], triangle[:, 2] - triangle[:, 0])
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True) + 1e-20
    valid = np.zeros(resolution * resolution, bool)
    valid[index] = True
    arrays = {
        "index": index,
        "face": face,
        "part": part,
        "corners": corners,
        "mirror": _mirror(points, normal, part, part_names),
        "neighbours": _neighbours(index, points, height, resolution),
    }
    return TexelGrid(
        resolution=resolution,
        valid=torch.from_numpy(valid.reshape(resolution, resolution)),
        bary=torch.from_numpy(bary.astype(np.float32)),
        **{name: torch.from_numpy(np.ascontiguousarray(value.astype(np.int64))) for name, value in arrays.items()},
    )


SKIN = ("face", "scalp", "neck", "bust")
STAGGERED_PARTS = ("neck", "bust")
TALL = 3.0  # heights per width, from which on texels are staggered
TALLEST = 8.2  # ... from which on the third column is nearer than the next one
PERIOD = 5  # columns after which the stagger repeats; each is two fifths of a row below the one before
SAME_CHART = 0.02  # metres; neighbouring texels further apart belong to different charts
_NORMAL_WEIGHT = 0.004  # metres: opposite sides of the lips or of an ear count as 8 mm apart


def _heights(uv_triangles: np.ndarray, triangles: np.ndarray) -> np.ndarray:  # [F, 3, 2], [F, 3, 3] -> [F]
    """How many times as high as wide a texel of each triangle is on the surface."""
    (u0, v0), (u1, v1) = (
        np.moveaxis(uv_triangles[:, k] - uv_triangles[:, 0], -1, 0).astype(np.float64) for k in (1, 2)
    )
    first, second = triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]
    across = np.linalg.norm(v1[:, None] * first - v0[:, None] * second, axis=-1)
    down = np.linalg.norm(u0[:, None] * second - u1[:, None] * first, axis=-1)
    return down / np.maximum(across, 1e-12)


def stagger(column: np.ndarray) -> np.ndarray:
    """Fifths of a row by which texels of a column stand for points further down: 0, 2, -1, 1, -2, and again."""
    return (2 * column + PERIOD // 2) % PERIOD - PERIOD // 2


def staggered(
    index: np.ndarray,  # [N]
    face: np.ndarray,  # [N]
    bary: np.ndarray,  # [N, 3]
    height: np.ndarray,  # [N] of texels, in widths
    uv_triangles: np.ndarray,  # [F, 3, 2]
    resolution: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Triangle [N] and weights [N, 3] of the points that tall texels stand for; of the others, as they are.

    Where a texel is 9 mm high and 0.7 wide, an edge that runs across is drawn in steps of 9 mm. Moved up and down in
    turn, the same texels form a lattice whose points are 2.5 mm apart in all directions.
    """
    face, bary = face.copy(), bary.copy()
    shift = np.where(height > TALL, stagger(index % resolution), 0)
    for fifths in np.unique(shift[shift != 0]):
        moved = uv_triangles - np.array([0, fifths / PERIOD / resolution])
        texel, triangle, weights = rasterise(moved, resolution)
        at = np.minimum(np.searchsorted(texel, index), len(texel) - 1)
        there = (shift == fifths) & (texel[at] == index)
        face[there], bary[there] = triangle[at[there]], weights[at[there]]
    return face, bary


def _neighbours(index: np.ndarray, points: np.ndarray, height: np.ndarray, resolution: int) -> np.ndarray:  # [4, N]
    """Texels on both sides along two short steps, which are those of the grid, or of the lattice where it is staggered.

    The lattice's shortest steps, to the right and down, are two columns and -1/5 row, and one column and 2/5 row, or
    three columns and 1/5 row where texels are very tall: all go from texel to texel by whole rows of the grid.
    """
    row, column = index // resolution, index % resolution
    tall = height > TALL
    lookup = np.full(resolution * resolution, -1)
    lookup[index] = np.arange(len(index))
    right = np.where(tall, 2, 1), np.where(tall, -1, 0)
    below = (
        np.where(tall, np.where(height > TALLEST, 3, 1), 0),
        np.where(tall, np.where(height > TALLEST, 1, 2), PERIOD),
    )
    table = []
    for sign, (columns, fifths) in ((-1, right), (1, right), (-1, below), (1, below)):
        there = column + sign * columns
        change = np.where(tall, stagger(there) - stagger(column), 0)
        at = row + (sign * fifths - change) // PERIOD
        within = (there >= 0) & (there < resolution) & (at >= 0) & (at < resolution)
        other = np.where(within, lookup[np.where(within, at * resolution + there, 0)], -1)
        other = np.where(other < 0, np.arange(len(index)), other)
        apart = np.linalg.norm(points[other] - points, axis=-1) > SAME_CHART
        table.append(np.where(apart, np.arange(len(index)), other))
    return np.stack(table)


def _mirror(points: np.ndarray, normal: np.ndarray, part: np.ndarray, part_names: tuple[str, ...]) -> np.ndarray:
    """For each texel the nearest one of the mirrored point, among the mirrored part (all skin is one part)."""
    group = np.array(["skin" if name in SKIN else name for name in part_names])
    swap = {name: name.replace("left", "*").replace("right", "left").replace("*", "right") for name in group}
    feature = np.concatenate([points, _NORMAL_WEIGHT * normal], -1)
    mirror = np.arange(len(points))
    texel_group = group[part]
    for name in np.unique(texel_group):
        source, target = np.flatnonzero(texel_group == name), np.flatnonzero(texel_group == swap[name])
        if len(target):
            wanted = feature[source] * [-1, 1, 1, -1, 1, 1]
            mirror[source] = target[cKDTree(feature[target]).query(wanted)[1]]
    return mirror


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
