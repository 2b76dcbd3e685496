"""The tracked head drawn over its pictures: what the tracker believes, to be judged by eye."""

from collections.abc import Iterable, Iterator

import cv2
import numpy as np
import torch

from flexavatar_cli.core.track import Track
from flexavatar_cli.heads import HeadModel
from flexavatar_cli.render.mesh import rasterize_mesh

EYES = ("eyeball_left", "eyeball_right")
SKIN, EYEBALL, IRIS = (0.55, 0.75, 0.95), (0.95, 0.95, 0.9), (0.1, 0.35, 0.15)
IRIS_ANGLE = np.radians(20)  # radius of the drawn iris as seen from the eyeball's centre
LONGEST_SIDE = 1024  # larger pictures are shrunk for drawing


def overlays(
    frames: Iterable[np.ndarray],  # [H, W, 3] float32 RGB
    track: Track,
    head: HeadModel,
    opacity: float = 0.6,
) -> Iterator[np.ndarray]:  # [h, w, 3] float32
    """Each frame with the shaded head, its irises and the landmarks on it; left alone where no face was found."""
    head = head.to("cpu")
    identity = torch.from_numpy(track.identity)
    eyes = np.isin(head.face_part.numpy(), [head.part_names.index(name) for name in EYES if name in head.part_names])
    faces = head.faces.numpy()
    for number, frame in enumerate(frames):
        scale = min(1.0, LONGEST_SIDE / max(frame.shape[:2]))
        size = (round(frame.shape[1] * scale), round(frame.shape[0] * scale))
        picture = cv2.resize(frame, size, interpolation=cv2.INTER_AREA) if scale < 1 else frame
        if not track.confidence[number]:
            yield picture
            continue
        code = torch.from_numpy(track.expression_code[number])
        vertices = head.vertices(identity, code).numpy().astype(np.float64)
        irises = _iris_faces(vertices, faces, eyes, head.eye_centres(identity).numpy(), code.numpy())
        colours = np.where(eyes[:, None], EYEBALL, SKIN)
        colours[irises] = IRIS
        pixels, depth = track.camera()[number].project(vertices)
        triangle, _, _ = rasterize_mesh(pixels[0] * scale, depth[0], faces, size[1], size[0])
        shade = _headlight(vertices, faces, track.cam2world[number][:3, 3])
        seen = triangle >= 0
        drawn = picture.astype(np.float32).copy()
        paint = (colours * (0.25 + 0.75 * shade[:, None]))[triangle[seen]]
        drawn[seen] = (1 - opacity) * drawn[seen] + opacity * paint
        for x, y in (track.landmarks[number] * scale).astype(int):
            if 0 <= x < size[0] and 0 <= y < size[1]:
                drawn[y, x] = (1.0, 0.1, 0.1)
        yield drawn


def _headlight(vertices: np.ndarray, faces: np.ndarray, eye: np.ndarray) -> np.ndarray:
    """Cosine [F] between each face's normal and the direction to the camera at `eye` [3]."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    normal = np.cross(b - a, c - a)
    towards = eye - (a + b + c) / 3
    length = np.linalg.norm(normal, axis=-1) * np.linalg.norm(towards, axis=-1)
    return np.abs((normal * towards).sum(-1)) / np.maximum(length, 1e-12)


def _iris_faces(
    vertices: np.ndarray, faces: np.ndarray, eyes: np.ndarray, centres: np.ndarray, code: np.ndarray
) -> np.ndarray:  # face numbers
    """The eyeballs' faces around the gaze directions in expression `code` [59]."""
    rows = np.flatnonzero(eyes)
    middle = vertices[faces[rows]].mean(1)
    found = []
    for centre, (yaw, pitch) in zip(centres, code[52:56].reshape(2, 2), strict=True):
        axis = np.array([np.sin(yaw) * np.cos(pitch), np.sin(pitch), np.cos(yaw) * np.cos(pitch)])
        arm = middle - centre
        cosine = arm @ axis / np.maximum(np.linalg.norm(arm, axis=-1), 1e-12)
        near = np.linalg.norm(arm, axis=-1) < 0.03
        found.append(rows[near & (cosine > np.cos(IRIS_ANGLE))])
    return np.concatenate(found)
