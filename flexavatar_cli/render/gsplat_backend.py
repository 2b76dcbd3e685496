"""The CUDA rasteriser: gsplat's, with the conventions that the CPU twin copies. gsplat is imported when first used."""

import importlib.util
from collections.abc import Sequence

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
    values = {name: value.float() for name, value in vars(gaussians).items()}
    return _rasterise(values, camera, background, (len(camera),))


def render_frames(heads: Sequence[Gaussians], camera: Camera, background: Tensor) -> tuple[Tensor, Tensor]:
    """T heads of equal size, each by its own one of T cameras, in one launch: RGB [T, H, W, 3], alpha [T, H, W].

    gsplat waits for the GPU once per launch, to learn how many tiles are touched; this way that is once per batch.
    """
    values = {name: torch.stack([getattr(head, name).float() for head in heads]) for name in vars(heads[0])}
    return _rasterise(values, camera, background, (len(heads), 1))


def _rasterise(
    values: dict[str, Tensor],  # fields of Gaussians, [..., N, ...]
    camera: Camera,
    background: Tensor,  # [V, H, W, 3]
    lead: tuple[int, ...],  # leading axes of gsplat's cameras; their product is V
) -> tuple[Tensor, Tensor]:
    require()
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
