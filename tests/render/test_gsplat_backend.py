"""The CUDA rasteriser draws what its CPU twin draws."""

import importlib.util

import pytest
import torch

from flexavatar_cli.core.errors import BackendError
from flexavatar_cli.core.gaussians import Gaussians
from flexavatar_cli.render import gsplat_backend, pick_backend, render


@pytest.mark.skipif(not torch.cuda.is_available(), reason="gpu: no CUDA device")
def test_twins_agree(make_scene, make_camera):
    """To 1e-3 in at least 99 % of pixels (the rest: thresholds), gradients to 1 % of each field's largest."""
    camera = make_camera(200, 150, eyes=((0.1, 0.05, 0.6), (-0.3, 0.1, 0.4)))
    here = make_scene(3000, 0.006)
    there = Gaussians(**{name: value.detach().cuda().requires_grad_() for name, value in vars(here).items()})
    pictures = []
    for scene, backend in ((here, "cpu"), (there, "gsplat")):
        rgb, alpha = render(scene, camera, (0.2, 0.5, 0.9), backend=backend)
        (rgb.square().mean() + alpha.mean()).backward()
        pictures.append(torch.cat([rgb, alpha[..., None]], -1).detach().cpu())
    off = (pictures[0] - pictures[1]).abs().amax(-1)
    assert (off < 1e-3).float().mean() > 0.99
    for name in vars(here):
        a, b = getattr(here, name).grad, getattr(there, name).grad.cpu()
        assert (a - b).abs().max() < 0.01 * a.abs().max(), name


def test_a_gsplat_that_cannot_draw_is_explained(monkeypatch, capsys):
    """As without a toolkit to build its kernels with."""

    def no_kernels() -> None:
        print("No CUDA toolkit found")
        raise AttributeError("'NoneType' object has no attribute 'projection'\nmore")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(gsplat_backend, "_draw_one", no_kernels)
    gsplat_backend.require.cache_clear()
    with pytest.raises(BackendError, match=r"'gsplat' does not work here .'NoneType' .* more.; use --device cpu"):
        pick_backend("cuda")
    assert capsys.readouterr().out == ""
