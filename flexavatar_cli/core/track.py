"""What the tracker found in each frame, and its file (DESIGN section 2)."""

import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from flexavatar_cli.core.camera import Camera
from flexavatar_cli.core.errors import InputError
from flexavatar_cli.core.files import replacing


@dataclass(frozen=True)
class Track:
    """T frames of one person. A frame without a face has confidence 0 and repeats its neighbour's values."""

    cam2world: np.ndarray  # [T, 4, 4] float64, head space, OpenCV
    intrinsics: np.ndarray  # [T, 3, 3] float64, pixels of the source frame
    size: np.ndarray  # [2] int (width, height) of the source frame
    fps: float
    expression_code: np.ndarray  # [T, E] float32
    expression_names: tuple[str, ...]  # [E]
    identity: np.ndarray  # [K] float32, head model coefficients, about N(0, 1)
    confidence: np.ndarray  # [T] float32 in 0..1, 0 = no face found
    reprojection_px: np.ndarray  # [T] float32, mean landmark error in source pixels
    landmarks: np.ndarray  # [T, 478, 2] float32, source pixels
    head_model: str  # name of the head model the coefficients belong to

    def __post_init__(self) -> None:
        frames = len(self.cam2world)
        shapes = {"cam2world": (4, 4), "intrinsics": (3, 3), "expression_code": (len(self.expression_names),)}
        shapes |= {"confidence": (), "reprojection_px": (), "landmarks": (478, 2)}
        for name, shape in shapes.items():
            found = getattr(self, name).shape
            if found != (frames, *shape):
                raise InputError(f"track: {name} must be {(frames, *shape)}, not {found}")

    def __len__(self) -> int:
        return len(self.cam2world)

    def camera(self) -> Camera:
        """The T cameras in the frame's own width, height and framing."""
        width, height = (int(v) for v in self.size)
        return Camera(self.cam2world, self.intrinsics, width, height)

    def __getitem__(self, item: slice | np.ndarray) -> "Track":
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        per_frame = ("cam2world", "intrinsics", "expression_code", "confidence", "reprojection_px", "landmarks")
        return Track(**values | {name: values[name][item] for name in per_frame})

    def save(self, path: Path) -> Path:
        """Write as `.npz`, beside and renamed."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values["expression_names"] = np.array(self.expression_names)
        with replacing(path) as temporary, open(temporary, "wb") as stream:
            np.savez_compressed(stream, **values)
        return Path(path)

    @staticmethod
    def load(path: Path) -> "Track":
        """Read a `.track.npz`. Raises InputError naming what is wrong; never unpickles."""
        try:
            archive = np.load(path, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise ValueError("one array alone, as in a .npy")
            with archive:
                values = {f.name: archive[f.name] for f in fields(Track)}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(f"{path}: not a track file ({error})") from error
        values["expression_names"] = tuple(str(name) for name in values["expression_names"])
        values["head_model"] = str(values["head_model"])
        values["fps"] = float(values["fps"])
        return Track(**values)


def name_frames(numbers: Iterable[int]) -> str:
    """Ascending frame numbers as ranges, e.g. "0-3, 7, 20-22"."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)
