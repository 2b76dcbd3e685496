"""MakeHuman people on our topology: one registration of the average person, then a look-up for everyone else.

All MakeHuman heads share one mesh, so a registered average carries every sample. What the ICT shapes cannot express of
a sample is kept as a smooth residual; near lids and lips, and for all that lies behind them, it is a local average, so
that blinks still close and the mouth's inside follows.
"""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sparse
from scipy.sparse.linalg import splu
from scipy.spatial import cKDTree

from flexavatar_cli.training.head_model.closest import closest_points
from flexavatar_cli.training.head_model.ict import SourceHead
from flexavatar_cli.training.head_model.makehuman import MakeHuman, seen_landmarks

STIFFNESS = (30.0, 15.0, 8.0, 4.0, 2.0, 1.0, 0.6, 0.4, 0.3, 0.3)  # of the displacement's Laplacian, loosened
REACH = (0.03, 0.03, 0.02, 0.02, 0.015, 0.015, 0.01, 0.01, 0.008, 0.008)  # metres: farther pairs do not count
LANDMARK_WEIGHT = (6.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 1.0, 0.6, 0.6)
RIDGE = 0.02  # of ICT coefficients, against squared centimetres of mean squared vertex error
SKIN = ("face", "back", "bust", "ear_rim_left", "ear_rim_right")
SEAM_INNER, SEAM_OUTER = 0.006, 0.020  # metres from lids and lips: residual fully averaged, not at all
COLLAR_LOW, COLLAR_HIGH = -0.125, -0.075  # metres: MakeHuman's shoulders end raggedly, ours are extrapolated
SPREAD = 0.010  # metres, standard deviation of that average


@dataclass(frozen=True)
class Correspondence:
    """Where our vertices lie on the MakeHuman mesh."""

    rotation: np.ndarray  # [3, 3] MakeHuman -> ours, with scale
    shift: np.ndarray  # [3]
    face: np.ndarray  # [V] MakeHuman triangle
    bary: np.ndarray  # [V, 3]
    trust: np.ndarray  # [V] 1 where the pair is a good one, 0 where it is not or the collar begins
    error: float  # metres, mean distance of trusted vertices after the non-rigid fit

    def moved(self, vertices: np.ndarray) -> np.ndarray:
        """MakeHuman vertices [n, 3] in our axes."""
        return vertices @ self.rotation.T + self.shift


