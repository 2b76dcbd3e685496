"""MediaPipe's landmarks on a FLAME head: the open head, which has them, is registered to it.

First a similarity by the joints both heads have, then iterated closest points with the open head's own identity
shapes free, so that its lips, lids and nose come to lie on FLAME's; each landmark goes to FLAME's nearest point.
"""

import dataclasses

import numpy as np
import torch
from scipy.spatial import cKDTree

from flexavatar_cli.heads.flame import FlameHead
from flexavatar_cli.heads.head_model import HeadModel

RIGID_ROUNDS, SHAPE_ROUNDS = 12, 12
SHAPES = 40  # identity shapes of the open head that may move
SHAPE_PRIOR = 2e-3  # metres of distance that one standard deviation of a shape is worth
FARTHEST = 0.015  # metres between points that are still paired
NEIGHBOURS = 12  # triangles tried per point
EYES = ("eye_left", "eye_right")


def with_landmarks(flame: FlameHead, head: HeadModel) -> tuple[FlameHead, dict[str, float]]:
    """`flame` with the landmarks of `head`, and how well they lie: distances in millimetres."""
    vertices, faces = flame.template.double().numpy(), flame.faces.numpy()
    target = Surface(vertices, faces)
    skin = np.unique(head.faces[head.face_part == head.part_names.index("face")].numpy())
    mean = head.template.double().numpy()
    basis = head.identity_basis[:SHAPES].double().numpy()
    scale, rotation, shift = _by_joints(flame, head)
    weights = np.zeros(len(basis))
    for turn in range(RIGID_ROUNDS + SHAPE_ROUNDS):
        person = mean + np.tensordot(weights, basis, 1)
        places = scale * person[skin] @ rotation.T + shift
        found = target.closest(places)
        paired = found.distance < max(FARTHEST, 4 * float(np.median(found.distance)))
        if turn < RIGID_ROUNDS:
            scale, rotation, shift = similarity(person[skin][paired], found.points[paired])
            continue
        # point to plane, in the moved head's coordinates: displacement along FLAME's normals
        moved = scale * np.einsum("kvc,dc->kvd", basis[:, skin[paired]], rotation)
        along = np.einsum("kvd,vd->vk", moved, found.normals[paired])
        wanted = ((found.points[paired] - places[paired]) * found.normals[paired]).sum(-1)
        noise = SHAPE_PRIOR * np.sqrt(len(wanted))
        left = np.vstack([along, noise * np.eye(len(basis))])
        right = np.concatenate([wanted, -noise * weights])
        weights = weights + np.linalg.lstsq(left, right, rcond=None)[0]
        person = mean + np.tensordot(weights, basis, 1)
        scale, rotation, shift = similarity(person[skin][paired], found.points[paired])
    person = mean + np.tensordot(weights, basis, 1)
    marks = head.landmarks(torch.from_numpy(person).float()).double().numpy()
    at = target.closest(scale * marks @ rotation.T + shift)
    used = head.landmark_used.numpy() & (at.distance < FARTHEST)
    embedded = dataclasses.replace(
        flame,
        landmark_face=torch.from_numpy(at.face),
        landmark_bary=torch.from_numpy(at.bary.astype(np.float32)),
        landmark_sigma=head.landmark_sigma.clone(),
        landmark_used=torch.from_numpy(used),
    )
    facts = {
        "landmarks": int(used.sum()),
        "landmark_distance_mm": float(1e3 * at.distance[used].mean()),
        "surface_distance_mm": float(1e3 * np.median(found.distance)),
        "scale": float(scale),
    }
    return embedded, facts


