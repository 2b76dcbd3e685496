"""Tracked `.frame` files of the published data, torch zip archives of numpy arrays, read without running them (10.1).

A file holds the groups `flame` and `camera` and a few arrays beside them; names with a dot are members of a group.
"""

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from flexavatar_cli.core.errors import InputError
from flexavatar_cli.core.files import replacing
from flexavatar_cli.core.safe_pickle import Refused, read_arrays

LARGEST = 1 << 26  # bytes of pickle; the published files have a few kB
WORKING_SIZE = 256  # of the tracker that wrote the published files

# field of TrackedFrame: name in the file, shape without the leading 1
ARRAYS = {
    "expression": ("flame.exp", (100,)),
    "shape": ("flame.shape", (300,)),
    "eyes": ("flame.eyes", (12,)),
    "eyelids": ("flame.eyelids", (2,)),
    "jaw": ("flame.jaw", (6,)),
    "neck": ("flame.neck", (6,)),
    "rotation": ("flame.R", (6,)),
    "translation": ("flame.t", (3,)),
    "base_rotation": ("camera.R_base_0", (3, 3)),
    "base_translation": ("camera.t_base_0", (3,)),
    "focal": ("camera.fl", (1,)),
    "principal": ("camera.pp", (2,)),
    "joint_transforms": ("joint_transforms", (5, 4, 4)),
}


@dataclass(frozen=True)
class TrackedFrame:
    """What the published tracker says about one frame; float32."""

    expression: np.ndarray  # [100]
    shape: np.ndarray  # [300]
    eyes: np.ndarray  # [12] left, then right, 6-D rotations
    eyelids: np.ndarray  # [2]
    jaw: np.ndarray  # [6]
    neck: np.ndarray  # [6]
    rotation: np.ndarray  # [6] of the head in the tracker's world, not normalised
    translation: np.ndarray  # [3] metres
    base_rotation: np.ndarray  # [3, 3] world to camera, OpenGL axes
    base_translation: np.ndarray  # [3] metres
    focal: np.ndarray  # [1] focal length / picture size
    principal: np.ndarray  # [2] offset of the principal point, half picture sizes
    joint_transforms: np.ndarray  # [5, 4, 4] rest to posed: root, neck, jaw, left and right eye

    def __post_init__(self) -> None:
        for name, (key, shape) in ARRAYS.items():
            value = np.asarray(getattr(self, name), np.float32)
            if value.shape != shape:
                raise ValueError(f"{key} must be {(1, *shape)}, not {(1, *value.shape)}")
            if not np.isfinite(value).all():
                raise ValueError(f"{key} has values that are not finite")
            object.__setattr__(self, name, value)


def read_frame(path: Path) -> TrackedFrame:
    """The frame in a `.frame` file. Raises InputError if it is damaged, lacks something, or asks to run something."""
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = [name for name in archive.namelist() if name.split("/")[-1] == "data.pkl"]
            if len(members) != 1:
                raise InputError(f"{path}: not a .frame file (no data.pkl in it)")
            if archive.getinfo(members[0]).file_size > LARGEST:
                raise InputError(f"{path}: not a .frame file (too large)")
            content = archive.read(members[0])
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (zipfile.BadZipFile, RuntimeError, EOFError, ValueError, NotImplementedError) as error:
        raise InputError(f"{path}: not a .frame file ({str(error)[:80]})") from error
    try:
        values = flattened(read_arrays(io.BytesIO(content)))
        found = {name: np.asarray(values[key], np.float32)[0] for name, (key, _) in ARRAYS.items()}
        return TrackedFrame(**found)
    except KeyError as error:
        raise InputError(f"{path}: not a .frame file (it lacks {error})") from error
    except (Refused, ValueError, TypeError, IndexError) as error:
        raise InputError(f"{path}: not a .frame file ({error})") from error


def write_frame(frame: TrackedFrame, path: Path, number: int = 0) -> Path:
    """Write a `.frame` file that the published programs read, beside and renamed."""
    import torch

    from flexavatar_cli.core.flame import rotation_from_6d

    content: dict[str, Any] = {"flame": {}, "camera": {}}
    for name, (key, _) in ARRAYS.items():
        group, _, member = key.rpartition(".")
        (content[group] if group else content)[member] = np.ascontiguousarray(getattr(frame, name)[None])
    content["flame"]["R_rotation_matrix"] = rotation_from_6d(frame.rotation[None]).astype(np.float32)
    content |= {"img_size": np.array([WORKING_SIZE] * 2, np.int64), "frame_id": number, "global_step": 0}
    stream = io.BytesIO()
    torch.save(content, stream)
    with replacing(path) as temporary:
        temporary.write_bytes(stream.getvalue())
    return Path(path)


def flattened(found: Any, before: str = "") -> dict[str, Any]:
    """A nested mapping as one, names joined by dots."""
    if not isinstance(found, Mapping):
        raise ValueError(f"a {type(found).__name__} where a group of arrays belongs")
    result: dict[str, Any] = {}
    for name, value in found.items():
        if isinstance(value, Mapping):
            result |= flattened(value, f"{before}{name}.")
        else:
            result[f"{before}{name}"] = value
    return result


def frame_files(folder: Path) -> list[Path]:
    """The `.frame` files at or under `folder`, in order; empty if there are none.

    Raises InputError if they lie in several folders: those are several sequences.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return []
    files = sorted(folder.rglob("*.frame"))
    places = sorted({path.parent for path in files})
    if len(places) > 1:
        names = ", ".join(str(place.relative_to(folder)) for place in places[:4])
        raise InputError(f"{folder}: {len(places)} tracked sequences in it; name one of {names}")
    return files


def crop_box(path: Path) -> tuple[int, int, int, int]:
    """ymin, ymax, xmin, xmax of a `crop_ymin_ymax_xmin_xmax.npy`, source pixels. Raises InputError."""
    values = read_npy(path)
    if values.shape != (4,) or values.dtype.kind not in "iu":
        raise InputError(f"{path}: not a crop box of 4 integers")
    top, bottom, left, right = (int(value) for value in values)
    if bottom <= top or right <= left:
        raise InputError(f"{path}: an empty crop box")
    return top, bottom, left, right


def read_npy(path: Path) -> np.ndarray:
    """The array of a `.npy` without pickled objects. Raises InputError."""
    try:
        with open(path, "rb") as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, EOFError, MemoryError) as error:
        raise InputError(f"{path}: not a .npy file of numbers ({str(error).splitlines()[0][:80]})") from error


def write_npy(array: np.ndarray, path: Path) -> Path:
    """Write a `.npy`, beside and renamed."""
    with replacing(path) as temporary, open(temporary, "wb") as stream:
        np.lib.format.write_array(stream, np.ascontiguousarray(array), allow_pickle=False)
    return Path(path)


assert set(ARRAYS) == {entry.name for entry in fields(TrackedFrame)}
