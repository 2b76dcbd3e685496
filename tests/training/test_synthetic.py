"""Synthetic heads: what a picture of texel numbers must satisfy."""

import numpy as np
import torch

from flexavatar_cli.heads.surface import surface
from flexavatar_cli.training.synthetic.hair import random_cap, random_hair, smooth_noise
from flexavatar_cli.training.synthetic.materials import IRIS_RADIUS, PUPIL_RADIUS, draw_eye, draw_parts
from flexavatar_cli.training.synthetic.pack import RESOLUTION
from flexavatar_cli.training.synthetic.views import (
    BACKGROUND,
    IMAGE_SIZE,
    random_expression,
    render_mesh,
    synthetic_view,
)


def test_a_view_shows_a_head_in_front_of_nothing(views, points):
    for view in views:
        shown = view.image_texel != BACKGROUND
        assert view.image_texel.shape == (IMAGE_SIZE, IMAGE_SIZE)
        assert 0.15 < shown.mean() < 0.95
        assert view.image_texel[shown].max() < len(points)
        assert (view.height >= 0).all()


def test_what_tracking_sees_is_nearly_what_is_there(views, points):
    """Seen texels read a texel of the picture that lies within a few centimetres of themselves."""
    for view in views:
        seen = (view.seen > 200) & (view.seen_texel != BACKGROUND)
        apart = np.linalg.norm(points[view.seen_texel[seen]] - points[seen], axis=1)
        assert np.median(apart) < 0.01
        assert (apart < 0.03).mean() > 0.9


def test_views_repeat_by_seed(head, points, styles):
    mesh = render_mesh(head, RESOLUTION, 0)
    first, second = (
        synthetic_view(head, mesh, styles, np.array([1]), points, RESOLUTION, np.random.default_rng(3))
        for _ in range(2)
    )
    for name, value in vars(first).items():
        np.testing.assert_array_equal(value, getattr(second, name))


def test_subdivision_keeps_the_surface(head):
    mesh = render_mesh(head, 64, 1)
    flat = (head.template.numpy()[mesh.corner] * mesh.weight[..., None]).sum(1)
    area = np.linalg.norm(np.cross(*(flat[mesh.faces[:, k]] - flat[mesh.faces[:, 0]] for k in (1, 2))), axis=1).sum()
    corner = head.template.numpy()[head.faces.numpy()]
    expected = np.linalg.norm(np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]), axis=1).sum()
    np.testing.assert_allclose(area, expected, rtol=1e-5)


def test_random_hair_is_hair(points, styles):
    for seed in range(5):
        generator = np.random.default_rng(seed)
        for height, shade, cover in (
            random_hair(styles, np.array([1]), points, generator),
            random_cap(points, generator),
        ):
            assert (height >= 0).all()
            assert height.max() < 0.12
            assert cover.min() >= 0
            assert cover.max() <= 1
            assert np.isfinite(shade).all()


def test_noise_is_smooth_and_of_unit_size(points):
    noise = smooth_noise(points, 0.02, np.random.default_rng(0))
    assert 0.3 < noise.std() < 2
    near = np.abs(np.diff(noise))[np.linalg.norm(np.diff(points, axis=0), axis=1) < 0.001]
    assert near.max() < 1.0


def test_expressions_stay_in_range():
    generator = np.random.default_rng(0)
    codes = np.stack([random_expression(generator) for _ in range(200)])
    assert codes[:, :52].min() >= 0
    assert codes[:, :52].max() <= 1
    assert np.abs(codes[:, 52:56]).max() < 1
    assert (codes[:, 52] == codes[:, 54]).all()  # both eyes look the same way


def test_eyes_have_pupil_iris_and_white():
    radius = np.array([0.0, PUPIL_RADIUS + 0.001, IRIS_RADIUS + 0.002])
    pupil, iris, white = draw_eye(radius, np.array([0.3, 0.5, 0.6]))
    assert pupil.max() < 0.1
    assert np.argmax(iris) == 2
    assert white.min() > 0.6


def test_only_skin_is_left_to_photographs(head):
    drawn = np.isfinite(draw_parts(head, 64)[:, 0])
    part = np.array(head.part_names)[head.texels(64).part.numpy()]
    assert not drawn[np.isin(part, ("face", "scalp", "neck", "bust"))].any()
    assert drawn[part == "teeth"].all()


def test_an_open_mouth_is_dark_at_its_back(head):
    grid = head.texels(64)
    with torch.no_grad():
        depth = -surface(grid, head.template).numpy()[:, 2]
    tongue = np.array(head.part_names)[grid.part.numpy()] == "tongue"
    brightness = draw_parts(head, 64).mean(-1)
    front, back = (depth <= np.quantile(depth[tongue], 0.2)), (depth >= np.quantile(depth[tongue], 0.8))
    assert brightness[tongue & back].mean() < 0.35 * brightness[tongue & front].mean()
