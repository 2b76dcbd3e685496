"""Where the tokens and the kept texels lie on the head: plain buffers, so that no head model is needed here."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from flexavatar_cli.core.errors import WeightsError
from flexavatar_cli.model.encoder import end_inclusive_grid, sample


@dataclass(frozen=True)
class Template:
    """N kept texels of an R x R atlas and L token positions on the same surface."""

    resolution: int  # R
    texel_index: Tensor  # [N] int64, row * R + column, ascending
    query_positions: Tensor  # [L, 3] metres, row-major over the token grid; (0, 0, 0) off the surface
    base_positions: Tensor | None = None  # [N, 3] metres, what a static anchor's offsets start from

    def __post_init__(self) -> None:
        index, count = self.texel_index, len(self.texel_index)
        if index.ndim != 1 or (count and not 0 <= int(index.min()) <= int(index.max()) < self.resolution**2):
            raise ValueError(f"Template.texel_index must be [N] within {self.resolution}^2")
        if self.query_positions.ndim != 2 or self.query_positions.shape[1] != 3:
            raise ValueError(f"Template.query_positions must be [L, 3], not {tuple(self.query_positions.shape)}")
        if self.base_positions is not None and self.base_positions.shape != (count, 3):
            raise ValueError(f"Template.base_positions must be {(count, 3)}, not {tuple(self.base_positions.shape)}")

    @classmethod
    def from_texels(
        cls,
        resolution: int,
        texel_index: Tensor,  # [N] valid texels of the R x R atlas
        grid: int,
        token_index: Tensor,  # [M] valid texels of the grid x grid atlas
        token_positions: Tensor,  # [M, 3] metres
        base_positions: Tensor | None = None,  # [N, 3]
    ) -> "Template":
        """The template of an atlas, given which of its texels lie on the surface at both resolutions."""
        queries = torch.zeros(grid * grid, 3)
        queries[token_index] = token_positions.float().cpu()
        return cls(resolution, texel_index.long(), queries, base_positions)

    @classmethod
    def sphere(cls, resolution: int, grid: int, radius: float = 0.1) -> "Template":
        """A stand-in without a head model, for tests: every texel is kept, on a latitude-longitude sphere."""

        def points(side: int) -> Tensor:
            turn = (torch.arange(side) + 0.5) / side
            polar, azimuth = torch.meshgrid(turn * torch.pi, turn * 2 * torch.pi, indexing="ij")
            unit = [polar.sin() * azimuth.sin(), polar.cos(), polar.sin() * azimuth.cos()]
            return radius * torch.stack(unit, -1).flatten(0, 1)

        return cls(resolution, torch.arange(resolution**2), points(grid), points(resolution))


def read_obj(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Vertices [V, 3] and uv [W, 2] float32, position and texture corners [F, 3] of a triangle OBJ.

    Raises WeightsError if the file is missing or is no such mesh (SPEC 5.1).
    """
    rows: dict[str, list[list[str]]] = {"v": [], "vt": [], "f": []}
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            kind, *values = line.split() or [""]
            if kind in rows:
                rows[kind].append(values)
        corners = np.array([[corner.split("/")[:2] for corner in face] for face in rows["f"]], np.int64) - 1
        vertices = np.array([row[:3] for row in rows["v"]], np.float32)
        uv = np.array([row[:2] for row in rows["vt"]], np.float32)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise WeightsError(f"{path}: not an OBJ of triangles with v/vt corners ({error})") from error
    if (
        corners.ndim != 3
        or corners.shape[1:] != (3, 2)
        or (corners.min((0, 1)) < 0).any()
        or (corners.max((0, 1)) >= (len(vertices), len(uv))).any()
    ):
        raise WeightsError(f"{path}: not an OBJ of triangles with v/vt corners")
    return vertices, uv, corners[..., 0], corners[..., 1]


def rasterise(
    vertices: np.ndarray,  # [V, 3] float32
    uv: np.ndarray,  # [W, 2] float32
    faces: np.ndarray,  # [F, 3]
    faces_uv: np.ndarray,  # [F, 3]
    resolution: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Surface point of every texel centre [R, R, 3] float32 and coverage [R, R] bool (SPEC 5.2).

    No vertical flip; where triangles overlap the lowest index wins; uncovered texels hold zeros.
    """
    points = np.zeros((resolution, resolution, 3), np.float32)
    covered = np.zeros((resolution, resolution), bool)
    low, high = uv[faces_uv].min(1) * resolution, uv[faces_uv].max(1) * resolution
    first = np.maximum(0, np.trunc(low).astype(int) - 1)
    last = np.minimum(resolution, np.trunc(high).astype(int) + 2)
    for face in range(len(faces) - 1, -1, -1):
        (column, row), (column_end, row_end) = first[face], last[face]
        v, u = np.mgrid[row:row_end, column:column_end]
        centres = np.stack([(u + 0.5) / resolution, (v + 0.5) / resolution], -1)
        a, b, c = uv[faces_uv[face]].astype(np.float64)
        weights = _barycentric(centres, a, b, c)
        inside = (weights >= 0).all(-1)
        surface = weights[inside].astype(np.float32).astype(np.float64) @ vertices[faces[face]].astype(np.float64)
        points[v[inside], u[inside]] = surface
        covered[v[inside], u[inside]] = True
    return points, covered


def _barycentric(points: np.ndarray, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Weights [..., 3] of points [..., 2] in the triangle a, b, c; -1 everywhere if it has no area."""

    def cross(p: np.ndarray, q: np.ndarray) -> np.ndarray:
        return p[..., 0] * q[..., 1] - p[..., 1] * q[..., 0]

    area = cross(b - a, c - a)
    if area == 0:
        return np.full((*points.shape[:-1], 3), -1.0)
    second, third = cross(points - a, c - a) / area, cross(b - a, points - a) / area
    return np.stack([1 - second - third, second, third], -1)


def template_from_obj(path: Path, resolution: int, grid: int) -> Template:
    """The kept texels and base positions of a static template surface (SPEC 5.2, 5.3, 8.1)."""
    mesh = read_obj(path)
    queries, _ = rasterise(*mesh, grid)
    points, covered = rasterise(*mesh, resolution)
    nodes = end_inclusive_grid(resolution)
    kept = sample(torch.from_numpy(covered)[None, None].float(), nodes)[0, 0] > 0.99
    base = sample(torch.from_numpy(points).permute(2, 0, 1)[None], nodes)[0].permute(1, 2, 0)[kept]
    index = kept.flatten().nonzero()[:, 0]
    return Template(resolution, index, torch.from_numpy(queries).reshape(-1, 3), base)
