"""Pictures read at scattered points."""

import numpy as np

ROW = 1024  # cv2.remap takes at most 32,767 columns


def sample_bilinear(
    image: np.ndarray,  # [H, W] or [H, W, C], uint8 or float32
    pixels: np.ndarray,  # [N, 2] x, y with pixel centres at +0.5
) -> np.ndarray:  # [N] or [N, C], dtype of the image
    """Bilinear values of `image` at `pixels`; outside, those of the nearest border pixel."""
    import cv2

    count = len(pixels)
    padded = np.zeros((-(-count // ROW) * ROW, 2), np.float32)
    padded[:count] = pixels - 0.5
    x, y = padded.reshape(-1, ROW, 2)[..., 0], padded.reshape(-1, ROW, 2)[..., 1]
    values = cv2.remap(
        image, np.ascontiguousarray(x), np.ascontiguousarray(y), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return values.reshape(-1, *image.shape[2:])[:count]
