"""Hair cards and a posed mesh as one RGBA picture: solid triangles by depth, cards blended from far to near."""

import numpy as np
from numba import njit


@njit(cache=True)
def _blend(  # pragma: no cover - compiled
    pixels: np.ndarray,
    depth: np.ndarray,
    faces: np.ndarray,
    uv: np.ndarray,
    light: np.ndarray,
    texture: np.ndarray,
    solid_depth: np.ndarray,
    colour: np.ndarray,
    alpha: np.ndarray,
) -> None:
    height, width = solid_depth.shape
    rows, columns = texture.shape[0], texture.shape[1]
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
        for y in range(y0, y1 + 1):
            for x in range(x0, x1 + 1):
                px, py = x + 0.5, y + 0.5
                wb = ((px - ax) * (cy - ay) - (py - ay) * (cx - ax)) / area
                wc = ((bx - ax) * (py - ay) - (by - ay) * (px - ax)) / area
                wa = 1 - wb - wc
                if wa < 0 or wb < 0 or wc < 0:
                    continue
                z = wa * depth[a] + wb * depth[b] + wc * depth[c]
                if z > solid_depth[y, x]:
                    continue
                u = wa * uv[f, 0, 0] + wb * uv[f, 1, 0] + wc * uv[f, 2, 0]
                v = wa * uv[f, 0, 1] + wb * uv[f, 1, 1] + wc * uv[f, 2, 1]
                column = min(columns - 1, int((u - np.floor(u)) * columns))
                row = min(rows - 1, int((1 - (v - np.floor(v))) * rows))
                cover = texture[row, column, 3]
                if cover <= 0:
                    continue
                shade = wa * light[a] + wb * light[b] + wc * light[c]
                for k in range(3):
                    colour[y, x, k] = cover * min(1.0, shade * texture[row, column, k]) + (1 - cover) * colour[y, x, k]
                alpha[y, x] = cover + (1 - cover) * alpha[y, x]


def blend_cards(
    pixels: np.ndarray,  # [V, 2]
    depth: np.ndarray,  # [V] in front of the camera
    faces: np.ndarray,  # [F, 3]
    uv: np.ndarray,  # [F, 3, 2], v up
    light: np.ndarray,  # [V] relative brightness
    texture: np.ndarray,  # [h, w, 4] in 0..1, straight alpha
    solid_depth: np.ndarray,  # [H, W] of what hides the cards, inf = nothing
    colour: np.ndarray,  # [H, W, 3] premultiplied, changed in place
    alpha: np.ndarray,  # [H, W], changed in place
) -> None:
    """Blend textured cards over a picture, whole triangles sorted by depth (weights are affine: cards are small)."""
    order = np.argsort(-depth[faces].mean(1))
    _blend(
        np.ascontiguousarray(pixels, np.float64),
        np.ascontiguousarray(depth, np.float64),
        np.ascontiguousarray(faces[order], np.int64),
        np.ascontiguousarray(uv[order], np.float64),
        np.ascontiguousarray(light, np.float32),
        np.ascontiguousarray(texture, np.float32),
        solid_depth,
        colour,
        alpha,
    )
