"""Laws of pictures of Gaussians, for every back end that runs here."""

import math

import pytest
import torch

from flexavatar_cli.core.camera import Camera, look_at
from flexavatar_cli.core.errors import BackendError
from flexavatar_cli.core.gaussians import Gaussians
from flexavatar_cli.render import pick_backend, render, render_frames


def device_of(backend: str) -> str:
    return "cpu" if backend == "cpu" else "cuda"


def single(opacity: float, scale: float, device: str, depth: float = 0.0) -> Gaussians:
    """One ball at (0, 0, depth) of colour (0.2, 0.5, 0.8)."""
    rows = ([[0, 0, depth]], [[1, 0, 0, 0]], [[scale] * 3], [opacity], [[0.2, 0.5, 0.8]])
    return Gaussians(*(torch.tensor(row, dtype=torch.float32, device=device) for row in rows))


def test_one_gaussian_is_its_closed_form(backend):
    camera = Camera(look_at([0, 0, 0.5], [0, 0, 0]), [[50, 0, 16], [0, 50, 16], [0, 0, 1]], 32, 32)
    rgb, alpha = render(single(0.7, 0.03, device_of(backend)), camera, (0, 0, 1), backend=backend)
    steps = torch.arange(32) + 0.5 - 16
    variance = (50 * 0.03 / 0.5) ** 2 + 0.3
    expected = 0.7 * torch.exp(-(steps[:, None] ** 2 + steps**2) / (2 * variance))
    expected = torch.where(expected >= 1 / 255, expected, 0)
    torch.testing.assert_close(alpha[0].cpu(), expected, atol=1e-5, rtol=0)
    colour = expected[..., None] * torch.tensor([0.2, 0.5, 0.8]) + (1 - expected[..., None]) * torch.tensor([0, 0, 1])
    torch.testing.assert_close(rgb[0].cpu(), colour, atol=1e-5, rtol=0)


def test_order_of_gaussians_does_not_matter(backend, make_scene, make_camera):
    scene, camera = make_scene(400, 0.01, device=device_of(backend)), make_camera()
    flipped = Gaussians(**{name: value.flip(0) for name, value in vars(scene).items()})
    rgb, alpha = render(scene, camera, backend=backend)
    rgb_flipped, alpha_flipped = render(flipped, camera, backend=backend)
    assert torch.equal(rgb, rgb_flipped)
    assert torch.equal(alpha, alpha_flipped)


def test_two_views_are_two_calls(backend, make_scene, make_camera):
    camera = make_camera(eyes=((0.1, 0, 0.6), (-0.4, 0.2, 0.5)))
    device = device_of(backend)
    weight = torch.rand(2, camera.height, camera.width, 3, generator=torch.Generator().manual_seed(0)).to(device)
    together, apart = make_scene(300, 0.01, device=device), make_scene(300, 0.01, device=device)
    rgb, alpha = render(together, camera, backend=backend)
    pictures = [render(apart, camera[view], backend=backend) for view in range(2)]
    torch.testing.assert_close(rgb, torch.cat([picture[0] for picture in pictures]), atol=1e-6, rtol=0)
    torch.testing.assert_close(alpha, torch.cat([picture[1] for picture in pictures]), atol=1e-6, rtol=0)
    (rgb * weight).sum().backward()
    sum((picture[0] * weight[view]).sum() for view, picture in enumerate(pictures)).backward()
    for name in vars(together):
        torch.testing.assert_close(getattr(together, name).grad, getattr(apart, name).grad, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["positions", "quats", "scales", "opacities", "colors"])
def test_moving_any_parameter_moves_the_image(backend, make_scene, make_camera, name):
    scene, camera = make_scene(20, 0.02, device=device_of(backend)), make_camera()
    before, _ = render(scene, camera, backend=backend)
    (before * torch.linspace(0, 1, before.numel(), device=before.device).reshape(before.shape)).sum().backward()
    assert getattr(scene, name).grad.flatten(1 if name != "opacities" else 0).ne(0).float().mean() > 0.8
    value = getattr(scene, name).detach()
    step = torch.linspace(0.01, 0.03, value.numel(), device=value.device).reshape(value.shape)
    after, _ = render(Gaussians(**vars(scene) | {name: value + step}), camera, backend=backend)
    assert (after - before).abs().max() > 1e-4


