"""Fewer vertices by half-edge collapse, by quadrics over position, motion and atlas (Garland & Heckbert 1998).

Every kept vertex is a vertex of the source, so all linear shapes and UVs carry over exactly. The borders of charts
stay as they are, so charts still meet vertex by vertex.
"""

import heapq
from dataclasses import replace

import numpy as np

from flexavatar_cli.training.head_model.ict import SourceHead

MOTION_DIMENSIONS = 14
MOTION_WEIGHT = 0.35
ATLAS_WEIGHT = 0.15  # metres of position per atlas width: the face is about 0.3 m of surface wide
SHAPE_WEIGHT = 2e-6  # share of the squared edge length: where all is flat, collapse short edges first
# How much an error matters by chart; the rest 1.
IMPORTANCE = {
    "face": 1.0, "back": 0.1, "bust": 0.02, "teeth": 0.08, "gums": 0.02, "mouth_socket": 0.03, "tongue": 0.3,
    "tongue_under": 0.05, "uvula": 0.02, "eye_socket_left": 0.02, "eye_socket_right": 0.02,
    "eyeball_left": 3.0, "eyeball_right": 3.0,
}  # fmt: skip


def decimate(head: SourceHead, atlas: np.ndarray, vertices: int, poses: np.ndarray) -> tuple[SourceHead, np.ndarray]:
    """The head with about `vertices` vertices, and its atlas [W, 2].

    No triangle flips in the `poses` [P, V, 3] nor in the atlas.
    """
    mesh = _Mesh(head, atlas, poses)
    spare = len(head.mean) - vertices
    for wedge in range(len(mesh.ring)):
        mesh.push(wedge)
    while spare > 0 and mesh.queue:
        spare -= mesh.collapse_next()
    faces = mesh.faces[mesh.alive]
    smaller = replace(head, wedges=faces, source_face=head.source_face[mesh.alive])
    return smaller.compact(np.ones(len(faces), bool)), atlas[np.unique(faces)]


class _Mesh:
    """The wedge mesh while it shrinks: faces around each wedge, quadrics, and a queue of the cheapest collapses."""

    def __init__(self, head: SourceHead, atlas: np.ndarray, poses: np.ndarray) -> None:
        self.faces = head.wedges.copy()
        self.alive = np.ones(len(self.faces), bool)
        self.poses = np.ascontiguousarray(poses[:, head.vertex].transpose(1, 0, 2))  # [W, P, 3]
        self.atlas = atlas
        self.place = _feature_space(head, atlas)
        self.ring: list[set[int]] = [set() for _ in head.vertex]
        for index, face in enumerate(self.faces):
            for wedge in face:
                self.ring[wedge].add(index)
        self.locked = _border(self.faces, len(head.vertex))
        importance = np.array([IMPORTANCE.get(name, 1.0) for name in head.chart_names])[head.chart]
        self.importance = importance
        self.quadric, self.linear, self.constant = _quadrics(self.faces, self.place)
        self.stamp = np.zeros(len(head.vertex), int)
        self.queue: list[tuple[float, int, int, int]] = []

    def push(self, wedge: int) -> None:
        """Queue the cheapest allowed collapse of `wedge` onto a neighbour."""
        self.stamp[wedge] += 1
        if self.locked[wedge] or not self.ring[wedge]:
            return
        around = self._neighbours(wedge)
        place = self.place[around]
        error = np.einsum("ni,ij,nj->n", place, self.quadric[wedge], place)
        error += 2 * place @ self.linear[wedge] + self.constant[wedge]
        length = ((self.place[wedge, :3] - place[:, :3]) ** 2).sum(1)
        cost = self.importance[wedge] * (np.maximum(error, 0) + SHAPE_WEIGHT * length**2 / 1e-4)
        for choice in np.argsort(cost):
            if self._allowed(wedge, int(around[choice])):
                heapq.heappush(self.queue, (float(cost[choice]), wedge, int(around[choice]), int(self.stamp[wedge])))
                return

    def collapse_next(self) -> int:
        """Perform the cheapest collapse that is still current; 1 if a vertex went, else 0."""
        _, gone, kept, stamp = heapq.heappop(self.queue)
        if stamp != self.stamp[gone] or not self.ring[gone]:
            return 0
        if not self.ring[kept] or not self._allowed(gone, kept):
            self.push(gone)
            return 0
        for face in list(self.ring[gone]):
            corners = self.faces[face]
            if kept in corners:
                self.alive[face] = False
                for wedge in corners:
                    self.ring[wedge].discard(face)
            else:
                corners[corners == gone] = kept
                self.ring[kept].add(face)
        self.ring[gone] = set()
        self.quadric[kept] += self.quadric[gone]
        self.linear[kept] += self.linear[gone]
        self.constant[kept] += self.constant[gone]
        for wedge in (kept, *self._neighbours(kept)):
            self.push(int(wedge))
        return 1

    def _neighbours(self, wedge: int) -> np.ndarray:
        around = np.unique(self.faces[list(self.ring[wedge])])
        return around[around != wedge]

    def _allowed(self, gone: int, kept: int) -> bool:
        """Link condition, and no triangle that turns by more than 70 degrees in a pose or flips in the atlas."""
        if len(np.intersect1d(self._neighbours(gone), self._neighbours(kept), assume_unique=True)) != 2:
            return False
        faces = self.faces[[face for face in self.ring[gone] if kept not in self.faces[face]]]
        moved = np.where(faces == gone, kept, faces)
        before, after = _normals(self.poses[faces]), _normals(self.poses[moved])
        size = np.linalg.norm(after, axis=-1) * np.linalg.norm(before, axis=-1)
        if ((before * after).sum(-1) < 0.35 * size).any():
            return False
        area_before, area_after = _area(self.atlas[faces]), _area(self.atlas[moved])
        if (area_before * area_after <= 0).any():
            return False
        edges = self.poses[moved, 0] - self.poses[np.roll(moved, 1, 1), 0]
        longest = (edges**2).sum(-1).max(-1)
        return bool((np.linalg.norm(after[:, 0], axis=-1) > 0.08 * longest).all())


