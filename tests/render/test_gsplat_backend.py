"""The CUDA rasteriser draws what its CPU twin draws."""

import pytest
import torch

from flexavatar_cli.core.gaussians import Gaussians
from flexavatar_cli.render import render


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
