"""A coarse segmentation's edge moved to the picture's own, by a guided filter."""

import cv2
import numpy as np

from flexavatar_cli.stages.matting.figures import SOFT_EDGE, distance, whole

REFINEMENT = "4"  # raise when refined() gives other pixels, so that work folders notice
GUIDE_NOISE = 3e-4  # squared colour contrast below which the guided filter sees no edge
GUIDE_SIDE = 1024  # the guided filter's coefficients are found at this longest side (He and Sun 2015)


def refined(
    rgb: np.ndarray,  # [H, W, 3]
    probability: np.ndarray,  # [H, W]
    side: int = GUIDE_SIDE,  # pixels, of the guided filter
) -> np.ndarray:  # [H, W] in 0..1
    """The probability, its edge moved to the picture's own edges within a band and sharpened."""
    band = max(2, round(SOFT_EDGE * float(np.sqrt((probability > 0.5).sum()))))
    alpha = guided_filter(rgb, probability, band, GUIDE_NOISE, side)
    sharp = np.clip((alpha - 0.3) / 0.6, 0, 1)  # under 0.3 is mostly a halo of dark background
    solid = whole((probability > 0.5).astype(np.float32)) > 0.5
    inside = distance(~solid) > 2 * band
    near = distance(probability > 0.1) <= band
    return np.where(inside, 1, sharp * near).astype(np.float32)


def guided_filter(
    guide: np.ndarray,  # [H, W, 3]
    values: np.ndarray,  # [H, W]
    radius: int,  # pixels
    noise: float,  # squared colour
    longest: int = GUIDE_SIDE,  # pixels
) -> np.ndarray:  # [H, W]
    """In each window the best linear function of the colour for `values` (He et al. 2013, Eq. 19), averaged.

    Coefficients are found at most at a longest side of `longest` and enlarged (fast guided filter).
    """
    height, width = values.shape
    scale = min(1.0, longest / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    colour = cv2.resize(guide, size, interpolation=cv2.INTER_AREA)
    target = cv2.resize(values, size, interpolation=cv2.INTER_AREA)
    side = 2 * max(1, round(radius * scale)) + 1

    def mean(image: np.ndarray) -> np.ndarray:
        return cv2.boxFilter(image, -1, (side, side), borderType=cv2.BORDER_REFLECT)

    mean_colour, mean_target = mean(colour), mean(target)
    shared = mean(colour * target[..., None]) - mean_colour * mean_target[..., None]
    square, across = (  # covariance of the colours: rr gg bb, rg gb br
        mean(colour * other) - mean_colour * mean_other
        for other, mean_other in ((colour, mean_colour), (np.roll(colour, -1, -1), np.roll(mean_colour, -1, -1)))
    )
    slope = solve_symmetric(square + np.float32(noise), across, shared)
    offset = mean_target - dot(slope, mean_colour)
    full_slope, full_offset = (cv2.resize(mean(part), (width, height)) for part in (slope, offset))
    return np.clip(dot(full_slope, guide) + full_offset, 0, 1)


def dot(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Sums [H, W] over the last axis of products of [H, W, C]; numpy's own sum is slow on short axes."""
    return np.einsum("ijk,ijk->ij", first, second)


def solve_symmetric(
    square: np.ndarray,  # [..., 3] a00 a11 a22
    across: np.ndarray,  # [..., 3] a01 a12 a20
    right: np.ndarray,  # [..., 3]
) -> np.ndarray:  # [..., 3]
    """The solution of symmetric positive 3 x 3 systems by Cramer's rule; ten times faster than LAPACK on pixels."""
    a00, a11, a22 = (square[..., k] for k in range(3))
    a01, a12, a20 = (across[..., k] for k in range(3))
    b0, b1, b2 = (right[..., k] for k in range(3))
    c00, c11, c22 = a11 * a22 - a12 * a12, a00 * a22 - a20 * a20, a00 * a11 - a01 * a01
    c01, c12, c20 = a12 * a20 - a01 * a22, a01 * a20 - a00 * a12, a01 * a12 - a11 * a20
    solution = c00 * b0 + c01 * b1 + c20 * b2, c01 * b0 + c11 * b1 + c12 * b2, c20 * b0 + c12 * b1 + c22 * b2
    return np.stack(solution, -1) / (a00 * c00 + a01 * c01 + a20 * c20)[..., None]
