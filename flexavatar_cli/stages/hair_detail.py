"""Hair that no photo shows, given the texture of the hair that it does show.

A network trained by means cannot invent strands: unseen hair comes out flat. Windows of the visible hair's own detail
are laid over the rest of the lifted surface, turned so that they hang the same way, each chosen to go with those laid
before it (Efros and Freeman 2001, "Image Quilting for Texture Synthesis and Transfer").
"""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from scipy.spatial import cKDTree
from torch.nn.functional import normalize

from flexavatar_cli.core.sampling import sample_bilinear
from flexavatar_cli.heads import HeadModel
from flexavatar_cli.heads.surface import surface, vertex_normals
from flexavatar_cli.stages.observation import Evidence, Observation
from flexavatar_cli.stages.rig import SIZE_SHARE

RADII = (0.016, 0.011, 0.008)  # metres, of a window; the first with enough places in the photo
PLACES = 6  # windows of the photo that make a texture
BLUR = 0.01  # metres: sigma of what counts as colour rather than detail
FLOOR = 0.03  # added to brightness before the logarithm
STRONGEST = 2.5  # standard deviations at which detail is clipped
SHARPENING = 2  # Van Cittert steps that undo in advance what the overlap of neighbouring Gaussians blurs
HAIR_CONTRAST = (0.36, 0.44)  # standard deviation of detail; more than hair has is the pattern of a hat, and fades out
CANDIDATES = 8  # windows of which the one that goes best with those laid before is taken
STEEPNESS = 12  # of the fall of a window's weight: where two meet, one of them prevails and keeps its contrast
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
    detail = np.zeros(len(hair), np.float32)
    wanted = np.nonzero((hair > 0) & (found.seen.numpy() < 1))[0]
    if len(wanted) < 2:
        return detail
    points, outward = (values[wanted] for values in _lifted(seen, found, head, resolution))
    photo = swatch(seen, found, hair, _spacing(points))
    for radius in RADII:
        sources = window_places(photo, radius)
        if len(sources) >= PLACES:
            generator = np.random.default_rng(SEED)
            detail[wanted] = laid_windows(photo, sources, radius, points, outward, color[wanted], generator)
            break
    return detail


def _lifted(
    seen: Observation, found: Evidence, head: HeadModel, resolution: int
) -> tuple[np.ndarray, np.ndarray]:  # [N, 3], [N, 3]
    """Where hair lies, not the skin below: over an ear's folds it is one smooth sheet. With its normals."""
    with torch.no_grad():
        vertices = head.vertices(torch.from_numpy(seen.identity), torch.from_numpy(seen.expression))
        grid = head.texels(resolution)
        outward = normalize(surface(grid, vertex_normals(head, vertices)), dim=-1)
        points = surface(grid, vertices) + outward * found.displacement[:, None]
    return points.numpy().astype(np.float64), outward.numpy().astype(np.float64)


def _spacing(points: np.ndarray) -> float:
    """Median distance between neighbouring texels [N, 3] in metres."""
    return float(np.median(cKDTree(points).query(points, k=2)[0][:, 1]))


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
    detail = np.clip(detail, -STRONGEST * spread, STRONGEST * spread)
    sharp = detail
    for _ in range(SHARPENING):
        sharp = sharp + weight * (detail - cv2.GaussianBlur(sharp, (0, 0), SIZE_SHARE))
    detail = sharp * _fade(spread)
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
    points: np.ndarray,  # [N, 3] metres, on the lifted surface
    outward: np.ndarray,  # [N, 3] its normals
    color: np.ndarray,  # [N, 3]
    generator: np.random.Generator,
) -> np.ndarray:  # [N]
    """Detail at the points: overlapping windows that hang down, each from hair of much the same colour.

    What is laid depends on places in space alone, so that the folds of a buried ear get one texture together.
    """
    sums, weights = np.zeros(len(points)), np.full(len(points), 1e-9)
    tints = photo.color[sources[:, 1].astype(int), sources[:, 0].astype(int)]
    tree = cKDTree(points)
    order = generator.permutation(len(points))
    _, first = np.unique(np.floor(points[order] / radius), axis=0, return_index=True)  # a window per cube of space
    centres = points[order[first]]
    for centre in centres[np.argsort(-centres[:, 1], kind="stable")]:
        near = np.array(tree.query_ball_point(centre, radius))
        offset = points[near] - centre
        across, down = _hanging(outward[near].mean(0))
        flat = np.stack([offset @ across, offset @ down], -1) / photo.pixel
        apart = np.linalg.norm(tints - color[near].mean(0), axis=1)
        alike = np.argsort(apart, kind="stable")[: max(PLACES, len(apart) // 4)]
        chosen = sources[generator.choice(alike, CANDIDATES)]
        values = sample_bilinear(photo.detail[..., None], (chosen[:, None] + 0.5 + flat).reshape(-1, 2))
        values = values.reshape(CANDIDATES, len(near))
        there = sums[near] / weights[near]
        misfit = ((values - there) ** 2) @ np.minimum(weights[near], 1)
        weight = (1 - (np.linalg.norm(offset, axis=1) / radius) ** 2).clip(0) ** STEEPNESS
        sums[near] += weight * values[misfit.argmin()]
        weights[near] += weight
    return (sums / weights).astype(np.float32)


def _hanging(normal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors [3] across and down the plane with this normal, as the axes of a picture seen from outside."""
    across = np.cross((0.0, 1.0, 0.1), normal)  # a little backwards, where the crown is level and nothing hangs
    across /= max(float(np.linalg.norm(across)), 1e-9)
    down = np.cross(across, normal)
    return across, down / max(float(np.linalg.norm(down)), 1e-9)
