"""Nets measured on the hold-out: people of other hair styles and identities before grounds of their own."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from flexavatar_cli.media.frames import Frames
from flexavatar_cli.media.images import composite, read_photo, sheet, to_float
from flexavatar_cli.stages.matting import matte_picture, net_mattes
from flexavatar_cli.stages.matting.figures import attached, distance
from flexavatar_cli.stages.matting.nets import Net, open_modnet, selfie, told
from flexavatar_cli.stages.matting.unmixing import foreground
from flexavatar_cli.training.matting.composites import Painter, Sample, composed, read_rgba

SIDE = 512
HAIR_BAND = 8  # pixels around soft alpha
COLOURS = ((0.0, 0.69, 0.25), (0.95, 0.3, 0.25), (0.1, 0.1, 0.1))  # of the comparison's grounds
TOLD_BLUR = 4.0  # pixels: a segmentation as good as one at a quarter of the size can be
TILE = 220  # pixels
HAIR_PART = 0.7  # of the picture's height, from the top: clothes are below


def held_out_painter(pack: Path) -> Painter:
    """Draws held-out people of a pack and grounds behind held-out portraits."""
    painter = Painter(pack, held_out=True)
    painter.files["head"] = sorted((pack / "held_out" / "head").glob("*.png"))
    return painter


def held_out(pack: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Kind, picture [SIDE, SIDE, 3] and exact alpha [SIDE, SIDE] of every held-out person; the same each time."""
    for kind, sample in held_out_samples(pack):
        yield kind, to_float(sample.image), sample.alpha


def held_out_samples(pack: Path) -> Iterator[tuple[str, Sample]]:
    """Kind and sample of every held-out person; the same each time."""
    painter = held_out_painter(pack)
    for kind in ("head", "cutout"):
        for number, file in enumerate(painter.files[kind]):
            generator = np.random.default_rng([7, number, len(kind)])
            yield kind, composed(read_rgba(file), painter.ground(SIDE, generator), 0.9, generator)


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


def limits(path: Path, pack: Path) -> list[dict[str, object]]:
    """A row per kind of person and third of the pictures by contrast between hair and ground: what limits the net.

    Errors with the segmentation, and with the true alpha, blurred, in its place: what better semantics would give.
    """
    look, rough = open_modnet(path), selfie()
    found: dict[str, list[tuple[float, ...]]] = {}
    for kind, sample in held_out_samples(pack):
        rgb, alpha = to_float(sample.image), sample.alpha
        band, row = hair_band(alpha), []
        for segmented in (rough.probability(rgb), cv2.GaussianBlur(alpha, (0, 0), TOLD_BLUR)):
            error = np.abs(attached(told(rgb, segmented, look)) - alpha)
            row += [float(error.mean()), float(error[band].mean()) if band.any() else 0.0]
        found.setdefault(kind, []).append((float(sample.contrast[band].mean()) if band.any() else 0.0, *row))
    rows: list[dict[str, object]] = []
    names = ("contrast", "mad", "hair_band", "mad_truth_told", "hair_band_truth_told")
    for kind, values in found.items():
        for third, part in zip(("low", "middle", "high"), np.array_split(np.array(sorted(values)), 3)):
            if not len(part):
                continue
            means = (round(float(mean), 4) for mean in part.mean(0))
            rows.append({"kind": kind, "third": third, "pictures": len(part), **dict(zip(names, means))})
    return rows


def flicker(frames: Frames, net: Net, smoothed: bool = True) -> float:
    """Mean second time difference of alpha near the person's edge: steady motion counts little, trembling counts.

    With `smoothed`, of the mattes that `flexavatar matte` writes, else of single pictures.
    """
    alphas = np.stack(list(net_mattes(frames, net) if smoothed else (matte_picture(rgb, net) for rgb in frames)))
    middle = alphas.mean(0)
    edge = distance((middle > 0.02) & (middle < 0.98)) <= HAIR_BAND
    return float(np.abs(np.diff(alphas, 2, axis=0))[:, edge].mean())


def comparison(photos: Sequence[Path], nets: Sequence[Net]) -> np.ndarray:
    """A sheet [H, W, 3]: a row per photo with, for each net, the matte and the cut-out before three colours."""
    rows = []
    for path in photos:
        rgb = read_photo(path).rgb
        row = [rgb]
        for net in nets:
            alpha = matte_picture(rgb, net)
            front = foreground(rgb, alpha)
            row += [alpha, *(composite(front, alpha, colour) for colour in COLOURS)]
        rows.append(row)
    return sheet(rows, side=TILE)
