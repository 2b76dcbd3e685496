"""One tracked picture seen from the head's UV space: which texel sees which pixel, and how far hair stands off."""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from flexavatar_cli.core.camera import Camera, Crop
from flexavatar_cli.core.sampling import sample_bilinear
from flexavatar_cli.core.track import Track
from flexavatar_cli.heads import HeadModel
from flexavatar_cli.heads.surface import surface, vertex_normals
from flexavatar_cli.heads.texels import TexelGrid
from flexavatar_cli.media.images import composite, to_uint8
from flexavatar_cli.render.mesh import rasterize_mesh
from flexavatar_cli.stages.hull import MATTE_EDGE, at_texels, at_vertices, hull_displacement
from flexavatar_cli.stages.matting.unmixing import foreground

CROP_BOTTOM = -0.20  # metres, head space: lower edge of the crop
CROP_TOP = 0.20  # upper edge unless hair or a hat reaches higher
CROP_HIGHEST = 0.30
SOLID = 0.75  # alpha under which a pixel is too much background to be read as the head's colour
RIM = 3.0  # pixels of a crop
WHOLE = 0.999  # share of a crop's pixel that the photo covers, under which the pixel does not count as inside it
DEPTH_TOLERANCE = 0.004  # metres between a texel and the nearest surface for it to count as seen
SEEN_COSINES = (0.15, 0.45)  # a photo texel fades in between these facing cosines
ERODED = 128  # one texel in so many is lost along the border of what is seen (2 texels of 256)


@dataclass(frozen=True)
class Observation:
    """A square crop of a photo or frame with the camera and expression it was taken with; 8 bit, so that many fit."""

    image: np.ndarray  # [S, S, 3] uint8, composited on white
    alpha: np.ndarray  # [S, S] uint8 matte
    inside: np.ndarray  # [S, S] uint8, 0 where the source picture ends
    camera: Camera  # one camera, of the crop
    identity: np.ndarray  # [K] float32
    expression: np.ndarray  # [E] float32


@dataclass(frozen=True)
class Evidence:
    """What an observation says about each of N texels."""

    color: Tensor  # [N, 3] photo at each texel, anything where unseen
    seen: Tensor  # [N] in 0..1
    facing: Tensor  # [N] cosine of normal and view
    displacement: Tensor  # [N] metres, the hair hull
    pixels: Tensor  # [N, 2] where each texel lands in the picture


def head_crop(camera: Camera, alpha: np.ndarray, size: int) -> Crop:
    """The square window from the shoulders to the top of the hair, by the camera of frame 0.

    `alpha` [H, W] is the matte of the same picture.
    """
    depth = float(np.linalg.norm(camera.cam2world[0, :3, 3]))
    pixels_per_metre = float(camera.intrinsics[0, 1, 1]) / depth
    centre = camera.project(np.zeros((1, 3)))[0][0, 0]
    half = int(0.14 * pixels_per_metre)
    left, right = max(0, int(centre[0]) - half), max(1, int(centre[0]) + half)
    rows = np.nonzero((alpha[:, left:right] > MATTE_EDGE).mean(1) > 0.02)[0]
    top = (centre[1] - rows[0]) / pixels_per_metre + 0.015 if len(rows) else CROP_TOP
    top = float(np.clip(top, CROP_TOP, CROP_HIGHEST))
    side = (top - CROP_BOTTOM) * pixels_per_metre
    middle = centre[1] - (top + CROP_BOTTOM) / 2 * pixels_per_metre
    return Crop.square((float(centre[0]), float(middle)), side, size)


def crop_observation(
    rgb: np.ndarray,  # [H, W, 3] float32
    alpha: np.ndarray,  # [H, W] float32
    track: Track,
    frame: int,
    size: int = 512,
) -> Observation:
    """The head in frame number `frame` of a track, cropped from its picture and matte."""
    return crop_window(rgb, alpha, track, frame, head_crop(track.camera()[frame], alpha, size))


