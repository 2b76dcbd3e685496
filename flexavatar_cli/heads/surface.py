"""Points, frames, rotations and stretch of the head's surface at texels; differentiable in the vertices.

positions = surface(grid, vertices)                          # [..., N, 3]
frame = frames(head, grid, vertices)                         # tangent, bitangent, normal, each [..., N, 3]
motion = deformation(head, grid, neutral, vertices)          # rotation [..., N, 3, 3], stretch [..., N, 2]
"""

import warnings
from typing import NamedTuple

import numpy as np
import scipy.sparse as sparse
import torch
from torch import Tensor
from torch.nn.functional import normalize

from flexavatar_cli.heads.head_model import HeadModel
from flexavatar_cli.heads.texels import SKIN, TexelGrid

NORMAL_STEPS = 20  # half-steps of neighbour averaging: normals that displaced hair can follow without folding


class Frames(NamedTuple):
    """Right-handed orthonormal frames, bitangent = normal x tangent."""

    tangent: Tensor  # [..., N, 3], towards +u of the atlas
    bitangent: Tensor  # [..., N, 3]
    normal: Tensor  # [..., N, 3], outward, smoothed over the skin

    def matrix(self) -> Tensor:  # [..., N, 3, 3]
        """Rotation whose columns are tangent, bitangent, normal."""
        return torch.stack(self, -1)


class Deformation(NamedTuple):
    """How the triangle under each texel moved from one shape to another."""

    rotation: Tensor  # [..., N, 3, 3], nearest rotation
    stretch: Tensor  # [..., N, 2], principal tangential stretch ratios, larger first; 1 = unchanged


def surface(grid: TexelGrid, vertices: Tensor) -> Tensor:
    """Positions [..., N, 3] of the texels on the surface with `vertices` [..., V, 3]."""
    flat, shape = _columns(vertices)
    return _back(_sampler(grid, len(flat), vertices.dtype) @ flat, shape)


def vertex_normals(head: HeadModel, vertices: Tensor, steps: int = NORMAL_STEPS) -> Tensor:
    """Area-weighted unit normals [..., V, 3], averaged over the skin's neighbours in `steps` half-steps."""
    flat, shape = _columns(torch.linalg.cross(*_edges(head, vertices)))
    summed = _matrix(head, "sum").to(vertices.dtype) @ flat
    normals = normalize(_back(summed, shape), dim=-1)
    if steps:
        smoother = _matrix(head, "smooth").to(vertices.dtype)
        flat, shape = _columns(normals)
        for _ in range(steps):
            flat = smoother @ flat
        normals = normalize(_back(flat, shape), dim=-1)
    return normals


def frames(head: HeadModel, grid: TexelGrid, vertices: Tensor, steps: int = NORMAL_STEPS) -> Frames:
    """Texel frames from smoothed vertex normals and the atlas' +u direction."""
    normals = vertex_normals(head, vertices, steps)
    normal = normalize(surface(grid, normals), dim=-1)
    along_u = _rows(_face_tangent(head, vertices), grid.face)
    tangent = normalize(along_u - _dot(along_u, normal) * normal, dim=-1)
    return Frames(tangent, torch.linalg.cross(normal, tangent), normal)


def texel_steps(head: HeadModel, grid: TexelGrid, vertices: Tensor) -> tuple[Tensor, Tensor]:
    """Surface steps dP/du and dP/dv per texel, each [..., N, 3] metres per texel of `grid`."""
    table = _uv_table(head).to(vertices.dtype) / grid.resolution  # [F, 2, 2]
    first, second = _edges(head, vertices)
    step = torch.cat([table[:, i, 0:1] * first + table[:, i, 1:2] * second for i in range(2)], -1)
    step = _rows(step, grid.face)
    return step[..., :3], step[..., 3:]


def deformation(head: HeadModel, grid: TexelGrid, neutral: Tensor, vertices: Tensor) -> Deformation:
    """Rotation and stretch of each texel's triangle from `neutral` [..., V, 3] to `vertices` [..., V, 3].

    Polar decomposition of the in-plane 2 x 2 deformation gradient, in closed form. `neutral` may lack the
    leading axes of `vertices`.
    """
    (e0, f0), (e1, f1) = _edges(head, neutral), _edges(head, vertices)
    t0, b0, n0 = _orthonormal(e0, f0)
    t1, b1, n1 = _orthonormal(e1, f1)
    # In the triangle's own axes the edges are (length, 0) and (p, q), so the gradient is [[a, b], [0, d]].
    q0 = _dot(f0, b0).clamp_min(_TINY)
    a = _dot(e1, t1) / _dot(e0, t0).clamp_min(_TINY)
    d = _dot(f1, b1) / q0
    b = (_dot(f1, t1) - a * _dot(f0, t0)) / q0
    half_sum = torch.sqrt((a + d) ** 2 + b**2 + _TINY)
    half_difference = torch.sqrt((a - d) ** 2 + b**2 + _TINY)
    cos, sin = (a + d) / half_sum, -b / half_sum  # the nearest rotation turns by the angle of (a + d, -b)
    after = torch.stack([cos * t1 + sin * b1, cos * b1 - sin * t1, n1], -1)
    before = torch.stack([t0, b0, n0], -1)
    rotation = after @ before.mT
    stretch = torch.cat([half_sum + half_difference, half_sum - half_difference], -1) / 2
    packed = _rows(torch.cat([rotation.flatten(-2), stretch.expand(*rotation.shape[:-2], 2)], -1), grid.face)
    return Deformation(packed[..., :9].unflatten(-1, (3, 3)), packed[..., 9:])


