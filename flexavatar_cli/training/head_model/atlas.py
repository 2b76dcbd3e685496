"""The atlas: where each chart lands in our one square, v down.

The face keeps the ICT layout (photographic textures fit it) with the neck squeezed; the back of the head and the bust
are unrolled anew to fill their boxes; the rest keeps the ICT islands, scaled to their boxes.
"""

import numpy as np
import scipy.sparse as sparse
from scipy.sparse.linalg import spsolve

from flexavatar_cli.training.head_model.ict import SourceHead

INSET = 1.0 / 256  # on each side of each box: charts stay two texels of the 256 grid apart
BOXES: dict[str, tuple[float, float, float, float]] = {
    "face": (0.0, 0.0, 1.0, 0.56),
    "back": (0.0, 0.56, 0.36, 1.0),
    "bust": (0.36, 0.56, 0.95, 0.735),
    "ear_rim_left": (0.95, 0.56, 0.975, 0.735),
    "ear_rim_right": (0.975, 0.56, 1.0, 0.735),
    "teeth": (0.36, 0.735, 0.665, 1.0),
    "eyeball_left": (0.665, 0.735, 0.785, 0.8675),
    "eyeball_right": (0.665, 0.8675, 0.785, 1.0),
    "tongue": (0.785, 0.735, 0.905, 0.82),
    "tongue_under": (0.785, 0.82, 0.865, 0.865),
    "uvula": (0.865, 0.82, 0.905, 0.865),
    "gums": (0.785, 0.865, 0.905, 1.0),
    "mouth_socket": (0.905, 0.735, 1.0, 0.87),
    "eye_socket_left": (0.905, 0.87, 0.9525, 1.0),
    "eye_socket_right": (0.9525, 0.87, 1.0, 1.0),
}
# The face tile: the neck (last 28 % of the rows) at a quarter of the face's density.
_NECK_ROW, _NECK_DENSITY = 0.72, 0.25
_FACE_SHARE = _NECK_ROW / (_NECK_ROW + (1 - _NECK_ROW) * _NECK_DENSITY)
_UNROLLED = ("back", "bust")


def atlas_uv(head: SourceHead) -> np.ndarray:
    """Atlas UV [W, 2] of the head's wedges."""
    result = np.zeros((len(head.vertex), 2))
    for index, name in enumerate(head.chart_names):
        own = np.flatnonzero(head.chart == index)
        u0, v0, u1, v1 = BOXES[name]
        low, high = np.array([u0 + INSET, v0 + INSET]), np.array([u1 - INSET, v1 - INSET])
        uv = head.tile_uv[own]
        if name == "face":
            inside = np.stack([uv[:, 0], np.interp(uv[:, 1], (0, _NECK_ROW, 1), (0, _FACE_SHARE, 1))], -1)
        elif name in _UNROLLED:
            inside = unrolled(head, name)[own]
        else:
            inside = (uv - uv.min(0)) / np.ptp(uv, axis=0)
        result[own] = low + inside * (high - low)
    return result


def unrolled(head: SourceHead, name: str) -> np.ndarray:
    """A chart as a unit square [W, 2] (other wedges 0): border by arc length, inside by mean value weights.

    The map is one-to-one because the border is convex and the weights positive (Floater 2003).
    """
    faces = head.wedges[head.in_chart(name)]
    position = head.mean[head.vertex]
    border = _border_loop(faces)
    corner = _corners(head, name, border)
    border = np.roll(border, -corner[0])
    corner = (corner - corner[0]) % len(border)
    square = np.zeros((len(position), 2))
    targets = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0], [1.0, 1.0]])  # as _corners orders them
    for side in range(4):
        first, last = corner[side], corner[side + 1] if side < 3 else len(border)
        path = border[np.arange(first, last + 1) % len(border)]
        length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(position[path], axis=0), axis=1))])
        step = (length / length[-1])[:, None]
        square[path] = targets[side] * (1 - step) + targets[(side + 1) % 4] * step
    weights = _mean_value_weights(faces, position)
    inner = np.setdiff1d(np.unique(faces), border)
    laplacian = (sparse.diags(np.asarray(weights.sum(1)).reshape(-1)) - weights).tocsr()
    square[inner] = spsolve(laplacian[inner][:, inner].tocsc(), -laplacian[inner][:, border] @ square[border])
    return square


def _border_loop(faces: np.ndarray) -> np.ndarray:
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    _, inverse, uses = np.unique(np.sort(edges, 1), axis=0, return_inverse=True, return_counts=True)
    border = edges[uses[inverse.reshape(-1)] == 1]
    follow = {int(i): int(j) for i, j in border}
    path = [int(border[0, 0])]
    while follow[path[-1]] != path[0]:
        path.append(follow[path[-1]])
    if len(path) != len(border):
        raise ValueError(f"a chart to unroll must be a disk, its border has {len(border)} edges, one loop {len(path)}")
    return np.array(path)


def _corners(head: SourceHead, name: str, border: np.ndarray) -> np.ndarray:
    """Places [4] in `border` of the square's corners top right, top left, bottom left, bottom right.

    That is the border's own direction: triangles turn counter-clockwise seen from outside.
    """
    if name == "back":
        uv = head.tile_uv[border]
        uv = (uv - uv.min(0)) / np.ptp(uv, axis=0)
        corner = [int(((uv - target) ** 2).sum(1).argmin()) for target in ((1, 0), (0, 0), (0, 1), (1, 1))]
    else:  # the bust is cut along the front: four ends of the cut
        point = head.mean[head.vertex[border]]
        cut = np.flatnonzero((np.abs(point[:, 0]) < 1e-4) & (point[:, 2] > 0))
        top, bottom = point[cut, 1].max(), point[cut, 1].min()
        ends_top, ends_bottom = cut[point[cut, 1] > top - 1e-6], cut[point[cut, 1] < bottom + 1e-6]
        corner = [int(ends_top[0]), int(ends_top[1]), int(ends_bottom[0]), int(ends_bottom[1])]
        corner = _ordered(corner, len(border))
    return np.array(corner)


def _ordered(corner: list[int], length: int) -> list[int]:
    """Top pair first, then the bottom pair, going round the border in one direction."""
    top, bottom = corner[:2], corner[2:]
    ring = sorted(corner)
    for start in range(4):
        order = ring[start:] + ring[:start]
        if set(order[:2]) == set(top) and set(order[2:]) == set(bottom):
            gap = (order[1] - order[0]) % length
            if gap > (order[2] - order[1]) % length:  # the long way round is the top side, not the cut
                return order
    raise ValueError("the bust's cut does not run from its top to its base")


def _mean_value_weights(faces: np.ndarray, position: np.ndarray) -> sparse.csr_matrix:
    """Weights tan(angle / 2) / length summed over the triangles beside each directed edge."""
    rows, columns, values = [], [], []
    for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        a, b, c = faces[:, i], faces[:, j], faces[:, k]
        ab, ac = position[b] - position[a], position[c] - position[a]
        length_b, length_c = np.linalg.norm(ab, axis=1), np.linalg.norm(ac, axis=1)
        cosine = np.clip((ab * ac).sum(1) / (length_b * length_c), -1, 1)
        half_tangent = np.tan(np.arccos(cosine) / 2)
        rows += [a, a]
        columns += [b, c]
        values += [half_tangent / length_b, half_tangent / length_c]
    size = len(position)
    flat = np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))
    return sparse.csr_matrix(flat, shape=(size, size))
