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

NORMAL_STEPS = 6  # half-steps of neighbour averaging: normals that displaced hair can follow without folding


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
    corners = _rows(vertices, grid.corners.reshape(-1)).unflatten(-2, (-1, 3))
    weights = grid.bary.to(vertices.dtype)
    return (corners * weights[..., None]).sum(-2)


def vertex_normals(head: HeadModel, vertices: Tensor, steps: int = NORMAL_STEPS) -> Tensor:
    """Area-weighted unit normals [..., V, 3], averaged over the skin's neighbours in `steps` half-steps."""
    cross = _face_cross(head, vertices)
    flat, shape = _columns(cross)
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
    along_u = _face_tangent(head, vertices)
    tangent = _rows(along_u, grid.face)
    tangent = normalize(tangent - (tangent * normal).sum(-1, keepdim=True) * normal, dim=-1)
    return Frames(tangent, torch.linalg.cross(normal, tangent), normal)


def texel_steps(head: HeadModel, grid: TexelGrid, vertices: Tensor) -> tuple[Tensor, Tensor]:
    """Surface steps dP/du and dP/dv per texel, each [..., N, 3] metres per texel of `grid`."""
    edges = _edges(head, vertices)
    table = _uv_table(head).to(vertices.dtype) / grid.resolution  # [F, 2, 2]
    step = torch.einsum("fij,...fjc->...fic", table, edges)
    step = _rows(step.flatten(-2), grid.face)
    return step[..., :3], step[..., 3:]


def deformation(head: HeadModel, grid: TexelGrid, neutral: Tensor, vertices: Tensor) -> Deformation:
    """Rotation and stretch of each texel's triangle from `neutral` [..., V, 3] to `vertices` [..., V, 3].

    Polar decomposition of the in-plane 2 x 2 deformation gradient, in closed form. `neutral` may lack the
    leading axes of `vertices`.
    """
    before, after = _edges(head, neutral), _edges(head, vertices)
    t0, b0, n0 = _orthonormal(before)
    t1, b1, n1 = _orthonormal(after)
    # edges in the triangle's own axes are upper triangular: e1 = (l, 0), e2 = (p, q)
    l0, p0, q0 = _dot(before[..., 0, :], t0), _dot(before[..., 1, :], t0), _dot(before[..., 1, :], b0)
    l1, p1, q1 = _dot(after[..., 0, :], t1), _dot(after[..., 1, :], t1), _dot(after[..., 1, :], b1)
    tiny = 1e-12
    a = l1 / l0.clamp_min(tiny)
    d = q1 / q0.clamp_min(tiny)
    b = (p1 - a * p0) / q0.clamp_min(tiny)
    # [[a, b], [0, d]]: rotation angle from (a + d, -b), singular values from the two half-sums
    half_sum = torch.sqrt((a + d) ** 2 + b**2 + tiny)
    half_difference = torch.sqrt((a - d) ** 2 + b**2 + tiny)
    cos, sin = ((a + d) / half_sum)[..., None], (-b / half_sum)[..., None]
    turned_t, turned_b = cos * t1 + sin * b1, cos * b1 - sin * t1
    rotation = (
        turned_t[..., :, None] * t0[..., None, :]
        + turned_b[..., :, None] * b0[..., None, :]
        + n1[..., :, None] * n0[..., None, :]
    )
    stretch = torch.stack([half_sum + half_difference, half_sum - half_difference], -1) / 2
    packed = _rows(torch.cat([rotation.flatten(-2), stretch], -1), grid.face)
    return Deformation(packed[..., :9].unflatten(-1, (3, 3)), packed[..., 9:])


def _rows(values: Tensor, index: Tensor) -> Tensor:
    return torch.index_select(values, -2, index)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1)


def _edges(head: HeadModel, vertices: Tensor) -> Tensor:
    """Two edges of each triangle [..., F, 2, 3]."""
    corners = _rows(vertices, head.faces.reshape(-1)).unflatten(-2, (-1, 3))
    return corners[..., 1:, :] - corners[..., :1, :]


def _face_cross(head: HeadModel, vertices: Tensor) -> Tensor:
    edges = _edges(head, vertices)
    return torch.linalg.cross(edges[..., 0, :], edges[..., 1, :])


def _face_tangent(head: HeadModel, vertices: Tensor) -> Tensor:
    weights = _uv_table(head)[:, 0].to(vertices.dtype)
    return (_edges(head, vertices) * weights[..., None]).sum(-2)


def _orthonormal(edges: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    first = normalize(edges[..., 0, :], dim=-1)
    normal = normalize(torch.linalg.cross(edges[..., 0, :], edges[..., 1, :]), dim=-1)
    return first, torch.linalg.cross(normal, first), normal


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


def _torch_csr(matrix: sparse.csr_matrix) -> Tensor:
    crow, column = torch.from_numpy(matrix.indptr.astype(np.int64)), torch.from_numpy(matrix.indices.astype(np.int64))
    values = torch.from_numpy(matrix.data.astype(np.float32))
    with warnings.catch_warnings():  # torch calls its CSR tensors a beta feature, once per process
        warnings.simplefilter("ignore", UserWarning)
        return torch.sparse_csr_tensor(crow, column, values, matrix.shape)
