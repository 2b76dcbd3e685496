"""Hair and skin that no photo shows, given the texture of those that it does show.

A network trained by means cannot invent strands or pores: what is unseen comes out flat. Windows of the visible hair's
or skin's own detail are laid over the rest of the lifted surface, turned so that they hang the same way, each chosen to
go with those laid before it (Efros and Freeman 2001, "Image Quilting for Texture Synthesis and Transfer").
"""

import math
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

PLACES = 6  # windows of the photo that make a texture
FLOOR = 0.03  # added to brightness before the logarithm
STRONGEST = 2.5  # standard deviations at which detail is clipped
SHARPENING = 2  # Van Cittert steps that undo in advance what the overlap of neighbouring Gaussians blurs
CANDIDATES = 8  # windows of which the one that goes best with those laid before is taken
STEEPNESS = 12  # of the fall of a window's weight: where two meet, one of them prevails and keeps its contrast
SEED = 0
GRAIN = 3  # pixels: sigma of a structure tensor
STRAIGHT = (0.4, 0.6)  # coherence of curls, and of straight hair
COMBED = 1.3  # contrast of combed detail over that of the uncombed: strands run together where texels overlap


@dataclass(frozen=True)
class Material:
    """What is told apart when the texture of a material is laid over more of it."""

    radii: tuple[float, ...]  # metres, of a window; the first with enough places in the photo
    blur: float  # metres: sigma of what counts as colour rather than detail
    contrast: tuple[float, float]  # standard deviations of detail between which it fades out, as of something else
    liveliest: float  # of a window's own standard deviation over the median one
    strand: tuple[float, float]  # metres along which it is combed if it is curly, and if it is straight


# more contrast is the pattern of a hat
HAIR = Material((0.016, 0.011, 0.008), 0.01, (0.36, 0.44), math.inf, (0.01, 0.1))
# livelier windows hold spots, creases or glasses
SKIN = Material((0.008, 0.006), 0.0025, (0.35, 0.5), 0.8, (0.0, 0.0))


@dataclass(frozen=True)
class Swatch:
    """A material in a photo, at the scale of a chart's texels."""

    detail: np.ndarray  # [H, W] logarithm of brightness over its surroundings
    color: np.ndarray  # [H, W, 3] the surroundings
    there: np.ndarray  # [H, W] bool, where the material is
    pixel: float  # metres


def laid_detail(
    material: Material,
    seen: Observation,
    found: Evidence,
    share: np.ndarray,  # [N] in 0..1, where the surface is of the material
    sample: np.ndarray,  # [N] in 0..1, where it may be taken from if it is seen there
    color: np.ndarray,  # [N, 3] low frequencies that the detail will be laid on
    head: HeadModel,
    resolution: int,
) -> np.ndarray:  # [N]
    """Logarithm of the brightness that each texel of the material should have over its surroundings; 0 if unknown."""
    detail = np.zeros(len(share), np.float32)
    wanted = np.nonzero((share > 0) & (found.seen.numpy() < 1))[0]
    if len(wanted) < 2:
        return detail
    points, outward = (values[wanted] for values in _lifted(seen, found, head, resolution))
    photo = swatch(material, seen, found, sample, _spacing(points))
    for radius in material.radii:
        sources = window_places(photo, radius, material.liveliest)
        if len(sources) >= PLACES:
            generator = np.random.default_rng(SEED)
            laid = laid_windows(photo, sources, radius, points, outward, color[wanted], generator)
            curly, straight = material.strand
            strand = curly + (straight - curly) * float(np.interp(coherence(photo), STRAIGHT, (0, 1)))
            detail[wanted] = combed(laid, points, outward, strand, photo.pixel)
            break
    return detail


def _lifted(
    seen: Observation, found: Evidence, head: HeadModel, resolution: int
) -> tuple[np.ndarray, np.ndarray]:  # [N, 3], [N, 3]
    """Where the lifted surface lies, not the skin below: one smooth sheet over an ear's folds. With normals."""
    with torch.no_grad():
        vertices = head.vertices(torch.from_numpy(seen.identity), torch.from_numpy(seen.expression))
        grid = head.texels(resolution)
        outward = normalize(surface(grid, vertex_normals(head, vertices)), dim=-1)
        points = surface(grid, vertices) + outward * found.displacement[:, None]
    return points.numpy().astype(np.float64), outward.numpy().astype(np.float64)


def _spacing(points: np.ndarray) -> float:
    """Median distance between neighbouring texels [N, 3] in metres."""
    return float(np.median(cKDTree(points).query(points, k=2)[0][:, 1]))


