"""Scenes, and 3D Gaussian splatting as one would write it on a blackboard: dense, float64, gradients by autograd."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from flexavatar_cli.core.camera import Camera, look_at
from flexavatar_cli.core.gaussians import Gaussians, rotation_matrix
from flexavatar_cli.render import gsplat_backend


@pytest.fixture(params=["cpu", "gsplat"])
def backend(request: pytest.FixtureRequest) -> str:
    """Each back end that can run here."""
    if request.param == "gsplat" and not torch.cuda.is_available():
        pytest.skip("gpu: no CUDA device")
    if request.param == "gsplat":
        gsplat_backend.require()
    return request.param


@pytest.fixture(scope="session")
def make_scene() -> Callable[..., Gaussians]:
    def scene(count: int, size: float, seed: int = 0, device: str = "cpu") -> Gaussians:
        """`count` random Gaussians of about `size` metres in a ball of 0.12 m, ready for gradients."""
        generator = torch.Generator().manual_seed(seed)
        normal = {name: torch.randn(count, n, generator=generator) for name, n in (("p", 3), ("q", 4), ("s", 3))}
        uniform = torch.rand(count, 4, generator=generator)
        values = (0.06 * normal["p"], normal["q"], size * (0.5 * normal["s"]).exp(), uniform[:, 0], uniform[:, 1:])
        return Gaussians(*(value.to(device).requires_grad_() for value in values))

    return scene


@pytest.fixture(scope="session")
def make_camera() -> Callable[..., Camera]:
    def camera(width: int = 40, height: int = 33, eyes: tuple = ((0.1, 0.05, 0.6),)) -> Camera:
        """Cameras at `eyes` that see the origin, slightly off centre, with differing focal lengths."""
        poses = np.stack([look_at(np.array(eye), np.zeros(3)) for eye in eyes])
        intrinsics = np.array([[1.9 * width, 0, 0.53 * width], [0, 2.1 * width, 0.48 * height], [0, 0, 1]])
        return Camera(poses, intrinsics, width, height)

    return camera


@pytest.fixture(scope="session")
def reference() -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    return _render


def _render(gaussians: Gaussians, camera: Camera, background: Tensor, edge: float = 2e-5) -> tuple[Tensor, ...]:
    """RGB [V, H, W, 3], alpha [V, H, W], and edges [V, H, W] bool: pixels where rounding may decide.

    Those are pixels where some splat's alpha is within the fraction `edge` of 1/255 or of 0.999, or where the
    transmittance behind a splat is within the fraction 10 * `edge` of 1e-4.
    """
    results = [_render_view(gaussians, camera[view], background, edge) for view in range(len(camera))]
    return tuple(torch.stack(parts) for parts in zip(*results, strict=True))


def _render_view(gaussians: Gaussians, camera: Camera, background: Tensor, edge: float) -> tuple[Tensor, ...]:
    world2cam = torch.from_numpy(camera.world2cam[0])
    (fx, _, cx), (_, fy, cy), _ = camera.intrinsics[0].tolist()
    width, height = camera.width, camera.height
    points = gaussians.positions @ world2cam[:3, :3].T + world2cam[:3, 3]
    seen = points[:, 2] >= 0.01
    x, y, z = points.where(seen[:, None], torch.ones(3, dtype=points.dtype)).unbind(-1)

    u = (x / z).clamp(-(cx + 0.15 * width) / fx, (1.15 * width - cx) / fx)
    v = (y / z).clamp(-(cy + 0.15 * height) / fy, (1.15 * height - cy) / fy)
    zero = torch.zeros_like(z)
    jacobian = torch.stack([fx / z, zero, -fx * u / z, zero, fy / z, -fy * v / z], -1).reshape(-1, 2, 3)
    half = jacobian @ world2cam[:3, :3] @ (rotation_matrix(gaussians.quats) * gaussians.scales[:, None])
    conic = torch.linalg.inv(half @ half.mT + 0.3 * torch.eye(2, dtype=half.dtype))

    rows, columns = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    pixels = torch.stack([columns, rows], -1).to(half.dtype)
    delta = pixels[:, :, None] - torch.stack([fx * x / z + cx, fy * y / z + cy], -1)  # [H, W, N, 2]
    sigma = 0.5 * torch.einsum("hwni,nij,hwnj->hwn", delta, conic, delta)
    raw = gaussians.opacities * torch.exp(-sigma)
    raw = raw[..., order := torch.argsort(z.float(), stable=True)]  # every back end sorts float32 depths
    seen = seen[order]
    counts = (raw >= 1 / 255) & seen
    alphas = torch.where(counts, raw.clamp(max=0.999), 0.0)

    after = torch.cumprod(1 - alphas, -1)
    alphas = torch.where(after > 1e-4, alphas, 0.0)  # once below, always below: all behind is dropped too
    before = torch.cumprod(torch.cat([torch.ones_like(after[..., :1]), 1 - alphas], -1), -1)
    rest = before[..., -1]
    rgb = (alphas * before[..., :-1]) @ gaussians.colors[order] + rest[..., None] * background

    close = ((raw * 255 - 1).abs() < edge) | ((raw / 0.999 - 1).abs() < edge)
    close |= counts & ((after * 1e4 - 1).abs() < 10 * edge)
    return rgb, 1 - rest, (close & seen).any(-1)