def similarity(points: np.ndarray, targets: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Scale, rotation [3, 3] and shift [3] of least squared distance from points to targets [N, 3] (Umeyama 1991)."""
    centre, goal = points.mean(0), targets.mean(0)
    left, singular, right = np.linalg.svd((targets - goal).T @ (points - centre))
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(left @ right))])
    rotation = (left * sign) @ right
    scale = float((singular * sign).sum() / ((points - centre) ** 2).sum())
    return scale, rotation, goal - scale * rotation @ centre


def _by_joints(flame: FlameHead, head: HeadModel) -> tuple[float, np.ndarray, np.ndarray]:
    """A first guess: both heads are upright and in metres, so the eyes fix the shift and their distance the scale."""
    joints = flame.joints().double().numpy()
    theirs = joints[3:5]
    ours = np.stack([head.joints[name].double().numpy() for name in EYES])
    scale = float(np.linalg.norm(theirs[0] - theirs[1]) / np.linalg.norm(ours[0] - ours[1]))
    return scale, np.eye(3), theirs.mean(0) - scale * ours.mean(0)


@dataclasses.dataclass(frozen=True)
class Closest:
    """The nearest surface point of each of N points."""

    points: np.ndarray  # [N, 3]
    normals: np.ndarray  # [N, 3] of the triangle, unit
    face: np.ndarray  # [N] int64
    bary: np.ndarray  # [N, 3]
    distance: np.ndarray  # [N]


class Surface:
    """A triangle mesh to be asked for closest points."""

    def __init__(self, vertices: np.ndarray, faces: np.ndarray) -> None:
        self.corners = vertices[faces]  # [F, 3, 3]
        self.tree = cKDTree(self.corners.mean(1))
        normals = np.cross(self.corners[:, 1] - self.corners[:, 0], self.corners[:, 2] - self.corners[:, 0])
        self.normals = normals / np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-20)

    def closest(self, points: np.ndarray) -> Closest:
        """Nearest points among the triangles with the nearest centroids."""
        count = min(NEIGHBOURS, len(self.corners))
        _, near = self.tree.query(points, count)
        near = near.reshape(len(points), count)
        bary = closest_barycentric(points[:, None], self.corners[near])  # [N, count, 3]
        places = (bary[..., None] * self.corners[near]).sum(-2)
        distance = np.linalg.norm(places - points[:, None], axis=-1)
        best = distance.argmin(1)
        row = np.arange(len(points))
        face = near[row, best]
        return Closest(
            places[row, best], self.normals[face], face.astype(np.int64), bary[row, best], distance[row, best]
        )


def closest_barycentric(points: np.ndarray, corners: np.ndarray) -> np.ndarray:  # [..., 3], [..., 3, 3] -> [..., 3]
    """Weights of the triangles' corners at the point nearest to each given point: inside, or on the best edge."""
    a, b, c = corners[..., 0, :], corners[..., 1, :], corners[..., 2, :]
    ab, ac, ap = b - a, c - a, points - a
    d00, d01, d11 = (ab * ab).sum(-1), (ab * ac).sum(-1), (ac * ac).sum(-1)
    d20, d21 = (ap * ab).sum(-1), (ap * ac).sum(-1)
    area = np.maximum(d00 * d11 - d01 * d01, 1e-30)
    v, w = (d11 * d20 - d01 * d21) / area, (d00 * d21 - d01 * d20) / area
    inside = np.stack([1 - v - w, v, w], -1)
    best, shortest = inside, np.where((inside >= 0).all(-1), -1.0, np.inf)
    for first, second in ((0, 1), (1, 2), (2, 0)):
        start, along = corners[..., first, :], corners[..., second, :] - corners[..., first, :]
        share = ((points - start) * along).sum(-1) / np.maximum((along * along).sum(-1), 1e-30)
        share = np.clip(share, 0, 1)
        distance = np.linalg.norm(points - start - share[..., None] * along, axis=-1)
        weights = np.zeros_like(best)
        weights[..., first], weights[..., second] = 1 - share, share
        closer = distance < shortest
        best = np.where(closer[..., None], weights, best)
        shortest = np.where(closer, distance, shortest)
    return best
