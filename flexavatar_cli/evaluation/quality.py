"""Measures of one avatar's pictures: likeness, silhouette, holes, and what fitting did to the views it never saw."""

import numpy as np
from scipy import ndimage

from flexavatar_cli.core.camera import Camera

SHOULDER_HEIGHT = -0.12  # metres, head space: below the chin (-0.08), above the shoulders (-0.19)
INSIDE = 0.5  # matte or alpha above this is the person
CLOSED_ALPHA = 0.9  # a pixel of the head below this lets the background through
SOFT_EDGE = 3  # pixels at 512 that a silhouette needs to fade out
HIGHEST_PSNR = 99.0  # stands for identical pictures; infinity is no JSON


def psnr(image: np.ndarray, target: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio in dB of [H, W, 3] pictures in 0..1, over the pixels where `mask` [H, W] > 0.5.

    NaN if there are none.
    """
    squared = (np.clip(image, 0, 1).astype(np.float64) - target) ** 2
    chosen = squared if mask is None else squared[mask > INSIDE]
    if not chosen.size:
        return float("nan")
    return float(min(-10 * np.log10(max(chosen.mean(), 1e-12)), HIGHEST_PSNR))


def shoulder_row(camera: Camera, height: float = SHOULDER_HEIGHT) -> int:
    """The picture row of the neck, the end of what counts as "above the shoulders"."""
    pixels, _ = camera.project(np.array([[0.0, height, 0.0]]))
    return int(np.clip(round(float(pixels[0, 0, 1])), 1, camera.height))


def silhouette_iou(alpha: np.ndarray, matte: np.ndarray, rows: int, inside: np.ndarray | None = None) -> float:
    """Intersection over union of two silhouettes [H, W] over the first `rows` rows, where the picture is `inside`."""
    ours, theirs = alpha[:rows] > INSIDE, matte[:rows] > INSIDE
    if inside is not None:  # beyond the photo's border nobody knows
        known = inside[:rows] > INSIDE
        ours, theirs = ours & known, theirs & known
    union = (ours | theirs).sum()
    return float((ours & theirs).sum() / union) if union else float("nan")


def holes(alpha: np.ndarray) -> float:
    """Share of the head's silhouette through which the background is seen; 0 = closed.

    The silhouette is the outline of alpha [H, W] with everything it encloses, less a soft edge. Notches at the
    lower border (neck, shoulders) are outline, not holes.
    """
    outline = ndimage.binary_fill_holes(alpha > INSIDE)
    edge = max(1, round(SOFT_EDGE * len(alpha) / 512))
    inner = ndimage.binary_erosion(outline, iterations=edge)
    if not inner.any():
        return 1.0  # no head at all
    return float((alpha[inner] < CLOSED_ALPHA).mean())


def agreement(before: tuple[np.ndarray, np.ndarray], after: tuple[np.ndarray, np.ndarray]) -> float:
    """PSNR in dB between two (rgb [H, W, 3], alpha [H, W]) of one view, over the pixels that either head covers."""
    return psnr(before[0], after[0], np.maximum(before[1], after[1]))


def colour_noise(rgb: np.ndarray, alpha: np.ndarray) -> float:
    """Mean chroma step between neighbouring pixels inside the head, in units of 1/255.

    Skin and hair hardly change hue from pixel to pixel (1-3); coloured noise does (10 and more).
    """
    chroma = np.stack([rgb[..., 0] - rgb[..., 1], rgb[..., 2] - rgb[..., 1]], -1).astype(np.float64)
    inside = ndimage.binary_erosion(alpha > CLOSED_ALPHA, iterations=2)
    steps = [
        np.abs(np.diff(chroma, axis=axis)).mean(-1)[inside.take(range(1, inside.shape[axis]), axis)] for axis in (0, 1)
    ]
    together = np.concatenate(steps)
    return float(together.mean() * 255) if together.size else float("nan")
