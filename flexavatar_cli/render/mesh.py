"""Z-buffered triangle rasteriser: which triangle each pixel sees, and where on it."""

import numpy as np
from numba import njit


@njit(cache=True, fastmath=False)
def _rasterize(  # pragma: no cover - compiled
    pixels: np.ndarray,
    depth: np.ndarray,
    faces: np.ndarray,
    triangle: np.ndarray,
    bary: np.ndarray,
    zbuffer: np.ndarray,
) -> None:
    height, width = zbuffer.shape
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        if depth[a] <= 0 or depth[b] <= 0 or depth[c] <= 0:
            continue
        ax, ay = pixels[a, 0], pixels[a, 1]
        bx, by = pixels[b, 0], pixels[b, 1]
        cx, cy = pixels[c, 0], pixels[c, 1]
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if area == 0:
            continue
        x0 = max(0, int(np.ceil(min(ax, bx, cx) - 0.5)))
        x1 = min(width - 1, int(np.floor(max(ax, bx, cx) - 0.5)))
        y0 = max(0, int(np.ceil(min(ay, by, cy) - 0.5)))
        y1 = min(height - 1, int(np.floor(max(ay, by, cy) - 0.5)))
        ia, ib, ic = 1 / depth[a], 1 / depth[b], 1 / depth[c]
        for y in range(y0, y1 + 1):
            py = y + 0.5
            for x in range(x0, x1 + 1):
                px = x + 0.5
                wb = ((px - ax) * (cy - ay) - (py - ay) * (cx - ax)) / area
                wc = ((bx - ax) * (py - ay) - (by - ay) * (px - ax)) / area
                wa = 1 - wb - wc
                if wa < 0 or wb < 0 or wc < 0:
                    continue
                inverse = wa * ia + wb * ib + wc * ic
                z = 1 / inverse
                if z < zbuffer[y, x]:
                    zbuffer[y, x] = z
                    triangle[y, x] = f
                    bary[y, x, 0] = wa * ia * z  # perspective-correct weights
                    bary[y, x, 1] = wb * ib * z
                    bary[y, x, 2] = wc * ic * z


def rasterize_mesh(
    pixels: np.ndarray,  # [V, 2]
    depth: np.ndarray,  # [V], metres in front of the camera
    faces: np.ndarray,  # [F, 3]
    height: int,
    width: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nearest triangle [H, W] (-1 = none), its perspective-correct barycentrics [H, W, 3], depth [H, W] (inf = none).

    Both sides of a triangle count; a triangle with a vertex behind the camera is dropped.
    """
    triangle = np.full((height, width), -1, np.int32)
    bary = np.zeros((height, width, 3), np.float32)
    zbuffer = np.full((height, width), np.inf, np.float64)
    _rasterize(
        np.ascontiguousarray(pixels, np.float64),
        np.ascontiguousarray(depth, np.float64),
        np.ascontiguousarray(faces, np.int64),
        triangle,
        bary,
        zbuffer,
    )
    return triangle, bary, zbuffer