def swatch(material: Material, seen: Observation, found: Evidence, share: np.ndarray, pixel: float) -> Swatch:
    """The observation at `pixel` metres a pixel, split into colour and detail, and where it is the material."""
    camera = seen.camera
    metres = float(np.linalg.norm(camera.cam2world[0, :3, 3])) / camera.intrinsics[0, 1, 1]
    height, width = (max(8, round(side * metres / pixel)) for side in seen.alpha.shape)
    image = cv2.resize(seen.image, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    alpha = cv2.resize(seen.alpha, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    marks = np.zeros((2, height, width), np.float32)
    visible = found.seen.numpy() > 0.5
    at = (found.pixels.numpy()[visible] * metres / pixel).astype(int)
    column, row = np.clip(at[:, 0], 0, width - 1), np.clip(at[:, 1], 0, height - 1)
    np.add.at(marks, (0, row, column), share[visible])
    np.add.at(marks, (1, row, column), 1.0)
    marks = np.stack([cv2.GaussianBlur(mark, (0, 0), 1.5) for mark in marks])
    there = (marks[1] > 0.05) & (marks[0] > 0.7 * marks[1]) & (alpha > 0.95)
    weight = there.astype(np.float32)
    grey = np.log(image.mean(-1) + FLOOR)
    sigma = material.blur / pixel
    total = np.maximum(cv2.GaussianBlur(weight, (0, 0), sigma), 1e-3)
    smooth = cv2.GaussianBlur(grey * weight, (0, 0), sigma) / total
    color = cv2.GaussianBlur(image * weight[..., None], (0, 0), sigma) / total[..., None]
    detail = (grey - smooth) * weight
    spread = max(float(detail[there].std()), 1e-3) if there.any() else 1.0
    detail = np.clip(detail, -STRONGEST * spread, STRONGEST * spread)
    sharp = detail
    for _ in range(SHARPENING):
        sharp = sharp + weight * (detail - cv2.GaussianBlur(sharp, (0, 0), SIZE_SHARE))
    detail = sharp * _fade(spread, material.contrast)
    return Swatch(detail, color, there, pixel)


def _fade(spread: float, contrast: tuple[float, float]) -> float:
    plain, patterned = contrast
    return float(np.clip((patterned - spread) / (patterned - plain), 0, 1))


def window_places(photo: Swatch, radius: float, liveliest: float = math.inf) -> np.ndarray:  # [n, 2] pixels
    """Centres of the windows of `radius` metres that hold nothing but the material, none much livelier than most."""
    side = 2 * round(0.8 * radius / photo.pixel) + 1
    kernel = np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.uint8)
    room = cv2.erode(np.pad(photo.there, 1).astype(np.uint8), kernel)[1:-1, 1:-1]  # the picture's border is none of it
    energy = cv2.blur(photo.detail**2, (side, side))
    if room.any() and liveliest < math.inf:
        room = room * (energy <= liveliest**2 * np.median(energy[room > 0]))
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
    """Detail at the points: overlapping windows that hang down, each from a place of much the same colour.

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


def coherence(photo: Swatch) -> float:
    """How much the material's detail runs one way, 0..1: the anisotropy of its structure tensors, by their strength."""
    within = cv2.erode(photo.there.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(np.float32)
    detail = photo.detail.astype(np.float32)
    across, down = (cv2.Sobel(detail, cv2.CV_32F, *order) for order in ((1, 0), (0, 1)))
    products = (across * across, down * down, across * down)
    uu, vv, uv = (cv2.GaussianBlur(product * within, (0, 0), GRAIN) for product in products)
    strength = float(((uu + vv) * within).sum())
    return float((np.hypot(uu - vv, 2 * uv) * within).sum()) / max(strength, 1e-9)


def combed(
    detail: np.ndarray,  # [N]
    points: np.ndarray,  # [N, 3] metres
    outward: np.ndarray,  # [N, 3]
    strand: float,  # metres
    spacing: float,  # metres between points
) -> np.ndarray:  # [N]
    """Detail averaged along the way that hair hangs, at COMBED times its contrast: lumps become strands.

    Line integral convolution (Cabral and Leedom 1993) with a Hann window of length `strand`; what is shorter than two
    spacings leaves the detail as it is.
    """
    count = round(strand / 2 / spacing)
    if count < 1 or not detail.any():
        return detail
    tree = cKDTree(points)
    _, down = _hanging(outward)
    total, weights = detail.astype(np.float64), np.ones(len(points))
    for sign in (-1, 1):
        there, at = points.copy(), np.arange(len(points))
        on = np.ones(len(points), bool)
        for step in range(1, count + 1):
            there = there + sign * spacing * down[at]
            apart, nearest = tree.query(there)
            on &= apart < 2 * spacing
            at = np.where(on, nearest, at)
            there = np.where(on[:, None], there + 0.5 * (points[at] - there), there)
            weight = on * (0.5 + 0.5 * np.cos(np.pi * step / (count + 1)))
            total += weight * detail[at]
            weights += weight
    total /= weights
    return (COMBED * total * (detail.std() / max(float(total.std()), 1e-9))).astype(np.float32)


def _hanging(normal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors [..., 3] across and down the plane with this normal, as the axes of a picture seen from outside."""
    across = np.cross((0.0, 1.0, 0.1), normal)  # a little backwards, where the crown is level and nothing hangs
    across /= np.maximum(np.linalg.norm(across, axis=-1, keepdims=True), 1e-9)
    down = np.cross(across, normal)
    return across, down / np.maximum(np.linalg.norm(down, axis=-1, keepdims=True), 1e-9)
