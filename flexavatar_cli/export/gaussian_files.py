"""Gaussians at rest: `.npz` in our own terms, `.ply` and `.splat` in those of the 3DGS viewers. All in head space."""

from pathlib import Path

import numpy as np

from flexavatar_cli.core.errors import UsageError
from flexavatar_cli.core.files import replacing
from flexavatar_cli.core.gaussians import Gaussians

SH_DC = 0.28209479177387814  # the constant spherical harmonic, 1 / (2 sqrt(pi))
OPACITY_LIMIT = 1e-6  # logits stay finite
SPLAT = np.dtype([("position", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("quat", "u1", 4)])


def arrays(gaussians: Gaussians) -> dict[str, np.ndarray]:
    """Positions [N, 3], unit quats [N, 4] wxyz, scales [N, 3], opacities [N], colors [N, 3] as float32."""
    values = {name: tensor.detach().float().cpu().numpy() for name, tensor in vars(gaussians).items()}
    values["quats"] = values["quats"] / np.linalg.norm(values["quats"], axis=-1, keepdims=True)
    return values


def save_gaussians(gaussians: Gaussians, path: Path) -> Path:
    """Write `.npz`, `.ply` or `.splat` by the suffix, beside and renamed. Raises UsageError for another suffix."""
    path = Path(path)
    if path.suffix not in (".npz", ".ply", ".splat"):
        raise UsageError(f"{path}: Gaussians are written as .npz, .ply or .splat")
    values = arrays(gaussians)
    with replacing(path) as temporary:
        if path.suffix == ".ply":
            temporary.write_bytes(ply_bytes(values))
        elif path.suffix == ".splat":
            temporary.write_bytes(splat_bytes(values))
        else:
            with open(temporary, "wb") as stream:
                np.savez(stream, **values)
    return path


def ply_bytes(values: dict[str, np.ndarray]) -> bytes:
    """The binary PLY of 3D Gaussian Splatting (Kerbl et al. 2023): colour as SH, log scales, opacity logits."""
    opacity = np.clip(values["opacities"], OPACITY_LIMIT, 1 - OPACITY_LIMIT)
    columns = {
        **dict(zip(("x", "y", "z"), values["positions"].T, strict=True)),
        **{name: np.zeros_like(opacity) for name in ("nx", "ny", "nz")},
        **{f"f_dc_{at}": channel for at, channel in enumerate((values["colors"].T - 0.5) / SH_DC)},
        "opacity": np.log(opacity / (1 - opacity)),
        **{f"scale_{at}": axis for at, axis in enumerate(np.log(np.maximum(values["scales"].T, 1e-9)))},
        **{f"rot_{at}": part for at, part in enumerate(values["quats"].T)},
    }
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(opacity)}"]
    header += [f"property float {name}" for name in columns] + ["end_header", ""]
    return "\n".join(header).encode() + np.stack(list(columns.values()), 1).astype("<f4").tobytes()


def splat_bytes(values: dict[str, np.ndarray]) -> bytes:
    """The 32 bytes a Gaussian of antimatter15/splat, those that cover most first, as viewers show what has loaded.

    Position and scales as float32, RGBA as bytes, the unit quaternion wxyz as bytes (128 = 0).
    """
    table = np.zeros(len(values["opacities"]), SPLAT)
    table["position"], table["scale"] = values["positions"], values["scales"]
    rgba = np.concatenate([values["colors"], values["opacities"][:, None]], 1)
    table["rgba"] = np.round(255 * np.clip(rgba, 0, 1))
    table["quat"] = np.clip(np.round(128 * values["quats"] + 128), 0, 255)
    covered = values["scales"].prod(1) * values["opacities"]
    return table[np.argsort(-covered, kind="stable")].tobytes()