class Registration:
    """MakeHuman people as heads of our topology, in place and posture of the ICT mean head."""

    def __init__(
        self, source: SourceHead, human: MakeHuman, landmark: tuple[np.ndarray, np.ndarray, np.ndarray]
    ) -> None:
        self.source, self.human = source, human
        self._laplacian = laplacian(source)
        self._shapes = source.identity.astype(np.float64)
        self.correspondence = self._register(landmark)
        trust = self.correspondence.trust
        normal = self._laplacian.T @ self._laplacian
        self._fill = splu((sparse.diags(trust + 1e-7) + 0.05 * normal).tocsc())
        self._average, self._blend = _seam_average(source)
        self._still = still_vertices(source)
        weight = np.sqrt(trust / trust.sum())[:, None] * 100  # centimetres
        columns = (self._shapes * weight).reshape(len(self._shapes), -1).T
        gram = columns.T @ columns + RIDGE * np.eye(len(self._shapes))
        self._fit = np.linalg.solve(gram, columns.T * np.repeat(weight, 3))  # [K, 3 V]

    def person(self, weights: dict[str, float]) -> np.ndarray:
        """Head [V, 3] of a MakeHuman person."""
        return self._head_and_surface(weights)[0]

    def error(self, weights: dict[str, float]) -> float:
        """Mean distance (metres) of the head's trusted skin to the surface of the MakeHuman person it stands for."""
        head, surface = self._head_and_surface(weights)
        skin = np.flatnonzero(self.correspondence.trust > 0)
        return float(closest_points(surface, head[skin])[2].mean())

    def _head_and_surface(self, weights: dict[str, float]) -> tuple[np.ndarray, np.ndarray]:
        pairs = self.correspondence
        surface = pairs.moved(self.human.shape(weights))[self.human.faces]
        wanted = np.einsum("nk,nkc->nc", pairs.bary, surface[pairs.face])
        rotation, shift = rigid(wanted[self._still], self.source.mean[self._still])
        wanted, surface = wanted @ rotation.T + shift, surface @ rotation.T + shift
        near = self._nearest_ict(wanted)
        residual = self.spread(wanted - near)
        residual = residual + self._blend[:, None] * (self._average @ residual - residual)
        return near + residual, surface

    def spread(self, observed: np.ndarray) -> np.ndarray:
        """Smooth field [V, 3] through `observed` [V, 3] where the correspondence is trusted."""
        return self._fill.solve(self.correspondence.trust[:, None] * observed)

    def _nearest_ict(self, wanted: np.ndarray) -> np.ndarray:
        """The ICT head [V, 3] nearest to `wanted` on trusted vertices, held towards the mean."""
        coefficients = self._fit @ (wanted - self.source.mean).reshape(-1)
        return self.source.mean + np.tensordot(coefficients, self._shapes, 1)

    def _register(self, landmark: tuple[np.ndarray, np.ndarray, np.ndarray]) -> Correspondence:
        source, human = self.source, self.human
        average = human.shape(human.average())
        points = seen_landmarks(human, average)
        face, bary, used = (value[: len(points)] for value in landmark)
        used = used & np.isfinite(points[:, 0])
        corners, weights = source.faces[face[used]], bary[used]
        rotation, shift = _similarity(points[used], np.einsum("nk,nkc->nc", weights, source.mean[corners]))
        points, surface = points[used] @ rotation.T + shift, (average @ rotation.T + shift)[human.faces]
        pick = _pick(corners, weights, len(source.mean))
        start = self._landmark_fit(pick, points)
        skin = np.flatnonzero(vertices_of(source, SKIN) & (source.vertex_part >= 0))
        target_normal = _unit(np.cross(surface[:, 1] - surface[:, 0], surface[:, 2] - surface[:, 0]))
        head, smooth = start, self._laplacian.T @ self._laplacian
        for stiffness, reach, pull in zip(STIFFNESS, REACH, LANDMARK_WEIGHT, strict=True):
            found, weight, _ = _pairs(source, head, skin, surface, target_normal, reach)
            matrix = sparse.diags(weight + 1e-6) + stiffness * smooth + pull * (pick.T @ pick)
            right = weight[:, None] * (found - start) + pull * (pick.T @ (points - pick @ start))
            head = start + splu(matrix.tocsc()).solve(right)
        _, weight, distance = _pairs(source, head, skin, surface, target_normal, 0.004)
        near_face, near_bary, _ = closest_points(surface, head)
        trust = np.where(weight > 0.5, 1.0, 0.0) * (seam_distance(source) > 0.002)
        trust *= np.clip((source.mean[:, 1] - COLLAR_LOW) / (COLLAR_HIGH - COLLAR_LOW), 0, 1)
        error = float(distance[trust > 0].mean())
        return Correspondence(rotation, shift, near_face, near_bary, trust, error)

    def _landmark_fit(self, pick: sparse.csr_matrix, points: np.ndarray, count: int = 60) -> np.ndarray:
        shapes = self._shapes[:count]
        columns = np.stack([(pick @ shape).reshape(-1) for shape in shapes], 1) * 100
        value = (points - pick @ self.source.mean).reshape(-1) * 100
        coefficients = np.linalg.solve(columns.T @ columns + 1.0 * np.eye(count), columns.T @ value)
        return self.source.mean + np.tensordot(coefficients, shapes, 1)


def laplacian(source: SourceHead) -> sparse.csr_matrix:
    """[V, V]: vertex minus the mean of its neighbours."""
    faces = source.faces
    pairs = np.concatenate([faces[:, [i, j]] for i in range(3) for j in range(3) if i != j])
    size = len(source.mean)
    links = sparse.csr_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(size, size))
    links.data[:] = 1
    degree = np.maximum(np.asarray(links.sum(1)).reshape(-1), 1)
    return (sparse.eye(size) - sparse.diags(1 / degree) @ links).tocsr()


