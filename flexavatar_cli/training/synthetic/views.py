"""Pictures of synthetic heads as texel indices: which texel each pixel sees, and what tracking would make of it.

Colour is left open, so one view serves any skin, hair colour, light and clothes by a gather at training time. The
tracked side goes through the product's own `texel_visibility` on a deliberately wrong head, so hull, occlusion and
misalignment are those of real photos.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import trimesh

from flexavatar_cli.core.camera import Camera, look_at
from flexavatar_cli.core.expression import ARKIT_NAMES, EXPRESSION_NAMES, INDEX
from flexavatar_cli.core.sampling import sample_bilinear
from flexavatar_cli.heads import HeadModel
from flexavatar_cli.heads.surface import vertex_normals
from flexavatar_cli.heads.texels import SKIN
from flexavatar_cli.render.mesh import rasterize_mesh
from flexavatar_cli.stages.observation import texel_visibility
from flexavatar_cli.training.synthetic.hair import HairStyles, random_cap, random_hair, smooth_noise

IMAGE_SIZE = 256
BACKGROUND = 65535  # texel index of a pixel that sees no head
CROP_METRES = 0.40
CAP_SHARE, BALD_SHARE = 0.08, 0.07
FRONTAL_DEGREES, PITCH_DEGREES = 22.0, 8.0  # standard deviations of the photographer's position
LOST_IDENTITY, IDENTITY_NOISE = 0.8, 0.4  # what tracking keeps of an identity and adds to it (recipe, HAIR_AND_BACK)
POSE_NOISE_DEGREES = (2.5, 1.5, 1.0)  # pitch, yaw, roll
EXPRESSION_NOISE, GAZE_NOISE = 0.12, 0.05  # standard deviations: of weights that are active, and radians
FINER = 2  # samples per pixel and axis of a drawn picture


@dataclass(frozen=True)
class SyntheticView:
    """One picture of one head; N texels, S = IMAGE_SIZE."""

    image_texel: np.ndarray  # [S, S] uint16 texel each pixel sees, BACKGROUND for none
    seen_texel: np.ndarray  # [N] uint16 texel of the picture that lands on each tracked texel
    seen: np.ndarray  # [N] uint8, 255 = fully seen
    facing: np.ndarray  # [N] uint8
    hull: np.ndarray  # [N] float16 metres
    height: np.ndarray  # [N] float16 metres, the true displacement
    shade: np.ndarray  # [N] uint8, 128 = 1.0, brightness of strands
    cover: np.ndarray  # [N] uint8, hair or hat
    hat: bool
    identity: np.ndarray  # [K] float32 the true one
    expression: np.ndarray  # [59] float32 as tracked
    cam2world: np.ndarray  # [4, 4] float32 as tracked
    focal: float  # pixels of IMAGE_SIZE
    centre: np.ndarray  # [2] float32 principal point


@dataclass(frozen=True)
class RenderMesh:
    """The head's mesh with its skin subdivided, so that hair displacement has vertices to move."""

    corner: np.ndarray  # [V', 3] head vertices
    weight: np.ndarray  # [V', 3]
    faces: np.ndarray  # [F', 3]
    uv: np.ndarray  # [F', 3, 2]
    texel: np.ndarray  # [V'] nearest texel of each vertex
    lookup: np.ndarray  # [R * R] nearest texel of each atlas cell


