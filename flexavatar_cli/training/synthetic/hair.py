"""Hair as displacement: card meshes ray-cast along the head's smoothed normals (recipe HAIR_AND_BACK)."""

import io
import json
import tarfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import trimesh
from PIL import Image

from flexavatar_cli.heads import HeadModel
from flexavatar_cli.heads.surface import frames, surface
from flexavatar_cli.heads.texels import SKIN

REACH = 0.12  # metres
ALPHA_CUT = 0.4
GRAIN_STYLES = {"bob02": 0.8, "short04": 0.5}  # both CC0
GRAIN_STRENGTH = 0.10  # standard deviation of strands, relative to the hair colour
NOT_HAIR = ("punkduck_glasses_modern_form", "punkduck_sport_sunglasses", "beard1")


@dataclass(frozen=True)
class HairStyles:
    """S styles on N texels; style 0 is bald."""

    names: tuple[str, ...]
    height: np.ndarray  # [S, N] float32 metres above the skin
    shade: np.ndarray  # [S, N] float32 relative brightness of the strands, about 1
    cover: np.ndarray  # [S, N] float32 in 0..1


def bake_styles(data: Path, head: HeadModel, resolution: int, only: Collection[str] | None = None) -> HairStyles:
    """Cast a ray from every skin texel of the mean head; the last strand hit within reach is the hair's surface.

    With `only`, of those styles alone (and the bald one).
    """
    grid = head.texels(resolution)
    origin = surface(grid, head.template).numpy().astype(np.float64)
    normal = frames(head, grid, head.template).normal.numpy().astype(np.float64)
    skin = np.array([name in SKIN for name in head.part_names])[grid.part.numpy()]
    rays = np.nonzero(skin)[0]
    archive = np.load(data / "ict_hair.npz")
    names = [str(name) for name in archive["names"] if str(name) not in NOT_HAIR]
    names = [name for name in names if only is None or name in only]
    textures = _textures(data)
    heights, shades, covers = ([np.zeros(len(origin), np.float32)] for _ in range(3))
    shades[0] += 1
    for name in names:
        mesh = trimesh.Trimesh(archive[f"{name}.V"] / 100.0, archive[f"{name}.faces"], process=False)
        points, ray, triangle = mesh.ray.intersects_location(
            origin[rays] - 0.002 * normal[rays], normal[rays], multiple_hits=True
        )
        alpha, shade = _card(mesh, archive, name, textures.get(name), points, triangle)
        texel = rays[ray]
        height = np.einsum("nc,nc->n", points - origin[texel], normal[texel])
        keep = (alpha > ALPHA_CUT) & (height < REACH) & (height > -0.002)
        order = np.argsort(height[keep])
        surface_height = np.zeros(len(origin), np.float32)
        surface_shade = np.ones(len(origin), np.float32)
        cover = np.zeros(len(origin), np.float32)
        hit = texel[keep][order]  # later = farther wins
        surface_height[hit] = np.maximum(height[keep][order], 0)
        surface_shade[hit] = shade[keep][order]
        cover[hit] = 1
        height_map, cover_map = _clean(surface_height, cover, grid.index.numpy(), resolution)
        heights.append(height_map)
        shades.append(surface_shade)
        covers.append(cover_map)
    return HairStyles(("bald", *names), np.stack(heights), np.stack(shades), np.stack(covers))


def _textures(data: Path) -> dict[str, np.ndarray]:
    with tarfile.open(data / "mh_assets.tar") as archive:
        stream = archive.extractfile("mh_assets/manifest.json")
        assert stream is not None
        manifest = json.load(stream)
        result = {}
        for name, entry in manifest.items():
            texture = entry.get("texture") if isinstance(entry, dict) else None
            member = f"mh_assets/tex/{texture}"
            if texture and member in archive.getnames():
                stream = archive.extractfile(member)
                assert stream is not None
                result[name] = np.asarray(Image.open(io.BytesIO(stream.read())).convert("RGBA"), np.float32) / 255
    return result


