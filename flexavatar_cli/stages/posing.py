"""The rig's forward pass for one frame on a CPU: what `rig.rigged_gaussians` says, in three Numba sweeps.

No gradients, no temporaries, one thread that lets others run: vertex normals, then texel positions, then splat axes,
sizes and quaternions. The torch version is the one to read, and the one that fitting differentiates;
`tests/stages/test_posing.py` holds the two together.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from flexavatar_cli.core.gaussians import Gaussians
from flexavatar_cli.heads.surface import NORMAL_STEPS, smoothing_links, tangent_table
from flexavatar_cli.stages.rig import LONGEST_STEP, SIZE_SHARE, SMALLEST_SIGMA, STRETCHED_STEP, THICKNESS, RigAnchor

# a * b + c in one and division as a product with the reciprocal, but nothing that drops a NaN; other threads may run
FAST: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy", "fastmath": {"contract", "arcp"}}

Array = np.ndarray
Number = Any  # float32 or float64, whichever went in
Row = tuple[Number, Number, Number]


@dataclass(frozen=True)
class Pose:
    """Where the texels of one identity go; the head's and the atlas' tables as plain arrays, made once."""

    anchor: RigAnchor
    identity: Tensor  # [K]
    faces: Array  # [F, 3] int32
    links: tuple[Array, Array, Array]  # CSR of one half-step of averaging: starts [V + 1], columns, weights
    corners: Array  # [N, 3] int32, vertices of the texel's triangle
    bary: Array  # [N, 3] float32
    tangent: Array  # [N, 2] float32: dP/du of the texel's triangle = t0 (v1 - v0) + t1 (v2 - v0)
    neighbours: Array  # [4, N] int32
    reach: Array  # [N] float32

    def vertices(self, expression: Tensor) -> Array:  # [E] -> [V, 3] float32 metres
        """The posed head."""
        return self.anchor.head.vertices(self.identity, expression).contiguous().numpy()

    def gaussians(
        self,
        expression: Tensor,  # [E]
        offset: Tensor,  # [N, 3] metres in the surface frame
        scale: Tensor,  # [N, 3] multiples of the anchor's size
        rotation: Tensor,  # [N, 4] wxyz
        opacity: Tensor,  # [N]
        color: Tensor,  # [N, 3]
    ) -> Gaussians:
        """Gaussians of one expression; opacity and colour pass through uncopied."""
        vertices = self.vertices(expression)
        normals = np.empty_like(vertices)
        vertex_normals(vertices, self.faces, self.links, NORMAL_STEPS, normals)
        count = len(self.bary)
        positions = np.empty((count, 3), np.float32)
        quats = np.empty((count, 4), np.float32)
        scales = np.empty((count, 3), np.float32)
        plain = [value.contiguous().numpy() for value in (offset, scale, rotation)]
        surface = (vertices, normals, self.corners, self.bary, self.tangent, self.reach)
        place(*surface, plain[0], positions)
        shape(positions, self.neighbours, plain[1], plain[2], quats, scales)
        middle, turn, size = (torch.from_numpy(array) for array in (positions, quats, scales))
        return Gaussians(middle, turn, size, opacity, color)


def pose_of(anchor: RigAnchor, identity: Tensor) -> Pose:  # identity [K]
    """The tables of one identity on the CPU."""
    head, grid = anchor.head, anchor.head.texels(anchor.resolution)
    starts, columns, weights = smoothing_links(head)
    return Pose(
        anchor,
        identity,
        faces=_integers(head.faces),
        links=(_integers(starts), _integers(columns), weights.numpy()),
        corners=_integers(grid.corners),
        bary=np.ascontiguousarray(grid.bary.numpy()),
        tangent=np.ascontiguousarray(tangent_table(head)[grid.face].numpy()),
        neighbours=_integers(anchor.neighbours),
        reach=np.ascontiguousarray(anchor.reach[:, 0].numpy()),
    )


def _integers(table: Tensor) -> Array:
    return np.ascontiguousarray(table.numpy().astype(np.int32))


@njit(**FAST)
def _cross(a: Row, b: Row) -> Row:
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


@njit(**FAST)
def _dot(a: Row, b: Row) -> Number:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@njit(**FAST)
def _scaled(a: Row, factor: Number) -> Row:
    return a[0] * factor, a[1] * factor, a[2] * factor


@njit(**FAST)
def _unit(a: Row, tiny: Number) -> Row:
    return _scaled(a, np.float32(1) / max(np.float32(math.sqrt(_dot(a, a))), np.float32(tiny)))


@njit(**FAST)
def _row(table: Array, index: int) -> Row:
    return table[index, 0], table[index, 1], table[index, 2]


@njit(**FAST)
def _minus(a: Row, b: Row) -> Row:
    return a[0] - b[0], a[1] - b[1], a[2] - b[2]


@njit(**FAST)
def vertex_normals(
    vertices: Array,  # [V, 3]
    faces: Array,  # [F, 3]
    links: tuple[Array, Array, Array],  # CSR
    steps: int,
    normals: Array,  # out [V, 3]
) -> None:
    """`heads.surface.vertex_normals`: area-weighted, averaged over the skin's neighbours, of unit length."""
    normals[:] = np.float32(0)
    for f in range(len(faces)):
        a, b, c = faces[f]
        origin = _row(vertices, a)
        n = _cross(_minus(_row(vertices, b), origin), _minus(_row(vertices, c), origin))
        for corner in (a, b, c):
            for axis in range(3):
                normals[corner, axis] += n[axis]
    _normalise(normals)
    starts, columns, weights = links
    before, after = normals, np.empty_like(normals)
    for _ in range(steps):
        for v in range(len(normals)):
            x = y = z = np.float32(0)
            for i in range(starts[v], starts[v + 1]):
                w, other = weights[i], columns[i]
                x += w * before[other, 0]
                y += w * before[other, 1]
                z += w * before[other, 2]
            after[v, 0], after[v, 1], after[v, 2] = x, y, z
        before, after = after, before
    normals[:] = before
    _normalise(normals)