def _pairs(
    source: SourceHead, head: np.ndarray, skin: np.ndarray, surface: np.ndarray, normals: np.ndarray, reach: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Closest points [V, 3], weights [V] and distances [V] of the skin vertices; weight 0 where far or facing away."""
    faces = source.faces
    cross = np.cross(head[faces[:, 1]] - head[faces[:, 0]], head[faces[:, 2]] - head[faces[:, 0]])
    own = np.zeros_like(head)
    np.add.at(own, faces.reshape(-1), np.repeat(cross, 3, 0))
    face, bary, distance = closest_points(surface, head[skin])
    found, weight, far = head.copy(), np.zeros(len(head)), np.full(len(head), np.inf)
    found[skin] = np.einsum("nk,nkc->nc", bary, surface[face])
    facing = (_unit(own[skin]) * normals[face]).sum(1)
    weight[skin] = np.clip((facing - 0.4) / 0.3, 0, 1) * (distance < reach)
    far[skin] = distance
    return found, weight, far


def _seam_average(source: SourceHead) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Local average [V, V] over outer skin, and how much of it each vertex takes [V]; eyeballs move as one."""
    skin = np.flatnonzero(vertices_of(source, SKIN) & (seam_distance(source) > SEAM_INNER))
    place = source.mean.copy()
    for side in ("left", "right"):
        eye = vertices_of(source, (f"eyeball_{side}",))
        place[eye] = source.mean[eye].mean(0)
    distance = seam_distance(source)
    blend = np.clip((SEAM_OUTER - distance) / (SEAM_OUTER - SEAM_INNER), 0, 1)
    blend = np.where(vertices_of(source, SKIN), blend * blend * (3 - 2 * blend), 1.0)
    blend[source.vertex_part < 0] = 0
    near, index = cKDTree(source.mean[skin]).query(place, 200)
    spread = SPREAD + near[:, :1] / 2  # what lies deep averages over a wider patch of skin
    weight = np.exp(-0.5 * (near / spread) ** 2)
    weight /= weight.sum(1, keepdims=True)
    rows = np.repeat(np.arange(len(place)), near.shape[1])
    size = len(place)
    return sparse.csr_matrix((weight.reshape(-1), (rows, skin[index].reshape(-1))), shape=(size, size)), blend


def seam_distance(
    source: SourceHead, behind: tuple[str, ...] = ("mouth_socket", "eye_socket_left", "eye_socket_right")
) -> np.ndarray:
    """Distance [V] in metres to the edges where skin meets the charts `behind` lids and lips."""
    edge = vertices_of(source, ("face", "back")) & vertices_of(source, behind)
    return cKDTree(source.mean[edge]).query(source.mean)[0]


def still_vertices(source: SourceHead) -> np.ndarray:
    """Vertices by which heads are put in place: face and skull above the jaw, without ears."""
    x, y, _ = source.mean.T
    return np.flatnonzero(vertices_of(source, ("face", "back")) & (y > -0.01) & (np.abs(x) < 0.075))


def vertices_of(source: SourceHead, charts: tuple[str, ...]) -> np.ndarray:
    """Vertices [V] bool that triangles of the named charts use."""
    result = np.zeros(len(source.mean), bool)
    result[source.faces[source.in_chart(*charts)]] = True
    return result


def _pick(corners: np.ndarray, weights: np.ndarray, size: int) -> sparse.csr_matrix:
    rows = np.repeat(np.arange(len(corners)), 3)
    return sparse.csr_matrix((weights.reshape(-1), (rows, corners.reshape(-1))), shape=(len(corners), size))


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / (np.linalg.norm(vectors, axis=-1, keepdims=True) + 1e-20)


def rigid(points: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rotation and shift that take `points` [n, 3] to `wanted` (Kabsch)."""
    rotation, _ = _rotation(points, wanted)
    return rotation, wanted.mean(0) - rotation @ points.mean(0)


def _similarity(points: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scaled rotation and shift (Umeyama 1991)."""
    rotation, trace = _rotation(points, wanted)
    scale = trace / ((points - points.mean(0)) ** 2).sum()
    return scale * rotation, wanted.mean(0) - scale * rotation @ points.mean(0)


def _rotation(points: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, float]:
    u, values, vt = np.linalg.svd((wanted - wanted.mean(0)).T @ (points - points.mean(0)))
    sign = np.array([1, 1, np.sign(np.linalg.det(u @ vt))])
    return u @ np.diag(sign) @ vt, float((values * sign).sum())
