"""Synthetic people with exact alpha: photographic faces on the ICT head, strand-card hair, flyaway strands, clothes."""

import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from flexavatar_cli.core.camera import Camera, look_at
from flexavatar_cli.render.mesh import rasterize_mesh
from flexavatar_cli.training.matting.attire import clothes, flyaways, hat
from flexavatar_cli.training.matting.cards import blend_cards
from flexavatar_cli.training.matting.cutouts import write_rgba

SIDE, OVERSAMPLING = 512, 2
HELD_OUT_HAIR = ("elvs_ashley_may_hair", "elvs_that_80s_babe_hair", "short04", "elvs_keylth_hair")
GLASSES = ("punkduck_glasses_modern_form", "punkduck_sport_sunglasses")
NOT_HAIR = (*GLASSES, "beard1")
HAT_SHARE = 0.1
UNTEXTURED = ("afro01", "bob01")
PUPIL, IRIS = 0.22, 0.6  # radii, centimetres
WHITE, TEETH, GUMS, LASHES = (0.87, 0.85, 0.84), (0.85, 0.81, 0.74), (0.45, 0.18, 0.18), (0.06, 0.05, 0.04)


@dataclass(frozen=True)
class Wardrobe:
    """What heads are made of: the ICT head, hair by name, faces by name."""

    head: dict[str, np.ndarray]
    hair: dict[str, dict[str, np.ndarray]]  # vertices, faces, uv, bind_idx, bind_w, texture
    faces: dict[str, dict[str, np.ndarray]]  # texture, identity, skin, hair, border


def read_rgba(archive: tarfile.TarFile, name: str, mode: str) -> np.ndarray:
    """A picture of an archive in `mode`, float32 in 0..1."""
    stream = archive.extractfile(name)
    assert stream is not None
    return np.asarray(Image.open(io.BytesIO(stream.read())).convert(mode), np.float32) / 255


def open_wardrobe(data: Path) -> Wardrobe:
    """Everything of the data packs that a synthetic head needs."""
    packed = np.load(data / "ict_head.npz")
    head = {name: packed[name] for name in packed.files}
    cards = np.load(data / "ict_hair.npz")
    hair: dict[str, dict[str, np.ndarray]] = {}
    with tarfile.open(data / "mh_assets.tar") as archive:
        stream = archive.extractfile("mh_assets/manifest.json")
        assert stream is not None
        manifest = json.load(stream)
        for name in map(str, cards["names"]):
            if name not in UNTEXTURED:
                hair[name] = {
                    part: cards[f"{name}.{part}"] for part in ("V", "faces", "faces_uv", "uv", "bind_idx", "bind_w")
                }
                hair[name]["texture"] = read_rgba(archive, f"mh_assets/tex/{manifest[name]['texture']}", "RGBA")
    faces: dict[str, dict[str, np.ndarray]] = {}
    with tarfile.open(data / "ict_textures.tar") as archive:
        for folder in ("london", "us"):
            stream = archive.extractfile(f"ict_textures/{folder}/fits.npz")
            assert stream is not None
            fits = np.load(io.BytesIO(stream.read()))
            for row, name in enumerate(map(str, fits["id"])):
                faces[name] = {
                    "texture": read_rgba(archive, f"ict_textures/{folder}/{name}_face.jpg", "RGB"),
                    "identity": fits["id_coeff"][row],
                    "hair": fits["hair_rgb"][row],
                    "border": fits["border_rgb"][row],
                }
    return Wardrobe(head, hair, faces)