def render_mesh(head: HeadModel, resolution: int, levels: int) -> RenderMesh:
    """Subdivide every skin triangle `levels` times; vertices keep their place on the head as barycentrics."""
    faces, faces_uv = head.faces.numpy(), head.faces_uv.numpy()
    skin = np.array([name in SKIN for name in head.part_names])[head.face_part.numpy()]
    count = len(head.template)
    # vertices as sparse one-hot rows would be large: carry positions on the head as (face, bary) through subdivision
    corner_of = np.repeat(np.arange(count)[:, None], 3, 1)
    weight_of = np.tile([1.0, 0, 0], (count, 1))
    uv = head.uv.numpy()[faces_uv]
    fine_faces, fine_uv, corners, weights = [], [], [corner_of], [weight_of]
    bary = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    pattern = trimesh.Trimesh(bary, [[0, 1, 2]], process=False)
    for _ in range(levels):
        pattern = pattern.subdivide()
    steps = pattern.vertices @ np.eye(3)
    skin_faces = np.nonzero(skin)[0]
    start = count
    shared: dict[tuple[int, ...], int] = {}
    for face in skin_faces:
        triangle = faces[face]
        ids = np.empty(len(steps), np.int64)
        fresh_corner, fresh_weight = [], []
        for k, step in enumerate(steps):
            scaled = np.round(step * 2**levels).astype(int)
            key = tuple(sorted((int(v), int(s)) for v, s in zip(triangle, scaled, strict=True) if s))
            flat = tuple(x for pair in key for x in pair)
            if len(key) == 1:
                ids[k] = key[0][0]
            elif flat in shared:
                ids[k] = shared[flat]
            else:
                ids[k] = shared[flat] = start
                start += 1
                fresh_corner.append(triangle)
                fresh_weight.append(step)
        if fresh_corner:
            corners.append(np.array(fresh_corner))
            weights.append(np.array(fresh_weight))
        fine_faces.append(ids[pattern.faces])
        fine_uv.append(np.einsum("kc,cd->kd", steps, uv[face])[pattern.faces])
    others = ~skin
    all_faces = np.concatenate([*fine_faces, faces[others]])
    all_uv = np.concatenate([*fine_uv, uv[others]])
    grid = head.texels(resolution)
    lookup = _nearest_lookup(grid.index.numpy(), resolution)
    cell = np.clip((all_uv * resolution).astype(int), 0, resolution - 1)
    texel = np.zeros(start, np.int64)
    texel[all_faces.ravel()] = lookup[(cell[..., 1] * resolution + cell[..., 0]).ravel()]
    return RenderMesh(np.concatenate(corners), np.concatenate(weights), all_faces, all_uv, texel, lookup)


def _nearest_lookup(index: np.ndarray, resolution: int) -> np.ndarray:
    from scipy.ndimage import distance_transform_edt

    table = np.full(resolution * resolution, -1)
    table[index] = np.arange(len(index))
    empty = (table < 0).reshape(resolution, resolution)
    nearest = distance_transform_edt(empty, return_distances=False, return_indices=True)
    return table.reshape(resolution, resolution)[nearest[0], nearest[1]].ravel()


def random_expression(generator: np.random.Generator) -> np.ndarray:
    """An expression code [59]: resting, smiling, talking, blinking, asymmetric or extreme, with gaze."""
    code = np.zeros(len(EXPRESSION_NAMES), np.float32)
    kind = generator.choice(["rest", "smile", "talk", "extreme"], p=[0.3, 0.35, 0.2, 0.15])

    def pair(name: str, value: float, skew: float = 0.15) -> None:
        for side in ("Left", "Right"):
            code[INDEX[name + side]] = np.clip(value + skew * generator.normal(), 0, 1)

    if kind == "smile":
        pair("mouthSmile", generator.uniform(0.3, 1.0))
        pair("cheekSquint", generator.uniform(0, 0.6))
        pair("mouthUpperUp", generator.uniform(0, 0.5))
        code[INDEX["jawOpen"]] = generator.uniform(0, 0.3)
    elif kind == "talk":
        code[INDEX["jawOpen"]] = generator.uniform(0, 0.6)
        code[INDEX["mouthFunnel"]] = generator.uniform(0, 0.6) * (generator.random() < 0.4)
        code[INDEX["mouthPucker"]] = generator.uniform(0, 0.6) * (generator.random() < 0.3)
        pair("mouthStretch", generator.uniform(0, 0.4))
    elif kind == "extreme":
        for name in generator.choice(ARKIT_NAMES, 6, replace=False):
            code[INDEX[name]] = generator.uniform(0, 1)
    if generator.random() < 0.12:
        pair("eyeBlink", generator.uniform(0.3, 1.0), 0.05)
    pair("browDown", 0.5 * generator.random() * (generator.random() < 0.3))
    code[INDEX["browInnerUp"]] = 0.7 * generator.random() * (generator.random() < 0.3)
    gaze = np.deg2rad(generator.normal(0, [9, 5]))
    for name, value in zip(("Yaw", "Pitch", "Yaw", "Pitch"), (*gaze, *gaze), strict=True):
        side = "gazeLeft" if code[INDEX[f"gazeLeft{name}"]] == 0 else "gazeRight"
        code[INDEX[side + name]] = value
    return code


