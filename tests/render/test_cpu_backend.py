"""The CPU rasteriser against the float64 reference, its gradients, and bits that do not depend on threads."""

import os
import subprocess
import sys

import numba
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from flexavatar_cli.core.camera import Camera, look_at
from flexavatar_cli.core.gaussians import Gaussians
from flexavatar_cli.render import render

BACKGROUND = torch.tensor([0.1, 0.6, 0.3], dtype=torch.float64)
FIELDS = ("positions", "quats", "scales", "opacities", "colors")


def double(gaussians: Gaussians) -> Gaussians:
    return Gaussians(**{name: value.detach().double().requires_grad_() for name, value in vars(gaussians).items()})


def weights(camera: Camera) -> tuple[Tensor, Tensor]:
    """A random loss: its derivatives by rgb and by alpha."""
    generator = torch.Generator().manual_seed(7)
    shape = (len(camera), camera.height, camera.width)
    return torch.randn(*shape, 3, generator=generator), torch.randn(*shape, generator=generator)


def loss_of(rgb: Tensor, alpha: Tensor, edges: Tensor, camera: Camera) -> Tensor:
    by_rgb, by_alpha = (weight.to(rgb.dtype) for weight in weights(camera))
    return (((rgb * by_rgb).sum(-1) + alpha * by_alpha) * ~edges).sum()


# few big splats; a film of small ones that many pixels saturate in; elongated ones that reach over several tiles
@pytest.mark.parametrize(("count", "size", "tall"), [(60, 0.05, 1), (1500, 0.012, 1), (150, 0.01, 8)])
def test_agrees_with_the_reference(reference, make_scene, make_camera, count, size, tall):
    """Values to 1e-5, gradients to 1e-4 of each field's largest, in the at least 99 % of pixels off the thresholds."""
    camera = make_camera(eyes=((0.1, 0.05, 0.6), (-0.3, 0.1, 0.4)))
    scene = make_scene(count, size)
    with torch.no_grad():
        scene.scales[:, 0] *= tall
    exact = double(scene)
    rgb, alpha = render(scene, camera, BACKGROUND)
    expected_rgb, expected_alpha, edges = reference(exact, camera, BACKGROUND)
    assert edges.float().mean() < 0.01
    assert ((rgb - expected_rgb).abs().amax(-1) * ~edges).max() < 1e-5
    assert ((alpha - expected_alpha).abs() * ~edges).max() < 1e-5
    loss_of(rgb, alpha, edges, camera).backward()
    loss_of(expected_rgb, expected_alpha, edges, camera).backward()
    for name in FIELDS:
        found, expected = getattr(scene, name).grad, getattr(exact, name).grad
        assert (found - expected).abs().max() < 1e-4 * expected.abs().max(), name


@pytest.mark.parametrize("name", FIELDS)
def test_gradients_agree_with_finite_differences(reference, make_scene, make_camera, name):
    """Central differences of the reference along random directions of one field."""
    camera, scene = make_camera(), make_scene(80, 0.03, seed=3)
    exact = double(scene).detach()
    _, _, edges = reference(exact, camera, BACKGROUND)
    loss_of(*render(scene, camera, BACKGROUND), edges, camera).backward()
    value, gradient = getattr(exact, name), getattr(scene, name).grad
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        direction = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        sides = []
        for step in (1e-7, -1e-7):
            moved = Gaussians(**vars(exact) | {name: value + step * direction})
            rgb, alpha, _ = reference(moved, camera, BACKGROUND)
            sides.append(loss_of(rgb, alpha, edges, camera))
        slope = (sides[0] - sides[1]) / 2e-7
        scale = gradient.norm() * direction.norm() / value.numel() ** 0.5
        assert abs((gradient * direction).sum() - slope) < 1e-4 * scale


@st.composite
def strange_scenes(draw: st.DrawFn) -> Gaussians:
    """Up to 12 Gaussians, any of them flat, huge, transparent, opaque, unturned, behind or beside the camera."""
    count = draw(st.integers(1, 12))
    number = st.floats(-1, 1, width=32)

    def column(values: st.SearchStrategy, shape: tuple[int, ...] = ()) -> Tensor:
        size = int(np.prod(shape))
        flat = draw(st.lists(values, min_size=count * size, max_size=count * size))
        return torch.tensor(flat, dtype=torch.float32).reshape(count, *shape)

    return Gaussians(
        positions=column(number, (3,)),
        quats=column(st.one_of(st.just(0.0), number), (4,)),
        scales=column(st.sampled_from([0.0, 1e-6, 0.003, 0.02, 0.1, 1.0, 50.0]), (3,)),
        opacities=column(st.one_of(st.sampled_from([0.0, 1.0, 0.5]), st.floats(0, 1, width=32))),
        colors=column(number, (3,)),
    )


@given(scene=strange_scenes())
def test_strange_scenes_agree_with_the_reference(reference, scene):
    camera = Camera(look_at([0.1, 0, 0.6], [0, 0, 0]), [[40, 0, 12], [0, 40, 9], [0, 0, 1]], 23, 18)
    scene = Gaussians(**{name: value.requires_grad_() for name, value in vars(scene).items()})
    rgb, alpha = render(scene, camera, BACKGROUND)
    expected_rgb, expected_alpha, edges = reference(double(scene).detach(), camera, BACKGROUND, edge=1e-3)
    assert ((rgb - expected_rgb).abs().amax(-1) * ~edges).max() < 1e-4
    assert ((alpha - expected_alpha).abs() * ~edges).max() < 1e-4
    (rgb.sum() + alpha.sum()).backward()
    for name in FIELDS:
        assert getattr(scene, name).grad.isfinite().all(), name


def test_the_same_bits_whatever_the_threads(make_scene, make_camera):
    camera = make_camera(width=150, height=90)
    results = []
    for threads in (1, 2, 2):
        scene = make_scene(3000, 0.006)
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
        rgb, alpha = render(scene, camera)
        loss_of(rgb, alpha, torch.zeros_like(alpha, dtype=torch.bool), camera).backward()
        results.append([rgb, alpha, *(getattr(scene, name).grad for name in FIELDS)])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_rendering_leaves_the_number_of_threads_alone():
    """In a process of its own: Numba starts its threads once, on the OpenMP runtime that torch computes with."""
    program = """
import torch
from flexavatar_cli.core.camera import Camera, look_at
from flexavatar_cli.core.gaussians import Gaussians
from flexavatar_cli.render import render
one = torch.ones
head = Gaussians(torch.zeros(2, 3), one(2, 4), 0.01 * one(2, 3), one(2), one(2, 3))
render(head, Camera(look_at([0, 0, 0.6], [0, 0, 0]), [[40, 0, 8], [0, 40, 8], [0, 0, 1]], 16, 16))
print(torch.get_num_threads())
"""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1"]


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_infinity_are_refused_by_name(make_scene, make_camera, name, bad):
    scene = make_scene(5, 0.01).detach()
    getattr(scene, name)[3] = bad
    with pytest.raises(ValueError, match=rf"Gaussians\.{name} holds NaN or infinity"):
        render(scene, make_camera())


def test_large_but_finite_values_pass_the_check(make_scene, make_camera):
    scene = make_scene(5, 0.01).detach()
    scene.colors[:] = 3e38  # their sum overflows
    assert render(scene, make_camera())[1].isfinite().all()


def test_second_derivatives_are_refused(make_scene, make_camera):
    scene = make_scene(5, 0.05)
    rgb, _ = render(scene, make_camera())
    (gradient,) = torch.autograd.grad(rgb.square().sum(), scene.colors, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
