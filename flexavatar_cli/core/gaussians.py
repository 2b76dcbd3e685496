"""3D Gaussians, the picture-making noun (Kerbl et al. 2023)."""

from dataclasses import dataclass

import torch
from torch import Tensor

TINY = 1e-15  # of a quaternion


@dataclass(frozen=True)
class Gaussians:
    """N anisotropic Gaussians in head space, with plain RGB instead of spherical harmonics."""

    positions: Tensor  # [N, 3] metres
    quats: Tensor  # [N, 4] wxyz, any norm
    scales: Tensor  # [N, 3] metres, standard deviations
    opacities: Tensor  # [N] in 0..1
    colors: Tensor  # [N, 3] RGB, about 0..1, not clamped

    def __post_init__(self) -> None:
        count = len(self.positions)
        shapes: dict[str, tuple[int, ...]] = {"positions": (count, 3), "quats": (count, 4), "scales": (count, 3)}
        shapes |= {"opacities": (count,), "colors": (count, 3)}
        for name, shape in shapes.items():
            found = tuple(getattr(self, name).shape)
            if found != shape:
                raise ValueError(f"Gaussians.{name} must be {shape}, not {found}")

    def __len__(self) -> int:
        return len(self.positions)

    def detach(self) -> "Gaussians":
        """The same values without gradients."""
        return Gaussians(**{name: value.detach() for name, value in vars(self).items()})


def rotation_matrix(quats: Tensor) -> Tensor:
    """Rotations [..., 3, 3] of quaternions [..., 4] wxyz of any norm; the zero quaternion does not turn."""
    largest = quats.detach().abs().amax(-1, keepdim=True)
    scaled = quats / largest.clamp_min(torch.finfo(quats.dtype).tiny)
    quats = torch.where(largest < TINY, scaled, quats)  # squares in float32 would vanish
    w, x, y, z = quats.unbind(-1)
    k = 2 / (quats * quats).sum(-1).clamp_min(torch.finfo(quats.dtype).tiny)
    rows = [
        (1 - k * (y * y + z * z), k * (x * y - w * z), k * (x * z + w * y)),
        (k * (x * y + w * z), 1 - k * (x * x + z * z), k * (y * z - w * x)),
        (k * (x * z - w * y), k * (y * z + w * x), 1 - k * (x * x + y * y)),
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def quaternion(matrix: Tensor) -> Tensor:
    """Unit quaternions [..., 4] wxyz of rotations [..., 3, 3], differentiable everywhere (largest component first)."""
    m = matrix
    m00, m11, m22 = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    squares = torch.stack([1 + m00 + m11 + m22, 1 + m00 - m11 - m22, 1 - m00 + m11 - m22, 1 - m00 - m11 + m22], -1)
    best = squares.argmax(-1)
    wx, wy, wz = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    xy, xz, yz = m[..., 0, 1] + m[..., 1, 0], m[..., 0, 2] + m[..., 2, 0], m[..., 1, 2] + m[..., 2, 1]
    table = torch.stack(
        [
            torch.stack([squares[..., 0], wx, wy, wz], -1),
            torch.stack([wx, squares[..., 1], xy, xz], -1),
            torch.stack([wy, xy, squares[..., 2], yz], -1),
            torch.stack([wz, xz, yz, squares[..., 3]], -1),
        ],
        -2,
    )
    chosen = torch.take_along_dim(table, best[..., None, None].expand(*best.shape, 1, 4), -2)[..., 0, :]
    return torch.nn.functional.normalize(chosen, dim=-1)
