"""Pictures of Gaussians: one function, two back ends with the same conventions, both carrying gradients."""

from collections.abc import Sequence

import torch
from torch import Tensor

from flexavatar_cli.core.camera import Camera
from flexavatar_cli.core.errors import BackendError
from flexavatar_cli.core.gaussians import Gaussians
from flexavatar_cli.render import cpu_backend, gsplat_backend

_BACKENDS = {"cpu": cpu_backend, "gsplat": gsplat_backend}


def render(
    gaussians: Gaussians,
    camera: Camera,
    background: Sequence[float] | Tensor = (1.0, 1.0, 1.0),
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """RGB [V, H, W, 3] and alpha [V, H, W] of the Gaussians in each view, float32, on the Gaussians' device.

    Differentiable in every field of `gaussians` and in `background`: RGB as a 3-tuple or a tensor [3] or [V, H, W, 3].
    Raises BackendError if the back end cannot run here, ValueError for inputs that are NaN or infinite ("cpu" only:
    looking would make a GPU wait).
    """
    device = gaussians.positions.device
    name = pick_backend(device) if backend == "auto" else backend
    if name not in _BACKENDS:
        raise BackendError(f"unknown render back end '{name}'; there are: {', '.join(_BACKENDS)}")
    if name == "cpu" and device.type != "cpu":
        raise BackendError(f"render back end 'cpu' needs Gaussians on the CPU, not on {device}")
    shape = (len(camera), camera.height, camera.width, 3)
    behind = torch.as_tensor(background, dtype=torch.float32, device=device).expand(shape)
    return _BACKENDS[name].render(gaussians, camera, behind)


def render_frames(
    heads: Sequence[Gaussians],
    camera: Camera,
    background: Sequence[float] | Tensor = (1.0, 1.0, 1.0),
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """RGB [T, H, W, 3] and alpha [T, H, W] of T heads, each seen by its own one of T cameras; see `render`.

    On a GPU heads of equal size go in one launch.
    """
    if len(heads) != len(camera):
        raise ValueError(f"{len(heads)} heads for {len(camera)} cameras")
    device = heads[0].positions.device
    name = pick_backend(device) if backend == "auto" else backend
    if name == "gsplat" and len({len(head) for head in heads}) == 1:
        shape = (len(camera), camera.height, camera.width, 3)
        behind = torch.as_tensor(background, dtype=torch.float32, device=device).expand(shape)
        return gsplat_backend.render_frames(heads, camera, behind)
    behind = torch.as_tensor(background, dtype=torch.float32, device=device)
    each = [
        render(head, camera[view], behind[view : view + 1] if behind.ndim == 4 else behind, name)
        for view, head in enumerate(heads)
    ]
    return torch.cat([rgb for rgb, _ in each]), torch.cat([alpha for _, alpha in each])


def pick_backend(device: torch.device | str) -> str:
    """The back end for tensors on `device`: "cpu" or "gsplat". Raises BackendError if there is none."""
    kind = torch.device(device).type
    if kind == "cpu":
        return "cpu"
    if kind == "cuda":
        gsplat_backend.require()
        return "gsplat"
    raise BackendError(f"no render back end for device '{device}'; use cpu or cuda")
