"""Nets measured on the hold-out: people of other hair styles and identities before grounds of their own."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from flexavatar_cli.media.images import to_float
from flexavatar_cli.stages.matting import Net, distance, matte_picture
from flexavatar_cli.training.matting.composites import Painter, composed, read_rgba

SIDE = 512
HAIR_BAND = 8  # pixels around soft alpha
HAIR_PART = 0.7  # of the picture's height, from the top: clothes are below


def held_out(pack: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Kind, picture [SIDE, SIDE, 3] and exact alpha [SIDE, SIDE] of every held-out person; the same each time."""
    painter = Painter(pack, held_out=True)
    painter.files["head"] = sorted((pack / "held_out" / "head").glob("*.png"))
    for kind in ("head", "cutout"):
        for number, file in enumerate(painter.files[kind]):
            generator = np.random.default_rng([7, number, len(kind)])
            sample = composed(read_rgba(file), painter.ground(SIDE, generator), 0.9, generator)
            yield kind, to_float(sample.image), sample.alpha


def hair_band(alpha: np.ndarray) -> np.ndarray:
    """Pixels [H, W] near soft edges in the upper part of the picture."""
    soft = (alpha > 0.05) & (alpha < 0.95)
    near = distance(soft) <= HAIR_BAND if soft.any() else soft
    return near & (np.arange(len(alpha)) < HAIR_PART * len(alpha))[:, None]


def measure(nets: dict[str, Net], pack: Path) -> list[dict[str, object]]:
    """A row per net and kind of person: mean absolute difference of mattes, everywhere and in the hair band."""
    sums: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for kind, rgb, alpha in held_out(pack):
        band = hair_band(alpha)
        for name, net in nets.items():
            error = np.abs(matte_picture(rgb, net) - alpha)
            row = float(error.mean()), float(error[band].mean()) if band.any() else 0.0
            sums.setdefault((name, kind), []).append(row)
    return [
        {
            "net": name,
            "kind": kind,
            "pictures": len(rows),
            "mad": round(float(np.mean([row[0] for row in rows])), 5),
            "hair_band": round(float(np.mean([row[1] for row in rows])), 5),
        }
        for (name, kind), rows in sums.items()
    ]
