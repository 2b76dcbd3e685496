"""Networks that judge pictures: optional ONNX files given by path, and the FaceMesh inside the MediaPipe wheel."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from flexavatar_cli.core.errors import InputError
from flexavatar_cli.core.onnx import broken, start
from flexavatar_cli.evaluation.metrics import FACE_TEMPLATE, similarity_transform
from flexavatar_cli.stages.tracking.landmarks import FaceMesh, View, view_of

MEAN, DEVIATION = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)  # ImageNet
CELLS, STEP, REFINE = 28, 223.0, 16.0  # heat map cells a side, pixels across, offset factor (OpenSeeFace)
GROWN = (0.10, 0.125)  # of the face box, left and right, up and down
POINTS = 66  # iBUG-68 without the two inner mouth corners
FIVE = ((33, 133), (362, 263), (1,), (61,), (291,))  # FaceMesh points of FACE_TEMPLATE


@dataclass
class Judges:
    """What can be measured in this run, and for what is missing, why."""

    lpips: "Lpips | None" = None
    embedding: "FaceEmbedding | None" = None
    landmarks: "FaceLandmarks | None" = None  # None: MediaPipe's, which the tracker uses too
    mesh: FaceMesh = field(default_factory=lambda: FaceMesh(1, still=True))

    def describe(self) -> dict[str, str]:
        """The network behind each measure, or how to get one."""
        tracker = "MediaPipe FaceMesh (the wheel's) and our solver, each frame by itself"
        akd = "MediaPipe FaceMesh 478 (what the tracker uses: not independent; --landmarks FILE.onnx for OpenSeeFace)"
        return {
            "lpips": self.lpips.words if self.lpips else "n/a: give --lpips FILE.onnx",
            "csim": self.embedding.name if self.embedding else "n/a: give --face-embedding FILE.onnx",
            "akd": self.landmarks.name if self.landmarks else akd,
            "aed": tracker,
            "apd": tracker,
            "jod": "FovVideoVDP, its own package" if has_fovvideovdp() else "n/a: pip install pyfvvdp (CC BY-NC 4.0)",
        }

    def face(self, rgb: np.ndarray, near: np.ndarray | None) -> np.ndarray | None:  # [H, W, 3] uint8 -> [478, 2]
        """FaceMesh landmarks of a picture, looked for where a face with landmarks `near` [478, 2] would be."""
        height, width = rgb.shape[:2]
        whole = View((width / 2, height / 2), float(max(width, height)))
        view = whole if near is None else view_of(near)
        faces = self.mesh(view.image(rgb))
        return view.points_back(faces[0]) if len(faces) else None


def open_judges(lpips: Path | None, embedding: Path | None, landmarks: Path | None, threads: int = 0) -> Judges:
    """The networks in the files given. Raises InputError if one is missing or of another kind."""
    return Judges(
        Lpips(lpips, threads) if lpips else None,
        FaceEmbedding(embedding, threads) if embedding else None,
        FaceLandmarks(landmarks, threads) if landmarks else None,
    )


def has_fovvideovdp() -> bool:
    """Whether the published package is installed."""
    from importlib.util import find_spec

    return find_spec("pyfvvdp") is not None


def jod(pictures: np.ndarray, driver: np.ndarray, fps: float) -> float:  # [T, H, W, 3] uint8 each
    """Quality of a clip against the driver's in just-objectionable differences (FovVideoVDP), 10 = none."""
    from pyfvvdp import fvvdp

    score, _ = fvvdp(display_name="standard_4k", heatmap=None, quiet=True).predict(
        pictures, driver, dim_order="FHWC", frames_per_second=fps
    )
    return float(score)


class Network:
    """An ONNX file whose inputs and outputs were checked."""

    def __init__(self, path: Path, threads: int, inputs: Mapping[str, int], what: str) -> None:
        """`inputs`: how many axes each must have."""
        try:
            self.session = start(Path(path).read_bytes(), threads)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from error
        except broken() as error:
            raise InputError(f"{path}: not an ONNX file that can be run") from error
        found = {node.name: len(node.shape) for node in self.session.get_inputs()}
        if list(found.values()) != list(inputs.values()):
            raise InputError(f"{path}: not {what} (its inputs are {found})")
        self.inputs, self.name = list(found), Path(path).name

    def __call__(self, *values: np.ndarray) -> Any:
        """The first output."""
        return self.session.run(None, dict(zip(self.inputs, values, strict=True)))[0]


