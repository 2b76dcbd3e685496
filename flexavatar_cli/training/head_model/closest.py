"""Closest points on a triangle mesh: nearest centroids by k-d tree, then exact point-triangle distance."""

import numpy as np
from scipy.spatial import cKDTree

CANDIDATES = 24  # triangles tried per point; meshes here have triangles of similar size


def closest_points(
    triangles: np.ndarray,  # [F, 3, 3]
    points: np.ndarray,  # [n, 3]
    allowed: np.ndarray | None = None,  # [F] bool
    candidates: int = CANDIDATES,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Triangle [n], barycentric weights [n, 3] and distance [n] of the closest point for each of `points`."""
    usable = np.arange(len(triangles)) if allowed is None else np.flatnonzero(allowed)
    tree = cKDTree(triangles[usable].mean(1))
    count = min(candidates, len(usable))
    near = usable[tree.query(points, count)[1].reshape(len(points), count)]
    bary = barycentric_of_closest(triangles[near], points[:, None])
    found = np.einsum("nck,nckd->ncd", bary, triangles[near])
    distance = np.linalg.norm(found - points[:, None], axis=-1)
    best = distance.argmin(1)
    row = np.arange(len(points))
    return near[row, best], bary[row, best], distance[row, best]


def barycentric_of_closest(triangles: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Weights [..., 3] of the point of each triangle [..., 3, 3] that is closest to `points` [..., 3]."""
    a, b, c = triangles[..., 0, :], triangles[..., 1, :], triangles[..., 2, :]
    ab, ac, ap = b - a, c - a, points - a
    d00, d01, d11 = _dot(ab, ab), _dot(ab, ac), _dot(ac, ac)
    d20, d21 = _dot(ap, ab), _dot(ap, ac)
    area = np.maximum(d00 * d11 - d01 * d01, 1e-30)
    v, w = (d11 * d20 - d01 * d21) / area, (d00 * d21 - d01 * d20) / area
    inside = np.stack([1 - v - w, v, w], -1)
    best, best_distance = inside, np.where((inside >= 0).all(-1), 0.0, np.inf)
    outside = best_distance > 0
    for i, j in ((0, 1), (1, 2), (2, 0)):
        start, edge = triangles[..., i, :], triangles[..., j, :] - triangles[..., i, :]
        t = np.clip(_dot(points - start, edge) / np.maximum(_dot(edge, edge), 1e-30), 0, 1)
        distance = np.linalg.norm(points - start - t[..., None] * edge, axis=-1)
        weights = np.zeros_like(inside)
        weights[..., i], weights[..., j] = 1 - t, t
        better = outside & (distance < best_distance)
        best = np.where(better[..., None], weights, best)
        best_distance = np.where(better, distance, best_distance)
    return best


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(-1)