def test_background_fills_what_is_left(backend, make_scene, make_camera):
    scene, camera = make_scene(50, 0.01, device=device_of(backend)).detach(), make_camera()
    black, alpha = render(scene, camera, (0, 0, 0), backend=backend)
    colour = torch.tensor([0.1, 0.6, 0.9], device=alpha.device, requires_grad=True)
    picture = torch.rand(1, camera.height, camera.width, 3).to(alpha.device).requires_grad_()
    for background in (colour, picture):
        rgb, _ = render(scene, camera, background, backend=backend)
        torch.testing.assert_close(rgb, black + (1 - alpha[..., None]) * background, atol=1e-6, rtol=0)
        rgb.sum().backward()
    rest = 1 - alpha[..., None].expand_as(picture)
    torch.testing.assert_close(picture.grad, rest, atol=1e-6, rtol=0)
    torch.testing.assert_close(colour.grad, rest.sum((0, 1, 2)), atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize(
    ("opacity", "depth", "expected"),
    [(1, 0, 0.999), (0, 0, 0), (0.003, 0, 0), (1, 2, 0), (1, 0.495, 0)],
    ids=["capped", "transparent", "below the cut", "behind the camera", "nearer than 1 cm"],
)
def test_limits_of_opacity_and_depth(backend, opacity, depth, expected):
    """What a huge ball shows in the picture's centre; the camera is at z = 0.5."""
    camera = Camera(look_at([0, 0, 0.5], [0, 0, 0]), [[50, 0, 8], [0, 50, 8], [0, 0, 1]], 16, 16)
    rgb, alpha = render(single(opacity, 10.0, device_of(backend), depth), camera, backend=backend)
    assert math.isclose(alpha[0, 8, 8], expected, abs_tol=1e-5)
    assert torch.isfinite(rgb).all()


def test_nothing_shows_the_background(backend, make_camera):
    nothing = Gaussians(*(torch.zeros(0, *shape, device=device_of(backend)) for shape in ((3,), (4,), (3,), (), (3,))))
    rgb, alpha = render(nothing, make_camera(), (0.25, 0.5, 0.75), backend=backend)
    assert torch.equal(rgb.cpu(), torch.tensor([0.25, 0.5, 0.75]).expand(rgb.shape))
    assert not alpha.any()


def test_backends_are_named_and_missing_ones_explained(make_scene, make_camera):
    assert pick_backend("cpu") == "cpu"
    with pytest.raises(BackendError, match="unknown render back end 'vulkan'"):
        render(make_scene(1, 0.01), make_camera(), backend="vulkan")
    with pytest.raises(BackendError, match="no render back end for device 'meta'"):
        pick_backend("meta")
    if not torch.cuda.is_available():
        with pytest.raises(BackendError, match="needs an NVIDIA GPU"):
            pick_backend("cuda")
        with pytest.raises(BackendError, match="needs an NVIDIA GPU"):
            render(make_scene(1, 0.01), make_camera(), backend="gsplat")


def test_frames_of_several_heads_are_those_of_each(make_scene, make_camera, backend):
    """T heads by T cameras in one call give what T calls give."""
    camera = make_camera(eyes=((0.1, 0.05, 0.6), (-0.3, 0.1, 0.4)))
    device = "cuda" if backend == "gsplat" else "cpu"
    heads = [make_scene(200, 0.01, seed, device) for seed in (0, 1)]
    rgb, alpha = render_frames(heads, camera, (0.2, 0.4, 0.6), backend=backend)
    for view, head in enumerate(heads):
        one_rgb, one_alpha = render(head, camera[view], (0.2, 0.4, 0.6), backend=backend)
        torch.testing.assert_close(rgb[view], one_rgb[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(alpha[view], one_alpha[0], atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="2 heads"):
        render_frames(heads, camera[0])
