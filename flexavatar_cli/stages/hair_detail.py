"""Hair that no photo shows, given the texture of the hair that it does show.

A network trained by means cannot invent strands: unseen hair comes out flat. Windows of the visible hair's own detail,
turned so that they hang the same way, are laid over the rest with weights that keep the variance of what they blend
(Heitz and Neyret 2018, "High-Performance By-Example Noise using a Histogram-Preserving Blending Operator").
"""

from dataclasses import dataclass

import cv2
import numpy as np

from flexavatar_cli.core.sampling import sample_bilinear
from flexavatar_cli.heads import HeadModel
from flexavatar_cli.heads.surface import surface
from flexavatar_cli.heads.texels import TexelGrid
from flexavatar_cli.stages.observation import Evidence, Observation

CHARTS = ("face", "scalp", "neck")  # parts that hair may cover
RADII = (0.016, 0.011, 0.008)  # metres, of a window; the first with enough places in the photo
PLACES = 6  # windows of the photo that make a texture
BLUR = 0.005  # metres: sigma of what counts as colour rather than detail
FLOOR = 0.03  # added to brightness before the logarithm
STRONGEST = 2.5  # standard deviations at which detail is clipped
GAIN = 1.4  # what the overlap of neighbouring Gaussians takes away again
HAIR_CONTRAST = (0.28, 0.34)  # standard deviation of detail; more than hair has is the pattern of a hat, and fades out
SEED = 0


@dataclass(frozen=True)
class Swatch:
    """Hair in a photo, at the scale of a chart's texels."""

    detail: np.ndarray  # [H, W] logarithm of brightness over its surroundings
    color: np.ndarray  # [H, W, 3] the surroundings
    hair: np.ndarray  # [H, W] bool
    pixel: float  # metres


def hair_detail(
    seen: Observation,
    found: Evidence,
    hair: np.ndarray,  # [N] in 0..1, where the surface is hair
    color: np.ndarray,  # [N, 3] low frequencies that the detail will be laid on
    head: HeadModel,
    resolution: int,
) -> np.ndarray:  # [N]
    """Logarithm of the brightness that hair at each texel should have over its surroundings; 0 where none is known."""
    grid = head.texels(resolution)
    points = surface(grid, head.template).numpy()
    generator = np.random.default_rng(SEED)
    detail = np.zeros(len(hair), np.float32)
    for chart in CHARTS:
        rows = np.nonzero(grid.part.numpy() == head.part_names.index(chart))[0]
        places = metric_places(grid, rows, points[rows])
        spacing = float(np.median(np.linalg.norm(places - np.roll(places, 1, 0), axis=1)))
        photo = swatch(seen, found, hair, spacing)
        for radius in RADII:
            sources = window_places(photo, radius)
            if len(sources) >= PLACES:
                wanted = rows[(hair[rows] > 0) & (found.seen.numpy()[rows] < 1)]
                inside = np.isin(rows, wanted)
                if inside.any():
                    detail[wanted] = laid_windows(
                        photo, sources, radius, places[inside], points[wanted], color[wanted], generator
                    )
                break
    return detail


def metric_places(grid: TexelGrid, rows: np.ndarray, points: np.ndarray) -> np.ndarray:  # [n, 2] metres
    """Positions of a chart's texels in its own plane, stretched to the surface's size."""
    index = grid.index.numpy()[rows]
    column, row = index % grid.resolution, index // grid.resolution
    scale = []
    for along, across in ((column, row), (row, column)):
        order = np.lexsort((along, across))
        beside = (np.diff(along[order]) == 1) & (np.diff(across[order]) == 0)
        steps = np.linalg.norm(np.diff(points[order], axis=0), axis=1)[beside]
        scale.append(float(np.median(steps)))
    return np.stack([column * scale[0], row * scale[1]], -1)