class Lpips(Network):
    """Learned perceptual distance: two pictures [N, 3, H, W] in -1..1 to [N] (Zhang et al. 2018)."""

    def __init__(self, path: Path, threads: int = 0) -> None:
        super().__init__(path, threads, {"in0": 4, "in1": 4}, "a network of two pictures")
        named = (backbone for backbone in ("squeeze", "alex", "vgg") if backbone in self.name.lower())
        self.words = f"{self.name}, backbone by its name: {next(named, 'not stated')}"

    def distance(self, one: np.ndarray, other: np.ndarray) -> float:  # [H, W, 3] in 0..1 each
        """0 for equal pictures."""
        first, second = (
            np.ascontiguousarray(picture.transpose(2, 0, 1)[None], np.float32) * 2 - 1 for picture in (one, other)
        )
        return float(np.asarray(self(first, second)).reshape(-1)[0])


class FaceEmbedding(Network):
    """Face recognition: an aligned crop [1, 112, 112, 3] RGB 0..255 (or [1, 3, 112, 112]) to a unit vector."""

    def __init__(self, path: Path, threads: int = 0) -> None:
        super().__init__(path, threads, {"image": 4}, "a face embedding")
        self.channels_first = self.session.get_inputs()[0].shape[1] == 3

    def embed(self, rgb: np.ndarray, face: np.ndarray) -> np.ndarray:  # uint8 [H, W, 3], [478, 2] -> [D]
        """The embedding of the face with those FaceMesh landmarks, aligned by five points as ArcFace does."""
        five = np.array([face[list(rows)].mean(0) for rows in FIVE])
        matrix = similarity_transform(five - 0.5, FACE_TEMPLATE)  # cv2 puts pixel centres at integers
        crop = cv2.warpAffine(rgb, matrix, (112, 112), flags=cv2.INTER_LINEAR, borderValue=(255, 255, 255))
        values = crop.astype(np.float32)[None]
        if self.channels_first:  # the ArcFace convention of insightface
            values = np.ascontiguousarray((values.transpose(0, 3, 1, 2) - 127.5) / 127.5)
        vector = np.asarray(self(values), np.float64).reshape(-1)
        return vector / max(float(np.linalg.norm(vector)), 1e-12)


class FaceLandmarks(Network):
    """OpenSeeFace: 66 face points from heat maps with offsets; independent of MediaPipe."""

    def __init__(self, path: Path, threads: int = 0) -> None:
        super().__init__(path, threads, {"image": 4}, "an OpenSeeFace landmark model")
        if self.session.get_outputs()[0].shape[1] != 3 * POINTS:
            raise InputError(f"{path}: not an OpenSeeFace landmark model of {POINTS} points")

    def points(self, rgb: np.ndarray, face: np.ndarray) -> np.ndarray:  # uint8 [H, W, 3], [478, 2] -> [66, 2] px
        """The points of the face in the box of those FaceMesh landmarks."""
        low, high = face.min(0), face.max(0)
        margin = (high - low) * GROWN
        low, size = low - margin, high - low + 2 * margin
        scale = size / (CELLS * 8)
        matrix = np.array([[scale[0], 0, low[0] + 0.5 * scale[0] - 0.5], [0, scale[1], low[1] + 0.5 * scale[1] - 0.5]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        crop = cv2.warpAffine(rgb, matrix, (CELLS * 8,) * 2, flags=flags, borderValue=(255, 255, 255))
        values = (crop.astype(np.float32) / 255 - MEAN) / DEVIATION
        maps = np.asarray(self(np.ascontiguousarray(values.transpose(2, 0, 1)[None])))[0].reshape(3, POINTS, -1)
        best = maps[0].argmax(-1)
        share = np.clip(maps[1:, np.arange(POINTS), best].astype(np.float64), 1e-7, 1 - 1e-7)
        down, across = STEP * np.log(share / (1 - share)) / REFINE
        cell = STEP * np.stack([best % CELLS, best // CELLS], -1) / (CELLS - 1)  # as its own tracker places them
        return low + scale * (cell + np.stack([across, down], -1))
