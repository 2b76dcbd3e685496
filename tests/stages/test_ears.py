"""Ears stand off as far as the matte shows, and not as far as hair does."""

import cv2
import numpy as np
import pytest
import torch

from flexavatar_cli.core.camera import Camera, look_at
from flexavatar_cli.heads import load_head
from flexavatar_cli.render.mesh import rasterize_mesh
from flexavatar_cli.stages.ears import rims, standing_off, with_ears
from flexavatar_cli.stages.hull import about_ears
from flexavatar_cli.stages.observation import Observation
from flexavatar_cli.stages.uv_prior import uv_prior

SIZE, RESOLUTION = 384, 64
SKIN, HAIR = (180, 140, 120), (30, 25, 20)


@pytest.fixture(scope="module")
def head():
    return load_head()


@pytest.fixture(scope="module")
def prior(head):
    return uv_prior(head, RESOLUTION, torch.full((len(head.texels(RESOLUTION)), 3), 0.5))


def seen(head, truth: torch.Tensor, hair: int = 0) -> Observation:
    """A head of one colour, tracked as the average one; `hair` pixels wide around it."""
    matrix = np.array([[SIZE / 0.4, 0, SIZE / 2], [0, SIZE / 0.4, SIZE / 2], [0, 0, 1.0]])
    camera = Camera(look_at(np.array([0, 0, 1.0]), np.zeros(3)), matrix, SIZE, SIZE)
    expression = np.zeros(59, np.float32)
    posed = head.vertices(truth, torch.from_numpy(expression)).numpy().astype(np.float64)
    pixels, depth = camera.project(posed)
    skin = (rasterize_mesh(pixels[0], depth[0], head.faces.numpy(), SIZE, SIZE)[0] >= 0).astype(np.uint8)
    whole = cv2.dilate(skin, np.ones((2 * hair + 1, 2 * hair + 1), np.uint8))
    image = np.where(skin[..., None] > 0, SKIN, np.where(whole[..., None] > 0, HAIR, 255)).astype(np.uint8)
    inside = np.full((SIZE, SIZE), 255, np.uint8)
    return Observation(image, 255 * whole, inside, camera, np.zeros(len(truth), np.float32), expression)


@pytest.mark.parametrize("metres", [-0.004, 0.0, 0.008])
def test_ears_follow_the_matte(head, prior, metres):
    direction = standing_off(head)
    identity = with_ears(seen(head, metres * direction), prior, head)
    found = identity @ direction.numpy() / float(direction @ direction)
    assert abs(found - metres) < 0.002
    np.testing.assert_allclose(identity, found * direction.numpy(), atol=1e-5)  # nothing else of the identity changes


def test_hair_is_no_ear(head, prior):
    identity = with_ears(seen(head, torch.zeros(len(head.identity_basis)), hair=9), prior, head)
    assert np.abs(identity).max() == 0


def test_only_ears_move_along_the_direction(head):
    basis, place = head.identity_basis.numpy(), head.template.numpy()
    moved = np.einsum("k,kvc->vc", 0.008 * standing_off(head).numpy(), basis)
    for side, rim in zip((1, -1), rims(head), strict=True):
        assert side * moved[rim, 0].mean() == pytest.approx(0.008, abs=1e-4)
    face = ~about_ears(place) & (place[:, 2] > 0.03) & (place[:, 1] > -0.1)
    assert np.linalg.norm(moved[face], axis=1).mean() < 6e-4
