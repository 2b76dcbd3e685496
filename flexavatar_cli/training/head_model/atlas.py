"""The atlas: where each UV island of the ICT head lands in our one square. Everything here has v down.

A chart is a separable, piecewise linear, monotone map of a window of an ICT UDIM tile to a box of the atlas, so it
can be inverted exactly: `ict_uv` answers which ICT texel lies under an atlas point.
"""

from dataclasses import dataclass

import numpy as np

INSET = 1.0 / 256  # on each side of each box: charts stay two texels of the 256 grid apart


@dataclass(frozen=True)
class Chart:
    """One window of an ICT tile and its box in the atlas."""

    name: str
    tile: int  # UDIM tile of the ICT head
    window: tuple[float, float, float, float]  # u0 v0 u1 v1 of the tile, v down
    box: tuple[float, float, float, float]  # u0 v0 u1 v1 of the atlas, v down
    rows_from: tuple[float, ...] = (0.0, 1.0)  # knots of the vertical map inside window and box
    rows_to: tuple[float, ...] = (0.0, 1.0)

    def to_atlas(self, uv: np.ndarray) -> np.ndarray:
        """Atlas UV [..., 2] of tile UV [..., 2]."""
        window, box = np.array(self.window).reshape(2, 2), self._inner()
        inside = (uv - window[0]) / (window[1] - window[0])
        inside = np.stack([inside[..., 0], np.interp(inside[..., 1], self.rows_from, self.rows_to)], -1)
        return box[0] + inside * (box[1] - box[0])

    def from_atlas(self, uv: np.ndarray) -> np.ndarray:
        """Tile UV [..., 2] of atlas UV [..., 2]."""
        window, box = np.array(self.window).reshape(2, 2), self._inner()
        inside = (uv - box[0]) / (box[1] - box[0])
        inside = np.stack([inside[..., 0], np.interp(inside[..., 1], self.rows_to, self.rows_from)], -1)
        return window[0] + inside * (window[1] - window[0])

    def _inner(self) -> np.ndarray:
        u0, v0, u1, v1 = self.box
        return np.array([[u0 + INSET, v0 + INSET], [u1 - INSET, v1 - INSET]])


# The face tile: the neck (last 28 %) at a quarter of the face's row density.
_NECK_KNOT, _NECK_DENSITY = 0.72, 0.25
_FACE_SHARE = _NECK_KNOT / (_NECK_KNOT + (1 - _NECK_KNOT) * _NECK_DENSITY)

BOXES: dict[str, tuple[float, float, float, float]] = {
    "face": (0.0, 0.0, 1.0, 0.56),
    "back": (0.0, 0.56, 0.42, 1.0),
    "bust": (0.42, 0.56, 0.95, 0.70),
    "ear_rim_left": (0.95, 0.56, 0.975, 0.70),
    "ear_rim_right": (0.975, 0.56, 1.0, 0.70),
    "teeth": (0.42, 0.70, 0.68, 1.0),
    "eyeball_left": (0.68, 0.70, 0.80, 0.85),
    "eyeball_right": (0.68, 0.85, 0.80, 1.0),
    "gums_tongue": (0.80, 0.70, 1.0, 0.88),
    "mouth_socket": (0.80, 0.88, 0.90, 1.0),
    "eye_socket_left": (0.90, 0.88, 0.95, 1.0),
    "eye_socket_right": (0.95, 0.88, 1.0, 1.0),
}


def make_chart(name: str, tile: int, uv: np.ndarray) -> Chart:
    """The chart of an island or a tile with the UVs `uv` [n, 2] (v down)."""
    if name == "face":
        rows = ((0.0, _NECK_KNOT, 1.0), (0.0, _FACE_SHARE, 1.0))
        return Chart(name, tile, (0.0, 0.0, 1.0, 1.0), BOXES[name], *rows)
    low, high = uv.min(0), uv.max(0)
    return Chart(name, tile, (low[0], low[1], high[0], high[1]), BOXES[name])