@njit(**FAST)
def _normalise(rows: Array) -> None:
    for v in range(len(rows)):
        rows[v, 0], rows[v, 1], rows[v, 2] = _unit(_row(rows, v), 1e-12)


@njit(**FAST)
def place(
    vertices: Array,  # [V, 3]
    normals: Array,  # [V, 3]
    corners: Array,  # [N, 3]
    bary: Array,  # [N, 3]
    tangent: Array,  # [N, 2]
    reach: Array,  # [N]
    offset: Array,  # [N, 3] in the surface frame
    positions: Array,  # out [N, 3]
) -> None:
    """Texels on the surface, moved by their offsets along tangent, bitangent and normal."""
    for n in range(len(bary)):
        i, j, k = corners[n, 0], corners[n, 1], corners[n, 2]
        u, v, w = bary[n, 0], bary[n, 1], bary[n, 2]
        a, b, c = _row(vertices, i), _row(vertices, j), _row(vertices, k)
        e, f = _minus(b, a), _minus(c, a)
        s, t = tangent[n, 0], tangent[n, 1]
        along = (s * e[0] + t * f[0], s * e[1] + t * f[1], s * e[2] + t * f[2])
        p, q, r = _row(normals, i), _row(normals, j), _row(normals, k)
        normal = _unit(
            (u * p[0] + v * q[0] + w * r[0], u * p[1] + v * q[1] + w * r[1], u * p[2] + v * q[2] + w * r[2]), 1e-12
        )
        first = _unit(_minus(along, _scaled(normal, _dot(along, normal))), 1e-12)
        second = _cross(normal, first)
        x, y, z = reach[n] * offset[n, 0], reach[n] * offset[n, 1], reach[n] * offset[n, 2]
        for axis in range(3):
            on_surface = u * a[axis] + v * b[axis] + w * c[axis]
            positions[n, axis] = on_surface + x * first[axis] + y * second[axis] + z * normal[axis]


@njit(**FAST)
def shape(
    positions: Array,  # [N, 3]
    neighbours: Array,  # [4, N]
    scale: Array,  # [N, 3]
    rotation: Array,  # [N, 4]
    quats: Array,  # out [N, 4]
    scales: Array,  # out [N, 3]
) -> None:
    """Orientation and size of the cell each texel covers, times what the decoder says about them."""
    for n in range(len(scale)):
        _shape_one(n, positions, neighbours, scale, rotation, quats, scales)


