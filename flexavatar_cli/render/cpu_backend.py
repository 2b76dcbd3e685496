"""The CPU rasteriser: 3D Gaussian splatting (Kerbl et al. 2023) with gsplat's conventions, differentiable.

What is kept between the passes, and in which order the kernels run: `cpu_projection`, `cpu_binning`, `cpu_blending`,
and back.
"""

import functools
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from flexavatar_cli.core.camera import Camera
from flexavatar_cli.core.gaussians import Gaussians
from flexavatar_cli.render import cpu_binning, cpu_blending, cpu_projection
from flexavatar_cli.render.cpu_blending import BLOCK, PIXELS
from flexavatar_cli.render.cpu_projection import RECORD, SPLAT, TILE, Arrays, Lens

# Guards the workspace; besides, Numba's fallback threading layer must not be entered by two threads at once.
_one_at_a_time = threading.Lock()

_KEEP_BYTES = 64 << 20  # larger arrays go back to the system


@functools.cache
def _start_threads() -> None:
    """Start Numba's threads, as many as torch has.

    Both live on one OpenMP runtime, and Numba's first kernel would raise torch's number from what the user asked for
    to that of the cores: sums would come out differently before the first picture and after it.
    """
    threads = torch.get_num_threads()
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
    torch.set_num_threads(threads)


class _Workspace:
    """Arrays that live from call to call: pages fresh from the system would cost a tenth of a picture's time."""

    def __init__(self) -> None:
        self._arrays: dict[str, np.ndarray] = {}

    def empty(self, name: str, shape: tuple[int, ...], kind: type) -> np.ndarray:
        """An array with anything in it, which the next call of the same name overwrites."""
        size = math.prod(shape)
        if size * np.dtype(kind).itemsize > _KEEP_BYTES:
            return np.empty(shape, kind)
        if name not in self._arrays or self._arrays[name].size < size:
            self._arrays[name] = np.empty(size, kind)
        return self._arrays[name][:size].reshape(shape)


_workspace = _Workspace()


def _fresh(name: str, shape: tuple[int, ...], kind: type) -> np.ndarray:
    """An array that may be kept."""
    return np.empty(shape, kind)


@dataclass(frozen=True)
class _View:
    """One camera as the kernels want it, and what its forward pass leaves to the backward pass."""

    pose: np.ndarray  # [3, 4] float64 world-to-camera
    lens: Lens  # fx, fy, cx, cy, left, right, top, bottom
    splats: np.ndarray  # [N, SPLAT] float32
    offsets: np.ndarray  # [N + 1] int64, first record of each Gaussian
    pairs: np.ndarray  # [P, 2] int32, Gaussian and record, by tile and depth
    starts: np.ndarray  # [tiles + 1] int64, first pair of each tile
    touched: np.ndarray  # [P] uint16, blocks of the tile that each pair reaches
    finals: np.ndarray  # [tiles, 2 * PIXELS] float32, transmittance and stop position, in block order


def render(gaussians: Gaussians, camera: Camera, background: Tensor) -> tuple[Tensor, Tensor]:
    """RGB [V, H, W, 3] over `background` (same shape) and alpha [V, H, W]. Raises ValueError for NaN or infinity."""
    for name, value in vars(gaussians).items():
        if not _finite(value):
            raise ValueError(f"Gaussians.{name} holds NaN or infinity; nothing can be rendered from it")
    values = (value.float() for value in vars(gaussians).values())
    return _Rasterise.apply(*values, background.float(), camera)


def _finite(tensor: Tensor) -> bool:
    """Whether every entry is finite; the sum tells at once unless it overflows."""
    return bool(tensor.detach().sum().isfinite()) or bool(tensor.isfinite().all())


class _Rasterise(torch.autograd.Function):
    """positions, quats, scales, opacities, colors, background, camera -> rgb, alpha."""

    @staticmethod
    def forward(
        context: Any,
        positions: Tensor,
        quats: Tensor,
        scales: Tensor,
        opacities: Tensor,
        colors: Tensor,
        background: Tensor,
        camera: Camera,
    ) -> tuple[Tensor, Tensor]:
        parameters = _arrays(positions, quats, scales, opacities, colors)
        rgb = torch.empty(len(camera), camera.height, camera.width, 3)
        alpha = torch.empty(rgb.shape[:3])
        empty = _fresh if any(context.needs_input_grad) else _workspace.empty
        with _one_at_a_time:
            _start_threads()
            views = [
                _forward(parameters, camera, i, background[i].numpy(), rgb[i].numpy(), alpha[i].numpy(), empty)
                for i in range(len(camera))
            ]
        context.save_for_backward(positions, quats, scales, opacities, colors, background)
        context.views = views
        return rgb, alpha

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, grad_rgb: Tensor, grad_alpha: Tensor) -> tuple[Tensor | None, ...]:
        *parameters, background = context.saved_tensors
        grads = [torch.zeros(parameter.shape) for parameter in parameters]
        rgb, alpha = _arrays(grad_rgb, grad_alpha)
        with _one_at_a_time:
            for i, view in enumerate(context.views):
                _backward(view, _arrays(*parameters), background[i].numpy(), rgb[i], alpha[i], _arrays(*grads))
        grad_background = None
        if context.needs_input_grad[5]:
            rest = torch.stack([_transmittance(view, *grad_alpha.shape[1:]) for view in context.views])
            grad_background = grad_rgb * rest[..., None]
        return *grads, grad_background, None


