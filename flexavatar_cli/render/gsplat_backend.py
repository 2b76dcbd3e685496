"""The CUDA rasteriser: gsplat's, with the conventions that the CPU twin copies. gsplat is imported when first used."""

import importlib.util

import torch
from torch import Tensor

from flexavatar_cli.core.camera import Camera
from flexavatar_cli.core.errors import BackendError
from flexavatar_cli.core.gaussians import Gaussians


def require() -> None:
    """Raises BackendError, in one line, if CUDA or gsplat is missing."""
    if not torch.cuda.is_available():
        raise BackendError("render back end 'gsplat' needs an NVIDIA GPU and a CUDA build of torch; use --device cpu")
    if importlib.util.find_spec("gsplat") is None:
        raise BackendError("render back end 'gsplat' needs the package: pip install gsplat==1.5.3")


def render(gaussians: Gaussians, camera: Camera, background: Tensor) -> tuple[Tensor, Tensor]:
    """RGB [V, H, W, 3] over `background` (same shape) and alpha [V, H, W]. Raises BackendError."""
    require()
    from gsplat import rasterization

    device = gaussians.positions.device
    if device.type != "cuda":
        raise BackendError(f"render back end 'gsplat' needs Gaussians on a CUDA device, not on {device}")
    rgb, alpha, _ = rasterization(
        means=gaussians.positions.float(),
        quats=gaussians.quats.float(),
        scales=gaussians.scales.float(),
        opacities=gaussians.opacities.float(),
        colors=gaussians.colors.float(),
        viewmats=torch.as_tensor(camera.world2cam, dtype=torch.float32).to(device, non_blocking=True),
        Ks=torch.as_tensor(camera.intrinsics, dtype=torch.float32).to(device, non_blocking=True),
        width=camera.width,
        height=camera.height,
        near_plane=0.01,
        eps2d=0.3,
        packed=False,
        rasterize_mode="classic",
    )
    return rgb + (1 - alpha) * background, alpha[..., 0]
