"""Colours of Gaussians from a picture, through their blending."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from flexavatar_cli.core.camera import Camera, look_at
from flexavatar_cli.core.gaussians import Gaussians
from flexavatar_cli.render import render
from flexavatar_cli.stages.back_projection import back_projected

SIZE = 64


@pytest.fixture
def camera() -> Camera:
    intrinsics = np.array([[200.0, 0, SIZE / 2], [0, 200.0, SIZE / 2], [0, 0, 1]])
    return Camera(look_at(np.array([0.0, 0.0, 1.0]), np.zeros(3)), intrinsics, SIZE, SIZE)


def wall(depth: float = 0.0, side: int = 16) -> Gaussians:
    """Overlapping flat Gaussians that fill the middle of the picture, with random colours."""
    generator = torch.Generator().manual_seed(0)
    line = torch.linspace(-0.1, 0.1, side)
    y, x = torch.meshgrid(line, line, indexing="ij")
    positions = torch.stack([x, y, torch.full_like(x, depth)], -1).reshape(-1, 3)
    count = len(positions)
    quats = torch.tensor([[1.0, 0, 0, 0]]).expand(count, 4)
    scales = torch.tensor([[0.01, 0.01, 0.001]]).expand(count, 3)
    return Gaussians(positions, quats, scales, torch.full((count,), 0.9), torch.rand(count, 3, generator=generator))


def test_rounds_of_back_projection_find_the_picture(camera):
    true = wall()
    picture = render(true, camera, background=torch.ones(3))[0][0]
    guess = replace(true, colors=torch.full_like(true.colors, 0.5))
    mask = torch.ones(SIZE, SIZE)
    before = (render(guess, camera, background=torch.ones(3))[0][0] - picture).abs().mean()
    for _ in range(8):
        error, _ = back_projected(guess, camera, picture, mask)
        guess = replace(guess, colors=guess.colors + error)
    after = (render(guess, camera, background=torch.ones(3))[0][0] - picture).abs().mean()
    assert after < 0.25 * before


def test_what_hides_behind_has_no_share_and_masked_pixels_no_say(camera):
    near, far = wall(), wall(depth=-0.05)
    both = Gaussians(*(torch.cat([getattr(one, name) for one in (near, far)]) for name in vars(near)))
    picture = torch.zeros(SIZE, SIZE, 3)
    _, share = back_projected(both, camera, picture, torch.ones(SIZE, SIZE))
    front, behind = share.reshape(2, -1)
    assert behind.median() < 0.1 * front.median()
    error, share = back_projected(both, camera, picture, torch.zeros(SIZE, SIZE))
    assert error.abs().max() == 0
    assert share.max() == 0