def _feature_space(head: SourceHead, atlas: np.ndarray) -> np.ndarray:
    """[W, D]: position, the largest principal motions of the expressions, atlas; metres."""
    motion = head.expression.astype(np.float64).transpose(1, 0, 2).reshape(len(head.mean), -1)
    values, vectors = np.linalg.eigh(motion.T @ motion)
    motion = motion @ vectors[:, np.argsort(values)[::-1][:MOTION_DIMENSIONS]]
    return np.concatenate([head.mean[head.vertex], MOTION_WEIGHT * motion[head.vertex], ATLAS_WEIGHT * atlas], 1)


def _border(faces: np.ndarray, count: int) -> np.ndarray:
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    edges, uses = np.unique(np.sort(edges, 1), axis=0, return_counts=True)
    locked = np.zeros(count, bool)
    locked[edges[uses == 1]] = True
    return locked


def _quadrics(faces: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per wedge A [W, D, D], b [W, D], c [W]: squared distance to the planes of its triangles, times their area."""
    p, q, r = place[faces[:, 0]], place[faces[:, 1]], place[faces[:, 2]]
    e1 = (q - p) / np.maximum(np.linalg.norm(q - p, axis=1, keepdims=True), 1e-12)
    e2 = r - p - ((r - p) * e1).sum(1, keepdims=True) * e1
    height = np.linalg.norm(e2, axis=1, keepdims=True)
    e2 /= np.maximum(height, 1e-12)
    area = 0.5 * np.linalg.norm(q - p, axis=1) * height[:, 0]
    size = place.shape[1]
    a = np.eye(size) - e1[:, :, None] * e1[:, None] - e2[:, :, None] * e2[:, None]
    b = ((p * e1).sum(1, keepdims=True) * e1) + ((p * e2).sum(1, keepdims=True) * e2) - p
    c = (p * p).sum(1) - (p * e1).sum(1) ** 2 - (p * e2).sum(1) ** 2
    quadric, linear = np.zeros((len(place), size, size)), np.zeros((len(place), size))
    constant = np.zeros(len(place))
    for corner in range(3):
        np.add.at(quadric, faces[:, corner], a * area[:, None, None])
        np.add.at(linear, faces[:, corner], b * area[:, None])
        np.add.at(constant, faces[:, corner], c * area)
    return quadric, linear, constant


def _normals(triangles: np.ndarray) -> np.ndarray:
    """[F, P, 3] of corners [F, 3, P, 3]."""
    return np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])


def _area(triangles: np.ndarray) -> np.ndarray:
    a, b = triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
