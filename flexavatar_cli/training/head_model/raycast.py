"""Shaded views of a mesh and casting picture points back to it, by Embree; for the builder only."""

import numpy as np
import trimesh
from trimesh.ray.ray_pyembree import RayMeshIntersector

from flexavatar_cli.training.head_model.closest import barycentric_of_closest

DISTANCE = 1.0  # metres from camera to target


class Raycaster:
    """One mesh, ready for rays."""

    def __init__(self, vertices: np.ndarray, faces: np.ndarray) -> None:
        self.vertices, self.faces = np.asarray(vertices, np.float64), np.asarray(faces)
        mesh = trimesh.Trimesh(self.vertices, self.faces, process=False)
        self._scene = RayMeshIntersector(mesh)
        self._normals = np.asarray(mesh.vertex_normals)

    def first_hits(self, origin: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Triangle [n] (-1: none) and point [n, 3] (NaN: none) that each ray meets first."""
        directions = directions / np.linalg.norm(directions, axis=-1, keepdims=True)
        start = np.broadcast_to(origin, directions.shape)
        triangle = self._scene.intersects_first(start, directions)
        point = np.full(directions.shape, np.nan)
        hit = triangle >= 0
        corners = self.vertices[self.faces[triangle[hit]]]
        normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        slope = (normal * directions[hit]).sum(-1)
        distance = ((corners[:, 0] - start[hit]) * normal).sum(-1) / np.where(np.abs(slope) < 1e-15, 1e-15, slope)
        point[hit] = start[hit] + distance[:, None] * directions[hit]
        return triangle, point

    def shaded(
        self, target: np.ndarray, yaw: float, colours: np.ndarray, size: int, width: float, pitch: float = 0.0
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Picture [size, size, 3] uint8 of triangle `colours` [F, 3]; the camera; the picture's corner and axis rays.

        `width` metres are in view at the target. Rays: corner, step along x, step along y (of the whole picture).
        """
        turn, tilt = np.radians(yaw), np.radians(pitch)
        back = np.array([np.sin(turn) * np.cos(tilt), np.sin(tilt), np.cos(turn) * np.cos(tilt)])
        right = np.cross([0.0, 1.0, 0.0], back)
        right /= np.linalg.norm(right)
        up = np.cross(back, right)
        origin = np.asarray(target) + DISTANCE * back
        rays = np.stack([width / 2 * (up - right) - DISTANCE * back, width * right, -width * up])
        step = (np.arange(size) + 0.5) / size
        directions = rays[0] + step[None, :, None] * rays[1] + step[:, None, None] * rays[2]
        triangle, point = self.first_hits(origin, directions.reshape(-1, 3))
        hit = triangle >= 0
        faces = self.faces[triangle[hit]]
        weights = barycentric_of_closest(self.vertices[faces], point[hit])
        normal = np.einsum("nk,nkc->nc", weights, self._normals[faces])
        normal /= np.linalg.norm(normal, axis=-1, keepdims=True) + 1e-12
        light = back + 0.5 * up + 0.3 * right
        shade = 0.35 + 0.65 * np.clip(normal @ (light / np.linalg.norm(light)), 0, 1)
        picture = np.full((size * size, 3), 0.6)
        picture[hit] = colours[triangle[hit]] * shade[:, None]
        return (np.clip(picture, 0, 1) * 255).astype(np.uint8).reshape(size, size, 3), origin, rays

    def back(self, points: np.ndarray, origin: np.ndarray, rays: np.ndarray) -> np.ndarray:
        """Surface points [n, 3] (NaN: missed) under picture points [n, 2] in 0..1 of a shaded view."""
        return self.first_hits(origin, rays[0] + points[:, :1] * rays[1] + points[:, 1:] * rays[2])[1]
