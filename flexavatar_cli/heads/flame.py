"""The FLAME head of the user's own file, from the published equations (Li et al., SIGGRAPH Asia 2017).

`M(b, p, t) = W(T + B_S(b) + B_E(p) + B_P(t), J(b), t)`: shape and expression displacements add up, pose correctives are
linear in the entries of R - 1, and linear blend skinning turns the sum about five joints. Nothing of FLAME is shipped:
users bring the `.pkl` of FLAME 2020 or 2023, or a `.npz` with the same arrays. FLAME space is head space.
"""

import dataclasses
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sparse
import torch
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors
from torch import Tensor

from flexavatar_cli.core.errors import WeightsError
from flexavatar_cli.core.files import digest_bytes, replacing
from flexavatar_cli.core.safe_pickle import Refused, StandIn, read_arrays, stand_in

JOINTS = ("root", "neck", "jaw", "eye_left", "eye_right")
LARGEST_FILE = 1 << 29  # bytes; the published files have 40 to 55 MB
SHAPES = 300  # of the published basis; the rest is expression
LANDMARKS = 478


@dataclass(frozen=True)
class FlameHead:
    """V vertices, S shapes, P expressions and 5 joints; float32 tensors, metres."""

    template: Tensor  # [V, 3]
    faces: Tensor  # [F, 3] int64
    shape_basis: Tensor  # [S, V, 3]
    expression_basis: Tensor  # [P, V, 3]
    pose_basis: Tensor  # [36, V, 3], correctives per entry of R - 1 of the joints after the root
    joint_regressor: Tensor  # [5, V]
    skin_weights: Tensor  # [V, 5]
    parents: tuple[int, ...]  # [5], -1 for the root
    landmark_face: Tensor  # [478] int64, empty before registration
    landmark_bary: Tensor  # [478, 3]
    landmark_sigma: Tensor  # [478], fraction of the outer-eye distance
    landmark_used: Tensor  # [478] bool

    name = "flame"

    def __post_init__(self) -> None:
        vertices, joints = len(self.template), len(JOINTS)
        shapes = {
            "template": (vertices, 3), "faces": (len(self.faces), 3), "shape_basis": (self.shapes, vertices, 3),
            "expression_basis": (self.expressions, vertices, 3), "pose_basis": (9 * (joints - 1), vertices, 3),
            "joint_regressor": (joints, vertices), "skin_weights": (vertices, joints),
        }  # fmt: skip
        for name, shape in shapes.items():
            value: Tensor = getattr(self, name)
            if tuple(value.shape) != shape:
                raise WeightsError(f"{name} must be {shape}, not {tuple(value.shape)}")
            if value.is_floating_point() and not torch.isfinite(value).all():
                raise WeightsError(f"{name} has values that are not finite")
        if vertices == 0 or len(self.faces) == 0 or self.faces.min() < 0 or self.faces.max() >= vertices:
            raise WeightsError("its faces point outside its vertices")
        if len(self.parents) != joints or self.parents[0] != -1 or any(
            not 0 <= parent < child for child, parent in enumerate(self.parents[1:], 1)
        ):  # fmt: skip
            raise WeightsError(f"its joints must be a tree of {joints}, not {self.parents}")

    @property
    def shapes(self) -> int:
        """S, the number of identity shapes."""
        return len(self.shape_basis)

    @property
    def expressions(self) -> int:
        """P, the number of expression shapes."""
        return len(self.expression_basis)

    @property
    def digest(self) -> str:
        """sha256 of the arrays."""
        return digest_bytes(*(getattr(self, name).numpy().tobytes() for name in _TENSORS))

    def rest(self, shape: Tensor | None = None, expression: Tensor | None = None) -> Tensor:
        """Displaced template [..., V, 3] before posing, of coefficients [..., s <= S] and [..., p <= P]."""
        moved = self.template
        for coefficients, basis in ((shape, self.shape_basis), (expression, self.expression_basis)):
            if coefficients is not None:
                moved = moved + torch.tensordot(coefficients, basis[: coefficients.shape[-1]], 1)
        return moved

    def joints(self, shape: Tensor | None = None) -> Tensor:
        """Joint places [..., 5, 3] at rest: they follow the shape, not the expression (FLAME, section 3.1)."""
        return self.joint_regressor @ self.rest(shape)

    def transforms(self, rotations: Tensor, joints: Tensor) -> Tensor:
        """Rest-to-posed transforms [..., 5, 4, 4] of `rotations` [..., 5, 3, 3], each relative to its parent."""
        posed: list[Tensor] = []
        for joint, parent in enumerate(self.parents):
            rotation, place = rotations[..., joint, :, :], joints[..., joint, :]
            local = _rigid(rotation, place - (rotation @ place[..., None])[..., 0])  # turn about the joint
            posed.append(local if parent < 0 else posed[parent] @ local)
        return torch.stack(torch.broadcast_tensors(*posed), -3)

    def vertices(
        self,
        shape: Tensor | None = None,  # [..., s]
        expression: Tensor | None = None,  # [..., p]
        rotations: Tensor | None = None,  # [..., 5, 3, 3] root, neck, jaw, left and right eye; None = at rest
        translation: Tensor | None = None,  # [..., 3] metres
    ) -> Tensor:  # [..., V, 3]
        """The posed surface."""
        moved = self.rest(shape, expression)
        if rotations is not None:
            turned = (rotations[..., 1:, :, :] - torch.eye(3, dtype=rotations.dtype)).flatten(-3)  # [..., 36]
            moved = moved + torch.tensordot(turned, self.pose_basis, 1)
            transforms = self.transforms(rotations, self.joints(shape))
            blend = torch.einsum("vj,...jkl->...vkl", self.skin_weights, transforms)
            moved = (blend[..., :3, :3] @ moved[..., None])[..., 0] + blend[..., :3, 3]
        return moved if translation is None else moved + translation[..., None, :]

    def landmarks(self, vertices: Tensor) -> Tensor:
        """MediaPipe's 478 points [..., 478, 3] on the surface with `vertices` [..., V, 3]."""
        corners = vertices[..., self.faces[self.landmark_face], :]
        return (corners * self.landmark_bary[..., None]).sum(-2)