def tangent_table(head: HeadModel) -> Tensor:
    """[F, 2]: dP/du of each triangle = t[0] (v1 - v0) + t[1] (v2 - v0), per unit of the atlas."""
    return _uv_table(head)[:, 0]


def smoothing_links(head: HeadModel) -> tuple[Tensor, Tensor, Tensor]:
    """One half-step of averaging over the skin's neighbours as CSR: starts [V + 1], columns, weights."""
    matrix = _matrix(head, "smooth")
    return matrix.crow_indices(), matrix.col_indices(), matrix.values()


_TINY = 1e-12


def _rows(values: Tensor, index: Tensor) -> Tensor:
    return torch.index_select(values, -2, index)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1, keepdim=True)


def _edges(head: HeadModel, vertices: Tensor) -> tuple[Tensor, Tensor]:
    """Two edges of each triangle, each [..., F, 3]."""
    if "corners" not in head.cache:
        head.cache["corners"] = [corner.contiguous() for corner in head.faces.unbind(-1)]
    origin, first, second = (_rows(vertices, corner) for corner in head.cache["corners"])
    return first - origin, second - origin


def _face_tangent(head: HeadModel, vertices: Tensor) -> Tensor:
    weights = _uv_table(head)[:, 0].to(vertices.dtype)
    first, second = _edges(head, vertices)
    return weights[:, :1] * first + weights[:, 1:] * second


def _orthonormal(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    tangent = normalize(first, dim=-1)
    normal = normalize(torch.linalg.cross(first, second), dim=-1)
    return tangent, torch.linalg.cross(normal, tangent), normal


def _columns(values: Tensor) -> tuple[Tensor, torch.Size]:
    """[..., M, 3] as [M, 3 * B] for a sparse product."""
    return values.movedim(-2, 0).reshape(values.shape[-2], -1), values.shape


def _back(flat: Tensor, shape: torch.Size) -> Tensor:
    return flat.reshape(len(flat), *shape[:-2], 3).movedim(0, -2)


def _uv_table(head: HeadModel) -> Tensor:
    """[F, 2, 2]: dP/du = t[0, 0] e1 + t[0, 1] e2 and dP/dv likewise, per unit of the atlas; kept by the head."""
    if "uv_table" not in head.cache:
        triangle = head.uv[head.faces_uv].double()
        matrix = triangle[:, 1:] - triangle[:, :1]  # rows: uv of the edges
        determinant = matrix[:, 0, 0] * matrix[:, 1, 1] - matrix[:, 0, 1] * matrix[:, 1, 0]
        adjugate = torch.stack([matrix[:, 1, 1], -matrix[:, 0, 1], -matrix[:, 1, 0], matrix[:, 0, 0]], -1)
        safe = torch.where(determinant.abs() < 1e-12, torch.ones_like(determinant), determinant)
        head.cache["uv_table"] = (adjugate / safe[:, None]).unflatten(-1, (2, 2)).float()
    return head.cache["uv_table"]


def _matrix(head: HeadModel, name: str) -> Tensor:
    """Sparse matrices, made once per head: face -> vertex sum, and one half-step of averaging over skin neighbours."""
    if name not in head.cache:
        faces = head.faces.cpu().numpy()
        count = len(head.template)
        rows, columns = faces.reshape(-1), np.repeat(np.arange(len(faces)), 3)
        if name == "sum":
            matrix = sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(count, len(faces)))
        else:
            skin = [head.part_names.index(part) for part in SKIN]
            skin_faces = faces[np.isin(head.face_part.cpu().numpy(), skin)]
            pairs = np.concatenate([skin_faces[:, [i, j]] for i in range(3) for j in range(3) if i != j])
            links = sparse.csr_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
            links.data[:] = 1
            degree = np.asarray(links.sum(1)).reshape(-1)
            own = np.where(degree > 0, 0.5, 1.0)
            matrix = sparse.diags(own) + sparse.diags(0.5 / np.maximum(degree, 1)) @ links
        head.cache[name] = _torch_csr(matrix.tocsr()).to(head.template.device)
    return head.cache[name]


def _sampler(grid: TexelGrid, vertices: int, dtype: torch.dtype) -> Tensor:
    """Sparse [N, V] of barycentric weights, made once per grid."""
    if "sampler" not in grid.cache:
        rows = np.repeat(np.arange(len(grid)), 3)
        corners, weights = grid.corners.cpu().numpy().reshape(-1), grid.bary.cpu().numpy().reshape(-1)
        matrix = sparse.csr_matrix((weights, (rows, corners)), shape=(len(grid), vertices))
        grid.cache["sampler"] = _torch_csr(matrix).to(grid.index.device)
    return grid.cache["sampler"].to(dtype)


def _torch_csr(matrix: sparse.csr_matrix) -> Tensor:
    crow, column = torch.from_numpy(matrix.indptr.astype(np.int64)), torch.from_numpy(matrix.indices.astype(np.int64))
    values = torch.from_numpy(matrix.data.astype(np.float32))
    with warnings.catch_warnings():  # torch calls its CSR tensors a beta feature, once per process
        warnings.simplefilter("ignore", UserWarning)
        return torch.sparse_csr_tensor(crow, column, values, matrix.shape)