@njit(**FAST)
def _step(positions: Array, n: int, before: int, after: int) -> Row:
    """`rig._step`, zero where there is no neighbour."""
    count = np.float32((before != n) + (after != n))
    step = _scaled(_minus(_row(positions, after), _row(positions, before)), np.float32(1) / max(count, np.float32(1)))
    length = max(np.float32(math.sqrt(_dot(step, step))), np.float32(1e-9))
    one = _minus(_row(positions, n), _row(positions, before))
    other = _minus(_row(positions, after), _row(positions, n))
    shorter = np.float32(math.sqrt(min(_dot(one, one), _dot(other, other))))
    return _scaled(step, min(length, min(max(shorter, np.float32(LONGEST_STEP)), np.float32(STRETCHED_STEP))) / length)


@njit(**FAST)
def _half_turn(uv: Number, apart: Number, root: Number) -> tuple[Number, Number]:
    """Cosine and sine of half the angle of the vector (apart, uv) of length `root`."""
    if root <= np.float32(1e-30):
        return np.float32(1), np.float32(0)
    if apart >= 0:
        cos = np.float32(math.sqrt(np.float32(0.5) * (np.float32(1) + apart / root)))
        return cos, np.float32(0.5) * uv / (root * cos)
    sin = np.float32(math.copysign(math.sqrt(np.float32(0.5) * (np.float32(1) - apart / root)), uv))
    return np.float32(0.5) * uv / (root * sin), sin


@njit(**FAST)
def _quaternion(x: Row, y: Row, z: Row) -> tuple[Number, Number, Number, Number]:
    """wxyz of the rotation with these columns; divides by its largest component."""
    trace = x[0] + y[1] + z[2]
    if trace >= max(x[0], y[1], z[2]):
        w, a, b, c = np.float32(1) + trace, y[2] - z[1], z[0] - x[2], x[1] - y[0]
    elif x[0] >= y[1] and x[0] >= z[2]:
        w, a, b, c = y[2] - z[1], np.float32(1) + x[0] - y[1] - z[2], y[0] + x[1], z[0] + x[2]
    elif y[1] >= z[2]:
        w, a, b, c = z[0] - x[2], y[0] + x[1], np.float32(1) - x[0] + y[1] - z[2], z[1] + y[2]
    else:
        w, a, b, c = x[1] - y[0], z[0] + x[2], z[1] + y[2], np.float32(1) - x[0] - y[1] + z[2]
    k = np.float32(1) / np.float32(math.sqrt(w * w + a * a + b * b + c * c))
    return w * k, a * k, b * k, c * k


@njit(**FAST)
def _shape_one(
    n: int, positions: Array, neighbours: Array, scale: Array, rotation: Array, quats: Array, scales: Array
) -> None:
    e = _step(positions, n, neighbours[0, n], neighbours[1, n])
    f = _step(positions, n, neighbours[2, n], neighbours[3, n])
    uu, vv, uv = _dot(e, e), _dot(f, f), _dot(e, f)
    half, apart = np.float32(0.5) * (uu + vv), np.float32(0.5) * (uu - vv)
    root = np.float32(math.sqrt(apart * apart + uv * uv))
    cos, sin = _half_turn(uv, apart, root)
    first = _unit((cos * e[0] + sin * f[0], cos * e[1] + sin * f[1], cos * e[2] + sin * f[2]), 1e-9)
    across = (cos * f[0] - sin * e[0], cos * f[1] - sin * e[1], cos * f[2] - sin * e[2])
    normal = _cross(first, across)
    if _dot(normal, normal) < 1e-24:
        first, normal = (np.float32(1), np.float32(0), np.float32(0)), (np.float32(0), np.float32(0), np.float32(1))
    else:
        normal = _unit(normal, 1e-20)
    w, x, y, z = _quaternion(first, _cross(normal, first), normal)
    a, b, c, d = rotation[n, 0], rotation[n, 1], rotation[n, 2], rotation[n, 3]
    quats[n, 0] = w * a - x * b - y * c - z * d
    quats[n, 1] = w * b + x * a + y * d - z * c
    quats[n, 2] = w * c - x * d + y * a + z * b
    quats[n, 3] = w * d + x * c - y * b + z * a
    small = max(np.float32(math.sqrt(max(half - root, np.float32(0)))), np.float32(SMALLEST_SIGMA))
    large = max(np.float32(math.sqrt(half + root)), small)
    scales[n, 0] = np.float32(SIZE_SHARE) * large * scale[n, 0]
    scales[n, 1] = np.float32(SIZE_SHARE) * small * scale[n, 1]
    scales[n, 2] = np.float32(SIZE_SHARE * THICKNESS) * small * scale[n, 2]
