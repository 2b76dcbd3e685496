"""The person in an alpha: one figure without holes, and how far a pixel is from it."""

import cv2
import numpy as np

SOFT_EDGE = 0.02  # half width of the uncertain band, share of the person's size (root of the area)
STRAND = 0.15  # alpha above which thin hair still hangs together
LARGEST_HOLE = 0.015  # of the person's area; a larger gap is background between arm and body


def whole(alpha: np.ndarray) -> np.ndarray:
    """The alpha [H, W] of the largest connected figure alone, with its holes filled."""
    solid = (alpha > 0.5).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(solid, connectivity=8)
    if count < 2:
        return np.zeros_like(alpha)
    areas = stats[1:, cv2.CC_STAT_AREA]
    figure = labels == 1 + int(areas.argmax())
    reach = max(2, round(SOFT_EDGE * float(np.sqrt(areas.max()))))
    alone = np.where(distance(figure) <= reach, alpha, 0)
    _, gaps, sizes, _ = cv2.connectedComponentsWithStats((~figure).astype(np.uint8), connectivity=4)
    height, width = figure.shape
    left, top, across, down, area = sizes.T
    enclosed = (left > 0) & (top > 0) & (left + across < width) & (top + down < height)
    enclosed &= area < LARGEST_HOLE * areas.max()
    enclosed[0] = False  # label 0 is the figure
    return np.where(enclosed[gaps], 1, alone).astype(np.float32)


def attached(alpha: np.ndarray) -> np.ndarray:
    """The alpha [H, W] of what hangs together with the largest figure, also by thin strands."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats((alpha > STRAND).astype(np.uint8), connectivity=8)
    if len(stats) < 2:
        return np.zeros_like(alpha)
    figure = labels == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    return np.where(distance(figure) <= 2, alpha, 0).astype(np.float32)


def distance(figure: np.ndarray) -> np.ndarray:
    """Distance in pixels [H, W] to the nearest pixel of a figure [H, W] bool; it has at least one."""
    return cv2.distanceTransform((~figure).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)  # to 2 %, five times as fast
