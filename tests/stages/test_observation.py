"""Visibility, hull and crop, against heads rendered with known shapes."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from flexavatar_cli.core.camera import Camera, Crop, look_at
from flexavatar_cli.core.expression import EXPRESSION_NAMES
from flexavatar_cli.core.track import Track
from flexavatar_cli.heads import load_head
from flexavatar_cli.heads.surface import surface, vertex_normals
from flexavatar_cli.render.mesh import rasterize_mesh
from flexavatar_cli.stages.hull import around_the_neck, at_texels, at_vertices, hull_displacement, membrane
from flexavatar_cli.stages.observation import RIM, clean_rim, crop_window, head_crop, texel_visibility

SIZE = 256
RESOLUTION = 128


@pytest.fixture(scope="module")
def head():
    return load_head()


def front(distance: float = 1.0, yaw: float = 0.0) -> Camera:
    focal = SIZE / 0.4 * distance
    eye = distance * np.array([np.sin(yaw), 0, np.cos(yaw)])
    intrinsics = np.array([[focal, 0, SIZE / 2], [0, focal, SIZE / 2], [0, 0, 1]])
    return Camera(look_at(eye, np.zeros(3)), intrinsics, SIZE, SIZE)


def silhouette(head, camera: Camera, lift: float = 0.0) -> np.ndarray:
    normals = vertex_normals(head, head.template).numpy()
    above = (head.template[:, 1:2].numpy() > 0.02) & (head.scalp_weight[:, None].numpy() > 0.5)
    mesh = head.template.numpy() + lift * normals * above
    pixels, depth = camera.project(mesh)
    return (rasterize_mesh(pixels[0], depth[0], head.faces.numpy(), SIZE, SIZE)[0] >= 0).astype(np.float32)


def view(head, matte: np.ndarray, camera: Camera):
    identity, expression = np.zeros(len(head.identity_basis)), np.zeros(59)
    return texel_visibility(matte, np.ones_like(matte), camera, identity, expression, head, RESOLUTION)


def test_the_front_sees_the_face_and_not_the_back(head):
    camera = front()
    shape = view(head, silhouette(head, camera), camera)
    grid = head.texels(RESOLUTION)
    points = surface(grid, head.template).numpy()
    nose = (np.abs(points[:, 0]) < 0.02) & (points[:, 2] > 0.1) & (grid.part.numpy() == head.part_names.index("face"))
    assert shape.seen[nose].mean() > 0.6
    assert shape.seen[points[:, 2] < -0.03].max() == 0
    assert (shape.seen >= 0).all()
    assert (shape.seen <= 1).all()


def test_texels_land_where_the_camera_projects_them(head):
    camera = front()
    shape = view(head, silhouette(head, camera), camera)
    bare = np.abs(shape.displacement) < 1e-6
    points = surface(head.texels(RESOLUTION), head.template).numpy()
    expected = camera.project(points)[0][0]
    np.testing.assert_allclose(shape.pixels[bare], expected[bare], atol=1e-3)


def test_an_exact_matte_needs_next_to_no_hull(head):
    camera = front()
    hull = hull_of(head, silhouette(head, camera), camera)
    assert np.abs(hull).mean() < 0.002


def test_hair_of_three_centimetres_is_found(head):
    camera = front()
    matte = silhouette(head, camera, 0.03)
    hull = hull_of(head, matte, camera)
    points = head.template.numpy()
    crown = (points[:, 1] > 0.10) & (np.abs(points[:, 2]) < 0.03)
    assert hull[crown].mean() == pytest.approx(0.03, abs=0.008)
    face = (points[:, 2] > 0.08) & (points[:, 1] < 0.06) & (points[:, 1] > -0.06)
    assert np.abs(hull[face]).max() < 1e-3


def hull_of(head, matte: np.ndarray, camera: Camera) -> np.ndarray:
    normals = vertex_normals(head, head.template).numpy().astype(np.float64)
    vertices = head.template.numpy().astype(np.float64)
    return hull_displacement(matte, np.ones_like(matte), camera, vertices, normals, head)


def test_the_hull_smooths_a_thin_plume(head):
    camera = front()
    matte = silhouette(head, camera)
    column, row = (int(value) for value in camera.project(np.array([[0.0, 0.14, 0.0]]))[0][0, 0])
    matte[row - 40 : row, column - 2 : column + 3] = 1
    hull = hull_of(head, matte, camera)
    neighbours = [np.ptp(hull[corners]) for corners in head.faces.numpy()[head.face_part.numpy() < 4]]
    plume = 40 * 0.4 / SIZE  # metres
    assert max(neighbours) < plume / 2


def test_vertex_values_survive_the_way_over_texels(head):
    grid = head.texels(256)
    values = head.template[:, 1].numpy().astype(np.float64)
    back = at_vertices(at_texels(values, grid), head, grid)
    skin = np.unique(head.faces.numpy()[head.face_part.numpy() < 4])
    assert np.abs(back - values)[skin].mean() < 0.001


def test_the_crop_keeps_its_scale_and_reaches_higher_hair():
    camera = front()
    flat = np.zeros((SIZE, SIZE), np.float32)
    flat[64:, 64:192] = 1
    tall = flat.copy()
    tall[:64, 100:150] = 1
    low, high = head_crop(camera, flat, 512), head_crop(camera, tall, 512)
    assert high.scale <= low.scale
    bottom = [crop.origin[1] + crop.height / crop.scale for crop in (low, high)]
    assert bottom[0] == pytest.approx(bottom[1], abs=1e-6)


def test_a_picture_that_ends_is_not_evidence(head):
    camera = front()
    matte = silhouette(head, camera)
    inside = np.ones_like(matte)
    inside[:, : SIZE // 2] = 0
    identity, expression = np.zeros(len(head.identity_basis)), np.zeros(59)
    shape = texel_visibility(matte * inside, inside, camera, identity, expression, head, RESOLUTION)
    assert shape.seen[shape.pixels[:, 0] < SIZE // 2 - 2].max() == 0
    assert torch.isfinite(torch.from_numpy(shape.displacement)).all()


def test_hair_lies_over_the_ears(head):
    camera = front()
    matte = cv2.dilate(silhouette(head, camera), np.ones((61, 61)))
    sheet = membrane(head)
    assert sheet.ears.max() > 0.01  # metres: they do stand out
    over = hull_of(head, matte, camera)
    head.cache["membrane"] = replace(sheet, ears=np.zeros_like(sheet.ears))
    round_them = hull_of(head, matte, camera)
    head.cache["membrane"] = sheet
    tips = sheet.ears > 0.012
    assert (round_them - over)[tips].mean() > 0.003


def test_nothing_but_ears_is_taken_off_for_the_ears(head):
    """What was taken off in a box about them, and not beside it, was a ledge round the back of every head of hair."""
    ears, scalp = membrane(head).ears, head.scalp_weight.numpy() > 0.5
    assert ears[scalp].max() < 1e-3
    assert (ears > 5e-3).sum() > 40


def test_hair_on_both_sides_of_the_neck_hangs_behind_it_too(head):
    x, y, z = head.template.numpy().T
    beside = (np.abs(x) > 0.04) & (y < 0) & (y > -0.12)
    nape = (z < -0.055) & (np.abs(x) < 0.02) & (y < -0.04) & (y > -0.09)
    filled = around_the_neck(np.where(beside, 0.03, 0.0), head)
    assert filled[nape].min() > 0.02
    assert np.abs(filled[(z > 0) & ~beside]).max() == 0
    left_alone = around_the_neck(np.where(beside & (x > 0), 0.03, 0.0), head)
    assert left_alone[nape].max() < 1e-3


def test_ground_in_the_rim_of_a_matte_takes_the_colour_inside():
    matte = np.zeros((64, 64), np.float32)
    matte[16:48, 16:48] = 1
    picture = np.zeros((64, 64, 3), np.float32)
    picture[17:47, 17:47] = (1, 0, 0)  # the matte is a pixel too wide: black ground lies in it
    picture[30:34, 30:34] = (0, 0, 1)
    clean = clean_rim(picture, matte, np.ones_like(matte))
    np.testing.assert_allclose(clean[matte > 0][:, 1], 0, atol=1e-6)
    assert clean[16, 32, 0] > 0.99
    np.testing.assert_array_equal(clean[30:34, 30:34], picture[30:34, 30:34])


def test_where_a_photo_ends_is_no_rim():
    matte = np.ones((64, 64), np.float32)
    picture = np.random.default_rng(0).uniform(0, 1, (64, 64, 3)).astype(np.float32)
    inside = np.zeros_like(matte)
    inside[:, :40] = 1
    clean = clean_rim(picture, matte * inside, inside)
    far = slice(int(3 * RIM), -int(3 * RIM))
    np.testing.assert_allclose(clean[far, 38], picture[far, 38], atol=1e-6)


def test_the_border_of_a_photo_is_not_mixed_with_white():
    track = Track(
        cam2world=np.eye(4)[None],
        intrinsics=np.array([[[100.0, 0, 50], [0, 100, 50], [0, 0, 1]]]),
        size=np.array([100, 100]),
        fps=25.0,
        expression_code=np.zeros((1, 59), np.float32),
        expression_names=EXPRESSION_NAMES,
        identity=np.zeros(4, np.float32),
        confidence=np.ones(1, np.float32),
        reprojection_px=np.zeros(1, np.float32),
        landmarks=np.zeros((1, 478, 2), np.float32),
        head_model="open-head",
    )
    photo = np.full((100, 100, 3), 0.2, np.float32)
    crop = Crop.square((90.0, 50.0), 77.0, 64)  # beyond the right border, not on pixel borders
    seen = crop_window(photo, np.ones((100, 100), np.float32), track, 0, crop)
    assert set(np.unique(seen.inside)) == {0, 255}
    assert seen.image[seen.inside > 0].max() <= 52
    assert seen.alpha[seen.inside > 0].min() == 255
