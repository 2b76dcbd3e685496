"""What a picture says about the colour of every Gaussian, seen through how the Gaussians are blended.

Sampling the picture at a texel's centre forgets that neighbouring Gaussians overlap, so a render of sampled colours is
blurred. Back-projection of the render's own error (Irani and Peleg 1991) sharpens it in a few rounds.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor

from flexavatar_cli.core.camera import Camera
from flexavatar_cli.core.gaussians import Gaussians
from flexavatar_cli.render import render


def back_projected(
    gaussians: Gaussians,
    camera: Camera,  # one camera
    picture: Tensor,  # [H, W, 3] composited on white
    mask: Tensor,  # [H, W] pixels that count
) -> tuple[Tensor, Tensor]:
    """The error [N, 3] of each Gaussian's colour, and the share [N] of its own footprint that reaches the picture.

    Both are gradients of a sum over pixels with respect to the colours: a pixel is a sum of colours with weights.
    """
    with torch.enable_grad():
        colors = gaussians.colors.detach().clone().requires_grad_(True)
        rgb, _ = render(replace(gaussians.detach(), colors=colors), camera, background=torch.ones(3))
        error = (picture - rgb[0]).detach() * mask[..., None]
        (weighted,) = torch.autograd.grad((rgb[0] * error).sum(), colors, retain_graph=True)
        (weight,) = torch.autograd.grad((rgb[0, ..., 0] * mask).sum(), colors)
    pixels = weight[:, :1]
    return weighted / (pixels + 1e-3), visible_share(gaussians, camera, pixels[:, 0])


def visible_share(
    gaussians: Gaussians,
    camera: Camera,
    pixels: Tensor,  # [N] sum of each Gaussian's blending weights
) -> Tensor:  # [N]
    """Blending weight of each Gaussian as a share of what its footprint would have unhidden and seen frontally."""
    rotation, centre = (torch.from_numpy(camera.cam2world[0, :3, at]).float().to(pixels.device) for at in (2, 3))
    depth = (gaussians.positions - centre) @ rotation
    scale = float(camera.intrinsics[0, 0, 0]) / depth.clamp_min(0.05)
    footprint = 2 * math.pi * gaussians.scales[:, 0] * gaussians.scales[:, 1] * scale**2
    return pixels / footprint.clamp_min(1e-6)