def _card(
    mesh: trimesh.Trimesh,
    archive: np.lib.npyio.NpzFile,
    name: str,
    texture: np.ndarray | None,
    points: np.ndarray,
    triangle: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Alpha and relative brightness of the card texture at each hit."""
    if texture is None or len(points) == 0:
        return np.ones(len(points), np.float32), np.ones(len(points), np.float32)
    bary = trimesh.triangles.points_to_barycentric(mesh.triangles[triangle], points)
    uv = (archive[f"{name}.uv"][archive[f"{name}.faces_uv"][triangle]] * bary[..., None]).sum(1)
    height, width = texture.shape[:2]
    column = (uv[:, 0] % 1.0 * width).astype(int).clip(0, width - 1)
    row = ((1 - uv[:, 1] % 1.0) * height).astype(int).clip(0, height - 1)
    texel = texture[row, column]
    grey = texture[..., :3].mean(-1)
    top = np.percentile(grey[texture[..., 3] > 0.5], 80)
    return texel[:, 3], np.clip(texel[:, :3].mean(-1) / max(top, 1e-3), 0.2, 1.7)


def _clean(height: np.ndarray, cover: np.ndarray, index: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Median against single strands, closing against holes between cards, a blur against stairs."""
    picture = np.zeros((2, size * size), np.float32)
    picture[0, index], picture[1, index] = height, cover
    height_map, cover_map = picture.reshape(2, size, size)
    kernel = np.ones((5, 5), np.uint8)
    cover_map = cv2.morphologyEx(cv2.medianBlur(cover_map, 5), cv2.MORPH_CLOSE, kernel)
    closed = cv2.morphologyEx(cv2.medianBlur(height_map, 5), cv2.MORPH_CLOSE, kernel)
    weight = cv2.blur(cover_map, (5, 5))
    smooth = cv2.blur(closed * cover_map, (5, 5)) / np.maximum(weight, 1e-3)
    height_map = np.where(cover_map > 0.5, smooth, 0)
    soft = cv2.blur(cover_map, (3, 3))
    return (height_map * soft).ravel()[index].astype(np.float32), soft.ravel()[index].astype(np.float32)


def strand_grain(styles: HairStyles, head: HeadModel, resolution: int) -> np.ndarray:  # [N], mean 0
    """Fine brightness of combed hair on the scalp, 0 elsewhere: what unseen hair looks like beyond its colour."""
    grid = head.texels(resolution)
    index = grid.index.numpy()
    scalp = (head.scalp_weight[head.faces[grid.face]] * grid.bary).sum(-1).numpy()
    grain = np.zeros(len(index), np.float32)
    for name, share in GRAIN_STYLES.items():
        style = styles.names.index(name)
        picture = np.zeros((2, resolution * resolution), np.float32)
        cover = styles.cover[style] > 0.5
        picture[0, index], picture[1, index] = styles.shade[style] * cover, cover
        shade, weight = (cv2.GaussianBlur(part.reshape(resolution, resolution), (0, 0), 5) for part in picture)
        local = (shade / np.maximum(weight, 1e-3)).ravel()[index]
        fine = np.where(cover, styles.shade[style] - local, 0)
        grain += share * (fine / max(fine[cover & (scalp > 0.5)].std(), 1e-6)).clip(-2.5, 2.5)
    return GRAIN_STRENGTH * grain * np.clip(2 * scalp - 0.5, 0, 1)


def smooth_noise(points: np.ndarray, scale: float, generator: np.random.Generator) -> np.ndarray:
    """A random smooth field [N] of about unit variance over points [N, 3], features about `scale` metres."""
    wave = generator.normal(0, 1 / scale, (12, 3))
    phase = generator.uniform(0, 2 * np.pi, 12)
    return (np.sin(points @ wave.T + phase).sum(1) / np.sqrt(6)).astype(np.float32)


def random_hair(
    styles: HairStyles, choices: np.ndarray, points: np.ndarray, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A new style (height, shade, cover, each [N]): one of `choices` or two blended, swollen, roughened, cut.

    `points` [N, 3] are the texels of the mean head.
    """
    first = int(generator.choice(choices))
    height, shade, cover = styles.height[first].copy(), styles.shade[first].copy(), styles.cover[first].copy()
    if generator.random() < 0.4:
        second = int(generator.choice(choices))
        mix = generator.uniform(0.2, 0.8)
        height = (1 - mix) * height + mix * styles.height[second]
        cover = np.maximum(cover * (mix < 0.7), styles.cover[second] * (mix > 0.3))
        height *= cover
    height *= np.exp(generator.normal(0, 0.2) + 0.15 * smooth_noise(points, 0.04, generator))
    height += cover * 0.002 * smooth_noise(points, generator.uniform(0.006, 0.015), generator)
    if generator.random() < 0.35:  # cut the length: nothing hangs below a slanted plane
        level = generator.uniform(-0.16, 0.02) + 0.3 * generator.normal() * 0.1 * points[:, 2]
        keep = np.clip((points[:, 1] - level) / 0.015, 0, 1)
        height, cover = height * keep, cover * keep
    return np.maximum(height, 0).astype(np.float32), shade, cover.astype(np.float32)


def random_cap(points: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A brimless hat: height, shade and cover [N] above a tilted plane."""
    level = generator.uniform(0.03, 0.075) + generator.uniform(-0.5, 0.1) * points[:, 2]
    cover = np.clip((points[:, 1] - level) / 0.004, 0, 1).astype(np.float32)
    bulge = 0.006 + generator.uniform(0, 0.03) * np.clip((points[:, 1] - level) / 0.08, 0, 1)
    return (bulge * cover).astype(np.float32), 1 + 0.1 * smooth_noise(points, 0.01, generator), cover


def texel_points(head: HeadModel, resolution: int) -> np.ndarray:
    """Texels [N, 3] of the mean head, metres."""
    with torch.no_grad():
        return surface(head.texels(resolution), head.template).numpy()
