"""The person's own colours at soft edges."""

import cv2
import numpy as np

FOREGROUND_BLURS = 0.09, 0.006  # widths of the two rounds, share of the longest side: 90 and 6 of their 1000 pixels


def foreground(
    rgb: np.ndarray,  # [H, W, 3]
    alpha: np.ndarray,  # [H, W]
) -> np.ndarray:  # [H, W, 3] in 0..1
    """The person's own colour at soft edges, without the background that shines through (Forte and Pitie 2021).

    `composite(foreground(rgb, alpha), alpha, colour)` has no halo of the old background.
    """
    front = behind = rgb
    for share in FOREGROUND_BLURS:
        front, behind = unmixed(rgb, front, behind, alpha[..., None], 2 * round(share * max(alpha.shape) / 2) + 1)
    return np.where(alpha[..., None] > 0.999, rgb, np.clip(front, 0, 1)).astype(np.float32)


def unmixed(
    rgb: np.ndarray,  # [H, W, 3]
    front: np.ndarray,  # [H, W, 3]
    behind: np.ndarray,  # [H, W, 3]
    alpha: np.ndarray,  # [H, W, 1]
    side: int,  # pixels
) -> tuple[np.ndarray, np.ndarray]:  # [H, W, 3] each
    """Better guesses of the colours in front and behind: local means, the front then explaining the rest of `rgb`."""

    def mean(image: np.ndarray) -> np.ndarray:
        return cv2.blur(image, (side, side), borderType=cv2.BORDER_REFLECT).reshape(*alpha.shape[:2], -1)

    share, tiny = mean(alpha), np.float32(1e-5)
    front = mean(front * alpha) / (share + tiny)
    behind = mean(behind * (1 - alpha)) / (1 - share + tiny)
    return front + alpha * (rgb - alpha * front - (1 - alpha) * behind), behind
