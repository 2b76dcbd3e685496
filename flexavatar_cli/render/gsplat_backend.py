"""The CUDA rasteriser: gsplat's, with the conventions that the CPU twin copies. gsplat is imported when first used."""

import importlib.util
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from functools import cache

import numpy as np
import torch
from torch import Tensor

from flexavatar_cli.core.camera import Camera
from flexavatar_cli.core.errors import BackendError
from flexavatar_cli.core.gaussians import Gaussians


@cache
def require() -> None:
    """Raises BackendError, in one line, if CUDA or gsplat is missing or cannot draw a Gaussian.

    gsplat is often there without a toolkit to build its kernels with, or with kernels for other GPUs.
    """
    if not torch.cuda.is_available():
        raise BackendError("render back end 'gsplat' needs an NVIDIA GPU and a CUDA build of torch; use --device cpu")
    if importlib.util.find_spec("gsplat") is None:
        raise BackendError("render back end 'gsplat' needs the package: pip install gsplat==1.5.3")
    try:
        with redirect_stdout(sys.stderr):  # while it builds its kernels gsplat talks where results belong
            _draw_one()
    except (ImportError, AttributeError, OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:100]
        raise BackendError(f"render back end 'gsplat' does not work here ({reason}); use --device cpu") from error


def _draw_one() -> None:
    """Draws a Gaussian and waits for the picture."""
    fields: dict[str, list] = {"positions": [[0, 0, 1]], "quats": [[1, 0, 0, 0]], "scales": [[1, 1, 1]]}
    fields |= {"opacities": [1], "colors": [[1, 1, 1]]}
    values = {name: torch.tensor(value, dtype=torch.float32, device="cuda") for name, value in fields.items()}
    _rasterise(values, Camera(np.eye(4), np.eye(3), 8, 8), torch.zeros(1, 8, 8, 3, device="cuda"), (1,))[0].cpu()


def render(gaussians: Gaussians, camera: Camera, background: Tensor) -> tuple[Tensor, Tensor]:
    """RGB [V, H, W, 3] over `background` (same shape) and alpha [V, H, W]. Raises BackendError."""
    require()
    values = {name: value.float() for name, value in vars(gaussians).items()}
    return _rasterise(values, camera, background, (len(camera),))


def render_frames(heads: Sequence[Gaussians], camera: Camera, background: Tensor) -> tuple[Tensor, Tensor]:
    """T heads of equal size, each by its own one of T cameras, in one launch: RGB [T, H, W, 3], alpha [T, H, W].

    gsplat waits for the GPU once per launch, to learn how many tiles are touched; this way that is once per batch.
    """
    require()
    values = {name: torch.stack([getattr(head, name).float() for head in heads]) for name in vars(heads[0])}
    return _rasterise(values, camera, background, (len(heads), 1))


def _rasterise(
    values: dict[str, Tensor],  # fields of Gaussians, [..., N, ...]
    camera: Camera,
    background: Tensor,  # [V, H, W, 3]
    lead: tuple[int, ...],  # leading axes of gsplat's cameras; their product is V
) -> tuple[Tensor, Tensor]:
    from gsplat import rasterization

    device = values["positions"].device
    if device.type != "cuda":
        raise BackendError(f"render back end 'gsplat' needs Gaussians on a CUDA device, not on {device}")
    world2cam = torch.as_tensor(camera.world2cam, dtype=torch.float32).to(device, non_blocking=True)
    intrinsics = torch.as_tensor(camera.intrinsics, dtype=torch.float32).to(device, non_blocking=True)
    rgb, alpha, _ = rasterization(
        means=values["positions"],
        quats=values["quats"],
        scales=values["scales"],
        opacities=values["opacities"],
        colors=values["colors"],
        viewmats=world2cam.reshape(*lead, 4, 4),
        Ks=intrinsics.reshape(*lead, 3, 3),
        width=camera.width,
        height=camera.height,
        near_plane=0.01,
        eps2d=0.3,
        packed=False,
        rasterize_mode="classic",
    )
    rgb, alpha = rgb.reshape(background.shape), alpha.reshape(*background.shape[:3], 1)
    return rgb + (1 - alpha) * background, alpha[..., 0]
