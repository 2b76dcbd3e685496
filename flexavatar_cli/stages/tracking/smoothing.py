"""Gaussian smoothing in time over the frames that showed a face, never across a cut."""

import numpy as np


def segments(valid: np.ndarray, jump: np.ndarray, limit: float) -> list[np.ndarray]:
    """Runs of frame numbers without a missing frame (`valid` [T] bool) or a jump [T] beyond `limit` into the frame."""
    runs: list[list[int]] = []
    for frame in np.flatnonzero(valid):
        if runs and runs[-1][-1] == frame - 1 and jump[frame] <= limit:
            runs[-1].append(int(frame))
        else:
            runs.append([int(frame)])
    return [np.array(run) for run in runs]


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