_TENSORS = tuple(entry.name for entry in dataclasses.fields(FlameHead) if entry.name != "parents")


def load_flame(path: Path) -> FlameHead:
    """The head in a FLAME `.pkl` or `.npz`, or in a file that `save_flame` wrote; told apart by content.

    Raises WeightsError if it is missing, damaged, another model, or asks to run something.
    """
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise WeightsError(f"{path}: too large for a FLAME file")
        with open(path, "rb") as stream:
            start = stream.read(9)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        if start[8:9] == b"{":
            return _stored(path)
        return _from_arrays(_npz(path) if start[:2] == b"PK" else _pickled(path))
    except Refused as error:
        raise WeightsError(f"{path}: not a FLAME file: {error}") from error
    except KeyError as error:
        raise WeightsError(f"{path}: not a FLAME file: it lacks {error}") from error
    except (ValueError, TypeError, IndexError, OSError, EOFError, zipfile.BadZipFile, SafetensorError) as error:
        raise WeightsError(f"{path}: not a FLAME file ({str(error).splitlines()[0][:100]})") from error
    except WeightsError as error:
        raise error if str(error).startswith(str(path)) else WeightsError(f"{path}: {error}") from error


def save_flame(head: FlameHead, path: Path) -> Path:
    """Write the head with its landmarks as safetensors, beside and renamed."""
    arrays = {name: np.ascontiguousarray(getattr(head, name).numpy()) for name in _TENSORS}
    arrays["parents"] = np.array(head.parents, np.int64)
    with replacing(path) as temporary:
        temporary.write_bytes(save_tensors(arrays))
    return path