def _arrays(*tensors: Tensor) -> Arrays:
    return tuple(tensor.detach().contiguous().numpy() for tensor in tensors)


def _forward(
    parameters: Arrays,
    camera: Camera,
    view: int,
    background: np.ndarray,
    rgb: np.ndarray,
    alpha: np.ndarray,
    empty: Callable[[str, tuple[int, ...], type], np.ndarray] = _fresh,
) -> _View:
    """Render one view into rgb [H, W, 3] and alpha [H, W]; `empty` makes the arrays of the result."""
    height, width = alpha.shape
    pose, lens = camera.world2cam[view, :3], _lens(camera, view)
    count = len(parameters[0])
    tiles_x, tiles = -(-width // TILE), -(-width // TILE) * -(-height // TILE)
    splats = empty("splats", (count, SPLAT), np.float32)
    depths = _workspace.empty("depths", (count,), np.float32)
    rects = _workspace.empty("rects", (count, 4), np.int32)
    cpu_projection.project(parameters, pose, lens, width, height, splats, depths, rects)
    offsets = empty("offsets", (count + 1,), np.int64)
    order = cpu_binning.order_by_depth(rects, depths, offsets)
    pairs = empty("pairs", (int(offsets[-1]), 2), np.int32)
    starts = empty("starts", (tiles + 1,), np.int64)
    cpu_binning.bin_tiles(order, rects, offsets, tiles_x, pairs, starts)
    touched = empty("touched", (len(pairs),), np.uint16)
    finals = empty("finals", (tiles, 2 * PIXELS), np.float32)
    cpu_blending.blend(pairs, starts, splats, background, tiles_x, rgb, alpha, touched, finals)
    return _View(pose, lens, splats, offsets, pairs, starts, touched, finals)


def _lens(camera: Camera, view: int) -> Lens:
    """fx, fy, cx, cy in pixels and gsplat's clamps of x/z and y/z in the Jacobian: the picture plus 0.3 half-widths."""
    intrinsics = camera.intrinsics[view]
    fx, fy, cx, cy = (float(intrinsics[i]) for i in ((0, 0), (1, 1), (0, 2), (1, 2)))
    margin_x, margin_y = 0.15 * camera.width, 0.15 * camera.height
    left, right = -(cx + margin_x) / fx, (camera.width - cx + margin_x) / fx
    top, bottom = -(cy + margin_y) / fy, (camera.height - cy + margin_y) / fy
    return fx, fy, cx, cy, left, right, top, bottom


def _backward(
    view: _View,
    parameters: Arrays,
    background: np.ndarray,
    grad_rgb: np.ndarray,
    grad_alpha: np.ndarray,
    sums: Arrays,
) -> None:
    """Add one view's gradients to `sums` (shapes of positions, quats, scales, opacities, colors)."""
    records = _workspace.empty("records", (len(view.pairs) * RECORD,), np.float32)
    tiles_x = -(-grad_alpha.shape[1] // TILE)
    cpu_blending.blend_backward(
        view.pairs,
        view.starts,
        view.splats,
        background,
        tiles_x,
        view.touched,
        view.finals,
        grad_rgb,
        grad_alpha,
        records,
    )
    cpu_projection.project_backward(parameters, view.pose, view.lens, view.offsets, records, sums)


def _transmittance(view: _View, height: int, width: int) -> Tensor:
    """What the forward pass let through of the background, [H, W], from block order to rows."""
    tiles_x, blocks, size = -(-width // TILE), TILE // BLOCK, BLOCK
    planes = torch.from_numpy(view.finals[:, :PIXELS])
    planes = planes.reshape(-1, tiles_x, blocks, blocks, size, size)  # tile y, x, block y, x, pixel y, x
    return planes.permute(0, 2, 4, 1, 3, 5).reshape(-1, tiles_x * TILE)[:height, :width]
