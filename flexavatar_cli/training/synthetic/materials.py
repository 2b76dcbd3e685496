"""What synthetic heads are painted with: photographic skins in our atlas, eyes, teeth and mouth drawn by rule."""

import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from flexavatar_cli.core.sampling import sample_bilinear
from flexavatar_cli.heads import HeadModel
from flexavatar_cli.heads.surface import frames, surface
from flexavatar_cli.heads.texels import SKIN

IRIS_RADIUS, PUPIL_RADIUS, LIMBUS = 0.0060, 0.0022, 0.0007  # metres from the optic axis
MOUTH_DARKNESS = (
    1.7  # log units of light lost in five centimetres behind the incisors, beyond the first five millimetres
)


@dataclass(frozen=True)
class Materials:
    """P skins on N texels of one head model."""

    names: tuple[str, ...]
    skin: np.ndarray  # [P, N, 3] uint8, other parts drawn in
    confidence: np.ndarray  # [P, N] uint8: how much of a texel is photograph, 255 for drawn parts
    hair_color: np.ndarray  # [P, 3] float32 in 0..1, the person's own where it was found
    mean_color: np.ndarray  # [N, 3] float32, mean head incl. eyes and mouth
    held_out: np.ndarray  # [P] bool: people whose portraits training never sees


def load_materials(data: Path, head: HeadModel, resolution: int, held_out: frozenset[str] = frozenset()) -> Materials:
    """All skins of `ict_textures.tar`, resampled into our atlas; those named in `held_out` are marked."""
    from flexavatar_cli.training.head_model.build import ict_texel_source

    grid = head.texels(resolution)
    source = ict_texel_source(data, head, resolution)
    tile, uv = np.asarray(source["tile"]), np.asarray(source["uv"])
    skin_texel = np.array([name in SKIN for name in head.part_names])[grid.part.numpy()]
    photographed = (tile == 0) & skin_texel
    drawn = draw_parts(head, resolution)
    names, skins, confidences, hairs = [], [], [], []
    with tarfile.open(data / "ict_textures.tar") as archive:
        members = set(archive.getnames())
        for folder in ("london", "us"):
            fits = np.load(io.BytesIO(_read(archive, f"ict_textures/{folder}/fits.npz")))
            for row, identifier in enumerate(str(name) for name in fits["id"]):
                stem = f"ict_textures/{folder}/{identifier}"
                if f"{stem}_face.jpg" not in members:
                    continue
                face = np.asarray(Image.open(io.BytesIO(_read(archive, f"{stem}_face.jpg"))).convert("RGB"))
                known = np.asarray(Image.open(io.BytesIO(_read(archive, f"{stem}_conf.png"))).convert("L"))
                border = np.asarray(fits["border_rgb"][row], np.float32)
                border = border / 255 if border.max() > 1.5 else border
                color, confidence = _paint(face, known, border, uv, photographed, drawn)
                names.append(identifier)
                skins.append(color)
                confidences.append(confidence)
                hairs.append(np.asarray(fits["hair_rgb"][row], np.float32))
    hair = np.stack(hairs)
    hair = np.where(hair > 1.5, hair / 255, hair)
    skin, confidence_all = np.stack(skins), np.stack(confidences)
    weight = confidence_all.astype(np.float32)[..., None] + 8
    mean = (skin * weight).sum(0) / weight.sum(0) / 255
    marked = np.isin(names, sorted(held_out))
    return Materials(tuple(names), skin, confidence_all, hair, mean.astype(np.float32), marked)


def _read(archive: tarfile.TarFile, member: str) -> bytes:
    stream = archive.extractfile(member)
    if stream is None:
        raise FileNotFoundError(member)
    return stream.read()


def _paint(
    face: np.ndarray,
    known: np.ndarray,
    border: np.ndarray,
    uv: np.ndarray,
    photographed: np.ndarray,
    drawn: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    height, width = face.shape[:2]
    sample = sample_bilinear(cv2.GaussianBlur(face, (0, 0), 0.8), uv * [width, height])
    trust = sample_bilinear(known, uv * [known.shape[1], known.shape[0]])
    sample = sample.astype(np.float32) / 255
    skin_tone = np.where(photographed[:, None], sample, border)
    is_drawn = np.isfinite(drawn[:, 0])
    # drawn parts take the light level of the photograph
    level = np.clip(border.mean() / 0.55, 0.55, 1.1)
    color = np.where(is_drawn[:, None], np.nan_to_num(drawn) * level, skin_tone)
    confidence = np.where(photographed, trust, np.where(is_drawn, 255, 40))
    return (color.clip(0, 1) * 255).round().astype(np.uint8), confidence.astype(np.uint8)


def draw_parts(head: HeadModel, resolution: int) -> np.ndarray:
    """Colours [N, 3] of eyeballs, teeth, gums, tongue and sockets; NaN on the skin."""
    grid = head.texels(resolution)
    with torch.no_grad():
        points = surface(grid, head.template).numpy()
        normals = frames(head, grid, head.template).normal.numpy()
    part = np.array(head.part_names)[grid.part.numpy()]
    color = np.full((len(points), 3), np.nan, np.float32)
    front = points[part == "teeth", 2].max()
    depth = np.clip((front - points[:, 2]) / 0.05, 0, 1)[:, None]  # 0 at the incisors, 1 five centimetres behind
    shade = np.exp(-1.3 * depth**1.5) * (0.8 + 0.2 * np.clip(normals[:, 2:], 0, 1))
    # light hardly comes behind the teeth, which stand in it themselves
    behind = np.exp(-MOUTH_DARKNESS * np.clip(depth - 0.1, 0, 1))
    for name, base, reached in (
        ("teeth", (0.86, 0.82, 0.74), behind**0.5),
        ("gums", (0.62, 0.33, 0.32), behind),
        ("tongue", (0.66, 0.36, 0.35), behind),
        ("mouth_socket", (0.36, 0.15, 0.14), behind),
    ):
        color[part == name] = (np.asarray(base) * np.clip(shade, 0.12, 1) * reached)[part == name]
    color[part == "eye_sockets"] = (0.45, 0.28, 0.25)
    for eye, name in enumerate(("eyeball_left", "eyeball_right")):
        rows = part == name
        centre = head.joints[("eye_left", "eye_right")[eye]].numpy()
        arm = points[rows] - centre
        radius = np.where(arm[:, 2] > 0, np.hypot(arm[:, 0], arm[:, 1]), 1.0)
        color[rows] = draw_eye(radius, np.array([0.30, 0.20, 0.13]))
    return color


def draw_eye(radius: np.ndarray, iris: np.ndarray) -> np.ndarray:
    """Eye colours [n, 3] at `radius` metres from the optic axis."""
    sclera = np.array([0.86, 0.82, 0.80]) * (1 - 0.25 * np.clip((radius - 0.008) / 0.006, 0, 1))[:, None]
    in_iris = np.clip((IRIS_RADIUS - radius) / 0.0004, 0, 1)[:, None]
    ring = np.exp(-(((radius - IRIS_RADIUS + LIMBUS) / LIMBUS) ** 2))[:, None]
    in_pupil = np.clip((PUPIL_RADIUS - radius) / 0.0003, 0, 1)[:, None]
    colored = iris * (1 - 0.45 * ring)
    result = sclera * (1 - in_iris) + colored * in_iris
    return (result * (1 - in_pupil) + 0.03 * in_pupil).astype(np.float32)
