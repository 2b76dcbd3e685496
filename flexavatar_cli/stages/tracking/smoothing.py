"""Gaussian smoothing in time over the frames that showed a face, never across a cut."""

import numpy as np

from flexavatar_cli.stages.tracking.landmarks import eye_distance

CUT = 0.6  # outer-eye distances from one frame to the next: no head moves so fast


def cuts(seen: np.ndarray) -> np.ndarray:  # [F, 478, 2] landmarks -> [F] bool
    """Whether the landmarks jump from the frame before to this one."""
    moved = np.linalg.norm(np.diff(seen, axis=0), axis=-1).mean(-1)
    return np.append(False, moved > CUT * np.maximum(eye_distance(seen[:-1]), 1e-6))


def runs(frames: np.ndarray, cut: np.ndarray) -> list[np.ndarray]:
    """Positions in `frames` [F], ascending numbers, parted where one is missing and where `cut` [F] says so."""
    return np.split(np.arange(len(frames)), np.flatnonzero(cut[1:] | (np.diff(frames) > 1)) + 1)


def smooth(values: np.ndarray, sigma: float) -> np.ndarray:
    """Values [T, ...] averaged over time with a Gaussian of `sigma` frames, cut and renormalised at both ends."""
    if sigma <= 0 or len(values) < 2:
        return values
    radius = int(np.ceil(3 * sigma))
    frames = np.arange(len(values))
    offset = np.arange(-radius, radius + 1)
    index = frames[:, None] + offset
    kernel = np.exp(-0.5 * (offset / sigma) ** 2)
    kernel = np.where((index >= 0) & (index < len(values)), kernel, 0)
    kernel /= kernel.sum(1, keepdims=True)
    gathered = values[np.clip(index, 0, len(values) - 1)]
    return np.einsum("tk,tk...->t...", kernel, gathered)


def smooth_rotations(rotations: np.ndarray, sigma: float) -> np.ndarray:
    """Rotations [T, 3, 3] averaged in the same way: the nearest rotation to the mean matrix."""
    left, _, right = np.linalg.svd(smooth(rotations, sigma))
    signs = np.ones((len(rotations), 3))
    signs[:, 2] = np.sign(np.linalg.det(left @ right))
    return (left * signs[:, None]) @ right