def as_tracked(expression: np.ndarray, generator: np.random.Generator) -> np.ndarray:  # [59] -> [59]
    """The expression with a tracker's errors."""
    tracked = expression.copy()
    active = expression[:52] > 0
    tracked[:52] = np.clip(expression[:52] + active * generator.normal(0, EXPRESSION_NOISE, 52), 0, 1)
    tracked[52:56] += generator.normal(0, GAZE_NOISE, 4)
    return tracked


def synthetic_view(
    head: HeadModel,
    mesh: RenderMesh,
    styles: HairStyles,
    choices: np.ndarray,  # style numbers to draw from
    points: np.ndarray,  # [N, 3] texels of the mean head
    resolution: int,
    generator: np.random.Generator,
    yaw: float | None = None,  # degrees; drawn when None
) -> SyntheticView:
    """One random head seen by one random camera, and as tracking sees it."""
    count = len(head.identity_basis)
    identity = np.clip(generator.normal(0, 0.9, count), -2.5, 2.5).astype(np.float32)
    expression = random_expression(generator)
    dice = generator.random()
    hat = dice < CAP_SHARE
    if hat:
        height, shade, cover = random_cap(points, generator)
        under, under_shade, _ = random_hair(styles, choices, points, generator)
        low = cover < 0.5
        height, shade = np.where(low, np.minimum(under, 0.05), height), np.where(low, under_shade, shade)
    elif dice < CAP_SHARE + BALD_SHARE:
        height, shade, cover = (values[0].copy() for values in (styles.height, styles.shade, styles.cover))
    else:
        height, shade, cover = random_hair(styles, choices, points, generator)
    chest = np.clip((-0.12 - points[:, 1]) / 0.05, 0, 1)  # clothes
    height = height + chest * (1 - cover) * generator.uniform(0, 0.02) * (
        1 + 0.3 * smooth_noise(points, 0.05, generator)
    )
    camera = _photographer(generator, yaw)
    image_texel = _picture(head, mesh, identity, expression, height, camera, resolution)
    matte = (image_texel != BACKGROUND).astype(np.float32)
    wrong = LOST_IDENTITY * identity + IDENTITY_NOISE * generator.normal(0, 1, count).astype(np.float32)
    tracked_expression = as_tracked(expression, generator)
    tracked = _misplaced(camera, generator)
    inside = np.ones_like(matte)
    if generator.random() < 0.25:  # a photo that ends at the chin or cuts the crown
        cut = int(generator.uniform(0.7, 0.95) * IMAGE_SIZE)
        inside[cut:] = 0
    shape = texel_visibility(matte * inside, inside, tracked, wrong, tracked_expression, head, resolution)
    pixels = np.clip(shape.pixels.astype(int), 0, IMAGE_SIZE - 1)
    image_texel = np.where(inside > 0, image_texel, BACKGROUND).astype(np.uint16)
    return SyntheticView(
        image_texel=image_texel,
        seen_texel=image_texel[pixels[:, 1], pixels[:, 0]],
        seen=(shape.seen * 255).astype(np.uint8),
        facing=(shape.facing * 255).astype(np.uint8),
        hull=shape.displacement.astype(np.float16),
        height=height.astype(np.float16),
        shade=np.clip(shade * 128, 0, 255).astype(np.uint8),
        cover=(cover * 255).astype(np.uint8),
        hat=bool(hat),
        identity=identity,
        expression=tracked_expression,
        cam2world=tracked.cam2world[0].astype(np.float32),
        focal=float(tracked.intrinsics[0, 0, 0]),
        centre=tracked.intrinsics[0, :2, 2].astype(np.float32),
    )


