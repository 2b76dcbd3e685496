"""What a segmentation may overrule in our net's matte."""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from scipy import ndimage

from flexavatar_cli.stages.matting.figures import distance

GUARD = "6"  # raise when guarded() gives other pixels, so that work folders notice
SURE, DEEP = 0.95, 0.03  # a segmentation above the one, by this share of the person's size inside, is believed
PATCH, LARGEST_PATCH = 0.012, 0.06  # half the thickness of what is no gap between locks; share of the person's area
ADDED, LOST, SURROUNDINGS = 0.01, 0.003, 0.12  # half the thickness of what is no rim; what is about it; of the size
DOUBTFUL, LIKENESS = 1.1, 0.6  # ratios of colour distances below which what is added, and what is lost, is not believed
ALIKE = 0.05  # colour distance up to which what is added looks like the ground: a shoulder of its own colour stays
WIRE, LONE = 0.14, 4.0  # reach from the person, of the size, and mean width in pixels: further and thinner is no hair
FEW, SAMPLED = 30, 300  # pixels that tell; that are looked at


def guarded(
    rgb: np.ndarray,  # [H, W, 3]
    fine: np.ndarray,  # [H, W] a matte
    rough: np.ndarray,  # [H, W] a segmentation
    refined: np.ndarray,  # [H, W] its refinement
) -> np.ndarray:  # [H, W]
    """The matte, solid deep inside of what both see, without the patches in which it errs by colours or certainty."""
    seen = rough > 0.5
    if not seen.any():  # our net saw people in all pictures of its training, and sees one in a grey wall
        return np.zeros_like(fine)
    if seen.all():
        return fine
    fine = without_wires(arbitrated(rgb, restored(fine, rough, refined), refined))
    person = filled(fine > 0.5, rough > SURE)
    size = float(np.sqrt(person.sum()))
    if not person.any():
        return fine
    inside = np.clip(distance(~(person & (rough > SURE))) / (DEEP * size) - 1, 0, 1)
    return np.maximum(fine, inside).astype(np.float32)


def without_wires(fine: np.ndarray) -> np.ndarray:  # [H, W]
    """The matte without lone thin lines that reach further from the person than hair does: cables, twigs."""
    size = float(np.sqrt((fine > 0.5).sum()))
    side = 2 * max(1, round(PATCH * size)) + 1
    kernel = np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.uint8)
    body = cv2.morphologyEx((fine > 0.5).astype(np.uint8), cv2.MORPH_OPEN, kernel) > 0
    if not body.any():
        return fine
    away = distance(body)
    count, lines = cv2.connectedComponents(((fine > 0.05) & (away > 2)).astype(np.uint8), connectivity=8)
    reach, area = ndimage.maximum(away, lines, range(count)), np.bincount(lines.ravel(), fine.ravel(), count)
    wires = (reach > WIRE * size) & (area < LONE * reach)
    wires[0] = False  # label 0 is the rest
    return np.where(wires[lines], 0, fine).astype(np.float32)


def restored(
    fine: np.ndarray,  # [H, W] a matte
    rough: np.ndarray,  # [H, W] a segmentation
    refined: np.ndarray,  # [H, W] its refinement
) -> np.ndarray:  # [H, W]
    """The matte with the patches that it lost and the segmentation is sure of, such as a white cap on white.

    Thin ones stay lost (gaps between locks, a wide outline), and so do large ones (the segmentation erred).
    """
    size = float(np.sqrt((rough > 0.5).sum()))
    lost = (rough > 0.7) & (fine < 0.5)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(lost.astype(np.uint8), connectivity=4)
    if count < 2 or lost.all():
        return fine
    thick = np.bincount(labels[distance(~lost) > PATCH * size], minlength=count) > 0
    certainty = np.bincount(labels.ravel(), rough.ravel(), count) / stats[:, cv2.CC_STAT_AREA]
    chosen = thick & (certainty > SURE) & (stats[:, cv2.CC_STAT_AREA] < LARGEST_PATCH * size**2)
    chosen[0] = False  # label 0 is the rest
    if not chosen.any():
        return fine
    near = distance(chosen[labels]) <= 2 + PATCH / 2 * size
    return np.where(near, np.maximum(fine, refined), fine)