def crop_window(rgb: np.ndarray, alpha: np.ndarray, track: Track, frame: int, crop: Crop) -> Observation:
    """The window `crop` of the picture [H, W, 3] and matte [H, W] of frame number `frame` of a track."""
    image = crop.image(np.asarray(rgb, np.float32), border=None)
    inside = (crop.image(np.ones(rgb.shape[:2], np.float32), border=0.0) > WHOLE).astype(np.float32)
    matte = crop.image(np.asarray(alpha, np.float32), border=None) * inside
    composited = composite(clean_rim(foreground(image, matte), matte, inside), matte)
    return Observation(
        to_uint8(composited),
        to_uint8(matte),
        to_uint8(inside),
        track.camera()[frame].cropped(crop),
        np.asarray(track.identity, np.float32),
        np.asarray(track.expression_code[frame], np.float32),
    )


def clean_rim(
    front: np.ndarray,  # [H, W, 3]
    matte: np.ndarray,  # [H, W]
    inside: np.ndarray,  # [H, W] 0 where the photo ends, which is no rim
) -> np.ndarray:  # [H, W, 3]
    """The picture whose outermost RIM pixels take the colour of what is further inside.

    Mattes are a pixel or two too wide here and there, and ground in the rim would become streaks seen from the side.
    """
    solid = ((matte > SOLID) | (inside == 0)).astype(np.uint8)
    depth = cv2.distanceTransform(solid, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    sure = (np.clip(depth / RIM - 0.5, 0, 1) * inside)[..., None]
    sums = cv2.GaussianBlur(np.concatenate([front * sure, sure], -1), (0, 0), RIM)
    weight = sums[..., 3:]
    inner = np.where(weight > 1e-3, sums[..., :3] / np.maximum(weight, 1e-3), front)
    return front * sure + inner * (1 - sure)


def examine(
    seen: Observation,
    head: HeadModel,
    resolution: int,
    displacement: np.ndarray | None = None,  # [N] metres, where it is known better than by the hull
) -> Evidence:
    """Inflate the head model to the matte, and sample the picture at every texel that sees it."""
    matte, inside = (value.astype(np.float32) / 255 for value in (seen.alpha, seen.inside))
    shape = texel_visibility(matte, inside, seen.camera, seen.identity, seen.expression, head, resolution, displacement)
    color = sample_bilinear(seen.image.astype(np.float32) / 255, shape.pixels)
    arrays = (color, shape.seen, shape.facing, shape.displacement, shape.pixels)
    return Evidence(*(torch.from_numpy(array.astype(np.float32)) for array in arrays))


def outline_correction(
    seen: Observation, head: HeadModel, resolution: int, displacement: np.ndarray
) -> np.ndarray:  # [N] metres -> [N] metres
    """What must be added to a displacement at the texels of `resolution` so that its outline meets the matte."""
    matte, inside = (value.astype(np.float32) / 255 for value in (seen.alpha, seen.inside))
    with torch.no_grad():
        posed = head.vertices(torch.from_numpy(seen.identity), torch.from_numpy(seen.expression))
        outward = vertex_normals(head, posed).numpy().astype(np.float64)
    grid = head.texels(resolution)
    start = at_vertices(displacement, head, grid)
    end = hull_displacement(matte, inside, seen.camera, posed.numpy().astype(np.float64), outward, head, start)
    return at_texels(end - start, grid)


@dataclass(frozen=True)
class TexelVisibility:
    """Where each of N texels lands in a picture and how well it is seen."""

    pixels: np.ndarray  # [N, 2] float64
    seen: np.ndarray  # [N] float32 in 0..1
    facing: np.ndarray  # [N] float32
    displacement: np.ndarray  # [N] float32 metres


def texel_visibility(
    matte: np.ndarray,  # [S, S]
    inside: np.ndarray,  # [S, S]
    camera: Camera,
    identity: np.ndarray,
    expression: np.ndarray,
    head: HeadModel,
    resolution: int,
    displacement: np.ndarray | None = None,  # [N]
) -> TexelVisibility:
    """Hull displacement unless one is given, then z-buffered visibility of the displaced surface."""
    with torch.no_grad():
        posed = head.vertices(
            torch.as_tensor(np.asarray(identity, np.float32)), torch.as_tensor(np.asarray(expression, np.float32))
        )
        fine = head.texels(resolution)
        points = surface(fine, posed).numpy().astype(np.float64)
        vertex_outward = vertex_normals(head, posed)
        normals = torch.nn.functional.normalize(surface(fine, vertex_outward), dim=-1).numpy().astype(np.float64)
    vertices, outward = posed.numpy().astype(np.float64), vertex_outward.numpy().astype(np.float64)
    if displacement is None:
        lift = hull_displacement(matte, inside, camera, vertices, outward, head)
        displacement = at_texels(lift, fine)
    else:
        lift = at_vertices(displacement, head, fine)
    displaced = points + normals * displacement[:, None]
    mesh = vertices + outward * lift[:, None]
    height, width = matte.shape
    mesh_pixels, mesh_depth = camera.project(mesh)
    _, _, zbuffer = rasterize_mesh(mesh_pixels[0], mesh_depth[0], head.faces.numpy(), height, width)
    pixels, depth = (value[0] for value in camera.project(displaced))
    column = np.clip(pixels[:, 0].astype(int), 0, width - 1)
    row = np.clip(pixels[:, 1].astype(int), 0, height - 1)
    view = camera.cam2world[0, :3, 3] - displaced
    view /= np.linalg.norm(view, axis=1, keepdims=True)
    facing = (_surface_normals(displaced, normals, fine) * view).sum(1)
    within = (pixels[:, 0] >= 0) & (pixels[:, 0] < width) & (pixels[:, 1] >= 0) & (pixels[:, 1] < height)
    eroded = cv2.erode(matte * inside, np.ones((5, 5), np.uint8))
    nearest = cv2.erode(zbuffer.astype(np.float32), np.ones((3, 3), np.uint8))[row, column]
    fade = np.clip((facing - SEEN_COSINES[0]) / (SEEN_COSINES[1] - SEEN_COSINES[0]), 0, 1)
    tolerance = DEPTH_TOLERANCE / np.maximum(facing, 0.3)
    seen = fade * within * (depth < nearest + tolerance) * np.clip((eroded[row, column] - SOLID) / (1 - SOLID), 0, 1)
    seen *= trusted_parts(head, fine)
    seen = receded(seen.astype(np.float32), fine)
    return TexelVisibility(pixels, seen, np.clip(facing, 0, 1).astype(np.float32), displacement.astype(np.float32))


def trusted_parts(head: HeadModel, grid: TexelGrid) -> np.ndarray:  # [N] float32
    """1 for parts whose photo pixels are theirs; the mouth's inside is too easily confused with lips and teeth."""
    blocked = np.array([name in ("mouth_socket", "gums", "tongue", "eye_sockets") for name in head.part_names])
    return (~blocked[grid.part.numpy()]).astype(np.float32)


def _surface_normals(displaced: np.ndarray, normals: np.ndarray, grid: TexelGrid) -> np.ndarray:
    """Normals [N, 3] of the displaced texel surface by finite differences, smoothed normals where a chart ends."""
    size = grid.resolution
    index = grid.index.numpy()
    picture = np.full((size * size, 3), np.nan, np.float32)
    picture[index] = displaced
    picture = picture.reshape(size, size, 3)
    along_u = np.full_like(picture, np.nan)
    along_v = np.full_like(picture, np.nan)
    along_u[:, 2:-2] = picture[:, 4:] - picture[:, :-4]
    along_v[2:-2] = picture[4:] - picture[:-4]
    crossed = np.cross(along_u, along_v).reshape(-1, 3)[index]
    crossed *= np.sign((crossed * normals).sum(1, keepdims=True))
    length = np.linalg.norm(crossed, axis=1, keepdims=True)
    good = np.isfinite(length) & (length > 1e-12)
    return np.where(good, crossed / np.where(good, length, 1), normals)


def receded(seen: np.ndarray, grid: TexelGrid) -> np.ndarray:
    """Pull the seen mask back from every unseen texel of its chart: rims carry background or occluder colours."""
    size = grid.resolution
    index = grid.index.numpy()
    picture = np.ones(size * size, np.float32)  # outside the charts counts as seen, so chart borders are not eaten
    picture[index] = seen
    side = 2 * (size // ERODED) + 1
    eroded = cv2.erode(picture.reshape(size, size), np.ones((side, side), np.uint8))
    return cv2.blur(eroded, (3, 3)).reshape(-1)[index] * (seen > 0)