def _photographer(generator: np.random.Generator, yaw: float | None) -> Camera:
    angle = np.deg2rad(generator.normal(0, FRONTAL_DEGREES) if yaw is None else yaw)
    pitch = np.deg2rad(generator.normal(0, PITCH_DEGREES))
    distance = generator.uniform(0.7, 1.4)
    eye = distance * np.array([np.sin(angle) * np.cos(pitch), np.sin(pitch), np.cos(angle) * np.cos(pitch)])
    cam2world = look_at(eye, np.zeros(3))
    roll = np.deg2rad(generator.normal(0, 4))
    turn = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    cam2world[:3, :3] = cam2world[:3, :3] @ turn
    focal = IMAGE_SIZE / CROP_METRES * distance * generator.uniform(0.8, 1.03)
    centre = IMAGE_SIZE / 2 + generator.normal(0, 3, 2)
    intrinsics = np.array([[focal, 0, centre[0]], [0, focal, centre[1]], [0, 0, 1]])
    return Camera(cam2world, intrinsics, IMAGE_SIZE, IMAGE_SIZE)


def _misplaced(camera: Camera, generator: np.random.Generator) -> Camera:
    """The camera with tracking errors: the head turns a little about its centre and slides a millimetre."""
    a, b, c = np.deg2rad(generator.normal(0, POSE_NOISE_DEGREES))
    turn = np.array([[1, -c, b], [c, 1, -a], [-b, a, 1]])
    u, _, v = np.linalg.svd(turn)
    error = np.eye(4)
    pivot = np.array([0, 0.0, 0.06])  # landmarks hold the face in place
    error[:3, :3] = u @ v
    error[:3, 3] = pivot - error[:3, :3] @ pivot + generator.normal(0, 0.001, 3)
    return Camera(error @ camera.cam2world[0], camera.intrinsics, camera.width, camera.height)


def lifted_points(
    head: HeadModel,
    mesh: RenderMesh,
    identity: np.ndarray,  # [K]
    expression: np.ndarray,  # [59]
    height: np.ndarray,  # [N] metres
) -> np.ndarray:  # [V', 3]
    """The mesh posed, with its hair and clothes."""
    with torch.no_grad():
        vertices = head.vertices(torch.from_numpy(identity), torch.from_numpy(expression))
        normals = vertex_normals(head, vertices).numpy()
        vertices_np = vertices.numpy()
    points = (vertices_np[mesh.corner] * mesh.weight[..., None]).sum(1)
    normal = (normals[mesh.corner] * mesh.weight[..., None]).sum(1)
    return points + normal * height[mesh.texel][:, None]


def _picture(
    head: HeadModel,
    mesh: RenderMesh,
    identity: np.ndarray,
    expression: np.ndarray,
    height: np.ndarray,
    camera: Camera,
    resolution: int,
) -> np.ndarray:
    points = lifted_points(head, mesh, identity, expression, height)
    pixels, depth = camera.project(points)
    triangle, bary, _ = rasterize_mesh(pixels[0], depth[0], mesh.faces, camera.height, camera.width)
    hit = triangle >= 0
    uv = (mesh.uv[triangle[hit]] * bary[hit][..., None]).sum(1)
    cell = np.clip((uv * resolution).astype(int), 0, resolution - 1)
    result = np.full(triangle.shape, BACKGROUND, np.uint16)
    result[hit] = mesh.lookup[cell[:, 1] * resolution + cell[:, 0]]
    return result


def draw(
    mesh: RenderMesh,
    vertices: np.ndarray,  # [V', 3]
    color: np.ndarray,  # [N, 3]
    camera: Camera,  # one
) -> np.ndarray:  # [S, S, 4] straight colour and alpha; white where nothing is
    """The textured mesh, FINER x FINER samples a pixel."""
    side = camera.width * FINER
    pixels, depth = camera.project(vertices)
    triangle, bary, _ = rasterize_mesh(pixels[0] * FINER, depth[0], mesh.faces, side, side)
    hit = triangle >= 0
    uv = (mesh.uv[triangle[hit]] * bary[hit][..., None]).sum(1)
    resolution = math.isqrt(len(mesh.lookup))
    atlas = color[mesh.lookup].reshape(resolution, resolution, 3)  # charts are padded with their nearest texel
    fine = np.zeros((side, side, 4), np.float32)
    fine[hit, :3] = sample_bilinear(atlas, uv * resolution)
    fine[hit, 3] = 1
    small = cv2.resize(fine, (camera.width, camera.height), interpolation=cv2.INTER_AREA)
    cover = small[..., 3:]
    straight = np.where(cover > 0, small[..., :3] / np.maximum(cover, 1e-6), 1)
    return np.concatenate([straight, cover], -1)