def arbitrated(
    rgb: np.ndarray,  # [H, W, 3]
    fine: np.ndarray,  # [H, W] a matte
    refined: np.ndarray,  # [H, W] a refined segmentation
) -> np.ndarray:  # [H, W]
    """The matte, but for thick patches where the two differ and the segmentation is right by the colours about them.

    These are things that the matte adds and that look like the ground, and holes in it that look like the person.
    """
    size = float(np.sqrt((refined > 0.5).sum()))
    reach, result = round(SURROUNDINGS * size), fine.copy()
    for differs, half, better, likeness, alike in (
        (fine - refined > 0.25, ADDED, np.minimum, DOUBTFUL, ALIKE),
        (refined - fine > 0.25, LOST, np.maximum, LIKENESS, np.inf),
    ):
        thick = distance(~differs) > max(1.5, half * size) if not differs.all() else differs
        for patch in patches(thick, LARGEST_PATCH * size**2, reach):
            from_person, from_ground = likely(rgb, patch, fine, refined, reach)
            ours, theirs = (from_person, from_ground) if better is np.minimum else (from_ground, from_person)
            if theirs < likeness * ours and theirs < alike:
                near = distance(patch.shape) <= 4 + 2 * half * size
                result[patch.window] = np.where(near, better(fine, refined)[patch.window], result[patch.window])
    return result


@dataclass(frozen=True)
class Patch:
    """A connected part of a mask and its surroundings."""

    window: tuple[slice, slice]  # rows and columns of the picture
    shape: np.ndarray  # [h, w] bool, within the window


def patches(mask: np.ndarray, largest: float, reach: int) -> Iterator[Patch]:
    """The connected parts of a mask [H, W] bool of up to `largest` pixels, with `reach` pixels about each."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    for label, (left, top, wide, high, area) in enumerate(stats[1:], 1):
        if FEW / 4 < area <= largest:
            window = slice(max(0, top - reach), top + high + reach), slice(max(0, left - reach), left + wide + reach)
            yield Patch(window, labels[window] == label)


def likely(
    rgb: np.ndarray,  # [H, W, 3]
    patch: Patch,
    fine: np.ndarray,  # [H, W]
    refined: np.ndarray,  # [H, W]
    reach: int,  # pixels
) -> tuple[float, float]:
    """How far a patch's colours are from the person's and the ground's about it.

    Infinitely far where no person is about; NaN if no ground is.
    """
    near, colours = distance(patch.shape) < reach, rgb[patch.window]
    person = (np.minimum(fine, refined)[patch.window] > 0.95) & near
    ground = (np.maximum(fine, refined)[patch.window] < 0.1) & near
    if ground.sum() < FEW:
        return float("nan"), float("nan")
    own = colours[patch.shape]
    return apart(own, colours[person]) if person.sum() >= FEW else float("inf"), apart(own, colours[ground])


def apart(
    colours: np.ndarray,  # [N, 3]
    others: np.ndarray,  # [M, 3]
) -> float:
    """How far the median of some colours is from the nearer ones among others."""
    some, rest = (part[:: len(part) // SAMPLED + 1] for part in (colours, others))
    distances = np.linalg.norm(some[:, None] - rest, axis=-1)
    return float(np.median(np.quantile(distances, 0.03, axis=1)))


def filled(figure: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """A figure [H, W] bool with those of its gaps that are small and mostly lie where `allowed` [H, W] bool."""
    _, gaps, sizes, _ = cv2.connectedComponentsWithStats((~figure).astype(np.uint8), connectivity=4)
    share = np.bincount(gaps.ravel(), allowed.ravel(), len(sizes)) / np.maximum(sizes[:, cv2.CC_STAT_AREA], 1)
    chosen = (share > 0.8) & (sizes[:, cv2.CC_STAT_AREA] < LARGEST_PATCH * figure.sum())
    chosen[0] = False  # label 0 is the figure
    return figure | chosen[gaps]