def _stored(path: Path) -> FlameHead:
    arrays = load_tensors(path.read_bytes())
    parents = tuple(int(value) for value in arrays.pop("parents"))
    return FlameHead(**{name: torch.from_numpy(arrays[name].copy()) for name in _TENSORS}, parents=parents)


def _npz(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _pickled(path: Path) -> dict[str, Any]:
    with open(path, "rb") as stream:
        content = read_arrays(stream, _other_libraries, encoding="latin1")
    if not isinstance(content, dict):
        raise Refused(f"it holds a {type(content).__name__}, not a dictionary")
    return {str(name): value for name, value in content.items()}


def _other_libraries(module: str, name: str) -> type[StandIn] | None:
    """Stand-ins for what the published pickles hold besides numpy: chumpy arrays and scipy's sparse matrices."""
    package = module.split(".")[0]
    if package == "chumpy" or (module.startswith("scipy.sparse") and name in ("csc_matrix", "csr_matrix")):
        return stand_in(f"{module}.{name}")
    return None


def _from_arrays(found: dict[str, Any]) -> FlameHead:
    basis = _array(found["shapedirs"])  # [V, 3, shapes + expressions]
    expressions = _array(found["expressedirs"]) if "expressedirs" in found else None
    if expressions is None:
        count = min(SHAPES, basis.shape[2])
        basis, expressions = basis[..., :count], basis[..., count:]
    tree = _array(found["kintree_table"])
    parents = (-1, *(int(parent) for parent in tree[0, 1:]))
    none = torch.zeros(0)
    return FlameHead(
        template=_floats(_array(found["v_template"])),
        faces=torch.from_numpy(_array(found["f"]).astype(np.int64)),
        shape_basis=_floats(basis.transpose(2, 0, 1)),
        expression_basis=_floats(expressions.transpose(2, 0, 1)),
        pose_basis=_floats(_array(found["posedirs"]).transpose(2, 0, 1)),
        joint_regressor=_floats(_array(found["J_regressor"])),
        skin_weights=_floats(_array(found["weights"])),
        parents=parents,
        landmark_face=none.long(),
        landmark_bary=none.reshape(0, 3),
        landmark_sigma=none,
        landmark_used=none.bool(),
    )


def _array(value: Any) -> np.ndarray:
    """A plain array of what a FLAME file may hold in its place. Raises Refused."""
    if isinstance(value, StandIn) and value.kind.startswith("chumpy"):
        if not isinstance(value.state, dict) or not isinstance(value.state.get("x"), np.ndarray):
            raise Refused(f"a {value.kind} that is no plain array; save it as .npz with its own tools")
        value = value.state["x"]
    elif isinstance(value, StandIn):
        value = _sparse(value).toarray()
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu":
        raise Refused(f"a {type(value).__name__} in the place of an array of numbers")
    return value


def _sparse(value: StandIn) -> Any:
    state = value.state if isinstance(value.state, dict) else {}
    parts = [state.get(name) for name in ("data", "indices", "indptr")]
    size = state.get("_shape", state.get("shape"))
    if not all(isinstance(part, np.ndarray) for part in parts) or size is None:
        raise Refused(f"a {value.kind} without its arrays")
    kind = sparse.csc_matrix if value.kind.endswith("csc_matrix") else sparse.csr_matrix
    matrix = kind(tuple(parts), shape=tuple(int(side) for side in size))
    matrix.check_format(full_check=True)  # indices within the shape
    return matrix


def _floats(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, np.float32))


def _rigid(rotation: Tensor, translation: Tensor) -> Tensor:
    """[..., 4, 4] of rotations [..., 3, 3] and translations [..., 3]."""
    lead = torch.broadcast_shapes(rotation.shape[:-2], translation.shape[:-1])
    top = torch.cat([rotation.expand(*lead, 3, 3), translation.expand(*lead, 3)[..., None]], -1)
    bottom = top.new_tensor([0.0, 0, 0, 1]).expand(*lead, 1, 4)
    return torch.cat([top, bottom], -2)
