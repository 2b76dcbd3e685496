"""A multi-view test set of synthetic heads: pictures with true alpha and cameras, of people training never saw."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from flexavatar_cli.core.camera import Camera, look_at
from flexavatar_cli.core.files import replacing
from flexavatar_cli.heads import HeadModel, load_head
from flexavatar_cli.media.images import write_png
from flexavatar_cli.stages.trajectories import save_cameras
from flexavatar_cli.training.synthetic.hair import HairStyles, bake_styles, random_hair, smooth_noise, texel_points
from flexavatar_cli.training.synthetic.materials import load_materials
from flexavatar_cli.training.synthetic.pack import HELD_OUT_STYLES, RESOLUTION, SUBDIVISIONS, Pack
from flexavatar_cli.training.synthetic.painter import Painter
from flexavatar_cli.training.synthetic.views import RenderMesh, draw, lifted_points, random_expression, render_mesh

SIDE = 512  # pixels of a picture
DISTANCE, VISIBLE = 1.0, 0.48  # metres: camera to the head's centre, and what it sees there
DIRECTIONS = (  # azimuth, elevation in degrees; the first is what the avatar is made of
    (0, 0), (-30, 0), (30, 0), (0, 20), (-60, 0), (60, 0), (-90, 0), (90, 0), (-120, 10), (120, 0), (-150, 0), (150, 0),
    (180, 0), (180, 20),
)  # fmt: skip
STREAM = 0x5EED  # keeps these heads apart from those of any training run with the same seed


def write_heads(
    data: Path,  # the folder of material
    folder: Path,
    count: int,
    seed: int,
    on_step: Callable[[int, int], None] | None = None,
) -> Path:
    """`count` folders of pictures with `cameras.json`, by seed: held-out hair and skins, identities drawn anew."""
    head = load_head()
    styles = bake_styles(data, head, RESOLUTION, HELD_OUT_STYLES)
    materials = load_materials(data, head, RESOLUTION)
    pack = Pack("", "", materials, {}, {}, {})
    mesh, points = render_mesh(head, RESOLUTION, SUBDIVISIONS), texel_points(head, RESOLUTION)
    painter = Painter(head, pack)
    with replacing(folder) as target:
        for number in range(count):
            generator = np.random.default_rng((STREAM, seed, number))
            place = target / f"head-{number:03d}"
            place.mkdir(parents=True)
            write_head(place, head, mesh, styles, points, painter, pack.held_skins, generator)
            if on_step is not None:
                on_step(number + 1, count)
    return folder


def write_head(
    place: Path,
    head: HeadModel,
    mesh: RenderMesh,
    styles: HairStyles,
    points: np.ndarray,  # [N, 3]
    painter: Painter,
    skins: np.ndarray,
    generator: np.random.Generator,
) -> None:
    """One person from all DIRECTIONS."""
    identity = np.clip(generator.normal(0, 0.9, len(head.identity_basis)), -2.5, 2.5).astype(np.float32)
    expression = random_expression(generator)
    height, shade, cover = random_hair(styles, np.arange(1, len(styles.names)), points, generator)
    chest = np.clip((-0.12 - points[:, 1]) / 0.05, 0, 1)
    cloth = generator.uniform(0, 0.02) * (1 + 0.3 * smooth_noise(points, 0.05, generator))
    height = height + chest * (1 - cover) * cloth
    look: dict[str, np.ndarray] = {"cover": (cover * 255).astype(np.uint8)}
    look |= {"shade": np.clip(shade * 128, 0, 255).astype(np.uint8), "hat": np.zeros((), bool)}
    color, _, light = painter.paint(look, skins, generator)
    color = np.clip(color * light * painter.mouth_light(expression), 0, 1).astype(np.float32)
    vertices = lifted_points(head, mesh, identity, expression, height)
    camera = cameras(generator.uniform(-15, 15))
    for number, (azimuth, _) in enumerate(DIRECTIONS):
        picture = draw(mesh, vertices, color, camera[number])
        write_png(place / f"{number:02d}_azimuth{azimuth:+04d}.png", picture)
    save_cameras(camera, place / "cameras.json", source=0)


def cameras(first: float) -> Camera:
    """The cameras of DIRECTIONS, the first one turned to azimuth `first` (degrees)."""
    matrices = []
    for number, (azimuth, elevation) in enumerate(DIRECTIONS):
        a, e = np.radians(first if number == 0 else azimuth), np.radians(elevation)
        eye = DISTANCE * np.array([np.sin(a) * np.cos(e), np.sin(e), np.cos(a) * np.cos(e)])
        matrices.append(look_at(eye, np.zeros(3)))
    focal = SIDE * DISTANCE / VISIBLE
    intrinsics = np.array([[focal, 0, SIDE / 2], [0, focal, SIDE / 2], [0, 0, 1.0]])
    return Camera(np.stack(matrices), intrinsics, SIDE, SIDE)