def normals(points: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Unit normals [V, 3] of a mesh, by area."""
    corner = points[faces]
    across = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    total = np.stack([np.bincount(faces.ravel(), np.repeat(across[:, k], 3), len(points)) for k in range(3)], -1)
    return total / np.maximum(np.linalg.norm(total, axis=-1, keepdims=True), 1e-9)


def unit_colour(value: np.ndarray) -> np.ndarray:
    """A colour of the fits in 0..1 (they are stored in 0..255 or 0..1)."""
    return np.asarray(value, np.float32) / (255 if np.max(value) > 1.5 else 1)


def random_hair_colour(own: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The person's own hair colour or one of black, brown, red, blond, grey or dye."""
    if own.min() >= 0 and generator.random() < 0.35:
        return unit_colour(own)
    palette = [(0.03, 0.025, 0.02), (0.08, 0.055, 0.04), (0.2, 0.13, 0.08), (0.36, 0.2, 0.1), (0.62, 0.48, 0.3)]
    palette += [
        (0.82, 0.7, 0.5),
        (0.55, 0.54, 0.53),
        (0.85, 0.84, 0.82),
        (0.45, 0.14, 0.07),
        tuple(generator.random(3)),
    ]
    colour = np.array(palette[generator.choice(10, p=[0.2, 0.17, 0.15, 0.1, 0.1, 0.1, 0.06, 0.05, 0.05, 0.02])])
    return np.clip(colour * generator.uniform(0.7, 1.3, 3) ** 0.5, 0.01, 1)


def synthetic_person(
    wardrobe: Wardrobe, hair_names: tuple[str, ...], face_names: tuple[str, ...], generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Straight colours [SIDE, SIDE, 3] and exact alpha [SIDE, SIDE] of one random person."""
    head, side = wardrobe.head, SIDE * OVERSAMPLING
    face = wardrobe.faces[face_names[generator.integers(len(face_names))]]
    identity = np.clip(face["identity"] + generator.normal(0, 0.35, len(face["identity"])), -2.5, 2.5)
    offset = np.tensordot(identity.astype(np.float32), head["id_basis"].astype(np.float32), 1)
    weights = generator.uniform(0, 0.5, len(head["expr_basis"])) * (generator.random(len(head["expr_basis"])) < 0.08)
    points = head["mean"] + offset
    shown = points + np.tensordot(weights.astype(np.float32), head["expr_basis"].astype(np.float32), 1)
    camera = photographer(generator, side)
    pixels, depth = (value[0] for value in camera.project(shown))
    towards = generator.normal(0, 1, 3) * (1, 0.6, 0.3) + camera.cam2world[0][:3, 3] / 60
    towards /= np.linalg.norm(towards)
    ambient, strength = generator.uniform(0.45, 0.9), generator.uniform(0.15, 0.6)
    light = (ambient + strength * np.maximum(normals(shown, head["faces"]) @ towards, 0)).astype(np.float32)
    triangle, bary, solid = rasterize_mesh(pixels, depth, head["faces"], side, side)
    colour, alpha = clothes(pixels[points[:, 1] < -13], side, generator)
    hit = triangle >= 0
    skin = skin_colours(wardrobe, face, shown, triangle[hit], bary[hit])
    colour[hit] = np.clip(skin * (light[head["faces"][triangle[hit]]] * bary[hit]).sum(-1, keepdims=True), 0, 1)
    alpha[hit] = 1
    tint = random_hair_colour(face["hair"], generator)
    worn = [hair_names[generator.integers(len(hair_names))]] if generator.random() < 0.93 else []
    worn += ["beard1"] * (generator.random() < 0.12) + [GLASSES[generator.integers(2)]] * (generator.random() < 0.15)
    before = alpha.copy()
    for name in worn:
        wear(wardrobe.hair[name], offset, None if name in GLASSES else tint, camera, towards, (colour, alpha), solid)
    if generator.random() < HAT_SHARE:
        before = alpha.copy()
        hat(pixels[(points[:, 1] > 0)], colour, alpha, generator)
        flyaways(colour, alpha, before, colour[alpha > 0].mean(0), generator)
    elif worn:
        flyaways(colour, alpha, before, tint * 1.3, generator)
    size = (SIDE, SIDE)
    small, cover = (cv2.resize(part, size, interpolation=cv2.INTER_AREA) for part in (colour, alpha))
    return np.clip(small / np.maximum(cover, 1e-4)[..., None], 0, 1), cover


def photographer(generator: np.random.Generator, side: int) -> Camera:
    """A camera in front of the head, mostly: centimetres, `side` pixels."""
    yaw, pitch = np.deg2rad(generator.normal(0, 28)), np.deg2rad(generator.normal(3, 9))
    distance = generator.uniform(55, 140)
    eye = distance * np.array([np.sin(yaw) * np.cos(pitch), np.sin(pitch), np.cos(yaw) * np.cos(pitch)])
    target = np.array([generator.normal(0, 2), generator.uniform(-5, 1), 0])
    cam2world = look_at(eye + target, target)
    roll = np.deg2rad(generator.normal(0, 5))
    turn = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    cam2world[:3, :3] = cam2world[:3, :3] @ turn
    focal = side / generator.uniform(34, 50) * distance
    return Camera(cam2world, np.array([[focal, 0, side / 2], [0, focal, side / 2], [0, 0, 1]]), side, side)


def skin_colours(
    wardrobe: Wardrobe, face: dict[str, np.ndarray], points: np.ndarray, triangle: np.ndarray, bary: np.ndarray
) -> np.ndarray:
    """The unlit colour [P, 3] of pixels that see `triangle` [P] at `bary` [P, 3]."""
    head = wardrobe.head
    materials = [str(name) for name in head["material_names"]]
    material = head["face_material"][triangle]
    colour = np.broadcast_to(unit_colour(face["border"]), (len(triangle), 3)).copy()
    uv = (head["uv"][head["faces_uv"][triangle]] * bary[..., None]).sum(1)
    texture = face["texture"]
    rows, columns = texture.shape[:2]
    skin = material == materials.index("M_Face")
    row = ((1 - uv[skin, 1]) * rows).astype(int).clip(0, rows - 1)
    colour[skin] = texture[row, (uv[skin, 0] * columns).astype(int).clip(0, columns - 1)]
    for name, value in (("M_Teeth", TEETH), ("M_GumsTongue", GUMS), ("M_EyeLashes", LASHES)):
        colour[material == materials.index(name)] = value
    spot = (points[head["faces"][triangle]] * bary[..., None]).sum(1)
    parts = [str(name) for name in head["part_names"]]
    for eye, part in (("Left", "eyeball_l"), ("Right", "eyeball_r")):
        centre = points[head["vertex_part"] == parts.index(part)].mean(0)
        ball = np.isin(material, [materials.index(f"M_Sclera{eye}"), materials.index(f"M_Iris{eye}")])
        radius = np.linalg.norm((spot[ball] - centre)[:, :2], axis=-1) + 2 * (spot[ball, 2] < centre[2])
        shades = np.where(
            (radius < PUPIL)[:, None], 0.02, np.where((radius < IRIS)[:, None], (0.25, 0.18, 0.12), WHITE)
        )
        colour[ball] = shades
    return colour.astype(np.float32)


def wear(
    item: dict[str, np.ndarray],
    offset: np.ndarray,  # [V, 3] of the head's identity
    tint: np.ndarray | None,
    camera: Camera,
    towards: np.ndarray,  # [3] the light
    picture: tuple[np.ndarray, np.ndarray],  # colour, alpha, changed in place
    solid: np.ndarray,  # [H, W] depth of the head
) -> None:
    """Put hair or glasses, moved with the identity, into the picture."""
    points = item["V"] + (item["bind_w"][..., None] * offset[item["bind_idx"]]).sum(1)
    pixels, depth = (value[0] for value in camera.project(points))
    texture = item["texture"]
    if tint is not None:
        grey = texture[..., :3].mean(-1)
        bright = grey / max(float(np.percentile(grey[texture[..., 3] > 0.5], 80)), 0.05)
        texture = np.dstack([np.clip(bright, 0, 1.7)[..., None] * tint, texture[..., 3]])
    light = 0.65 + 0.45 * np.abs(normals(points, item["faces"]) @ towards)
    blend_cards(pixels, depth, item["faces"], item["uv"][item["faces_uv"]], light, texture, solid + 0.05, *picture)


def prepare_heads(
    data: Path, output: Path, count: int, held_out: bool, names: Callable[[str], bool], seed: int
) -> None:
    """Write `count` people as RGBA PNGs below `output`; hair and faces of the hold-out or of the rest."""
    wardrobe = open_wardrobe(data)
    styles = [name for name in wardrobe.hair if name not in NOT_HAIR]
    styles = [name for name in styles if (name in HELD_OUT_HAIR) == held_out]
    faces = [name for name in wardrobe.faces if names(name) == held_out]
    output.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        target = output / f"{number:05d}.png"
        if target.is_file():
            continue  # of a run that was cut
        generator = np.random.default_rng([seed, number, int(held_out)])
        colour, alpha = synthetic_person(wardrobe, tuple(styles), tuple(faces), generator)
        write_rgba(target, colour, alpha)