def swatch(seen: Observation, found: Evidence, hair: np.ndarray, pixel: float) -> Swatch:
    """The observation at `pixel` metres a pixel, split into colour and detail, with the pixels known to be hair."""
    camera = seen.camera
    metres = float(np.linalg.norm(camera.cam2world[0, :3, 3])) / camera.intrinsics[0, 1, 1]
    height, width = (max(8, round(side * metres / pixel)) for side in seen.alpha.shape)
    image = cv2.resize(seen.image, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    alpha = cv2.resize(seen.alpha, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    marks = np.zeros((2, height, width), np.float32)
    visible = found.seen.numpy() > 0.5
    at = (found.pixels.numpy()[visible] * metres / pixel).astype(int)
    column, row = np.clip(at[:, 0], 0, width - 1), np.clip(at[:, 1], 0, height - 1)
    np.add.at(marks, (0, row, column), hair[visible])
    np.add.at(marks, (1, row, column), 1.0)
    marks = np.stack([cv2.GaussianBlur(mark, (0, 0), 1.5) for mark in marks])
    is_hair = (marks[1] > 0.05) & (marks[0] > 0.7 * marks[1]) & (alpha > 0.95)
    weight = is_hair.astype(np.float32)
    grey = np.log(image.mean(-1) + FLOOR)
    sigma = BLUR / pixel
    total = np.maximum(cv2.GaussianBlur(weight, (0, 0), sigma), 1e-3)
    smooth = cv2.GaussianBlur(grey * weight, (0, 0), sigma) / total
    color = cv2.GaussianBlur(image * weight[..., None], (0, 0), sigma) / total[..., None]
    detail = (grey - smooth) * weight
    spread = max(float(detail[is_hair].std()), 1e-3) if is_hair.any() else 1.0
    detail = np.clip(detail, -STRONGEST * spread, STRONGEST * spread) * GAIN * _fade(spread)
    return Swatch(detail, color, is_hair, pixel)


def _fade(spread: float) -> float:
    plain, patterned = HAIR_CONTRAST
    return float(np.clip((patterned - spread) / (patterned - plain), 0, 1))


def window_places(photo: Swatch, radius: float) -> np.ndarray:  # [n, 2] pixels
    """Centres of the windows of `radius` metres that hold nothing but hair."""
    side = 2 * round(0.8 * radius / photo.pixel) + 1
    kernel = np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.uint8)
    room = cv2.erode(np.pad(photo.hair, 1).astype(np.uint8), kernel)[1:-1, 1:-1]  # the picture's border is no hair
    row, column = np.nonzero(room)
    return np.stack([column, row], -1)[::2].astype(np.float64)


def laid_windows(
    photo: Swatch,
    sources: np.ndarray,  # [n, 2] pixels
    radius: float,
    places: np.ndarray,  # [N, 2] metres in the chart
    points: np.ndarray,  # [N, 3] on the head
    color: np.ndarray,  # [N, 3]
    generator: np.random.Generator,
) -> np.ndarray:  # [N]
    """Detail at the texels of one chart: overlapping windows, each from hair of much the same colour."""
    sums, squares = np.zeros(len(places)), np.zeros(len(places))
    tints = photo.color[sources[:, 1].astype(int), sources[:, 0].astype(int)]
    low, high = places.min(0), places.max(0)
    for y in np.arange(low[1], high[1] + radius, radius):
        for x in np.arange(low[0], high[0] + radius, radius):
            offset = places - (x, y)
            distance = np.linalg.norm(offset, axis=1)
            near = distance < radius
            if near.sum() < 4:
                continue
            apart = np.linalg.norm(tints - color[near].mean(0), axis=1)
            alike = np.argsort(apart, kind="stable")[: max(PLACES, len(apart) // 4)]
            source = sources[generator.choice(alike)]
            turned = offset[near] @ _upright(places[near], points[near]).T
            value = sample_bilinear(photo.detail[..., None], source + 0.5 + turned / photo.pixel)[:, 0]
            weight = 0.5 + 0.5 * np.cos(np.pi * distance[near] / radius)
            sums[near] += weight * value
            squares[near] += weight**2
    return (sums / np.sqrt(np.maximum(squares, 1e-6))).astype(np.float32)


def _upright(places: np.ndarray, points: np.ndarray) -> np.ndarray:  # [2, 2]
    """Turn of the chart's plane that lets it hang downwards, as the photo does."""
    flat = places - places.mean(0)
    slope, *_ = np.linalg.lstsq(flat, points[:, 1] - points[:, 1].mean(), rcond=None)
    length = float(np.linalg.norm(slope))
    if length < 0.2:  # the crown: level ground, nothing hangs
        return np.eye(2)
    x, y = -slope / length
    return np.array([[y, -x], [x, y]])
