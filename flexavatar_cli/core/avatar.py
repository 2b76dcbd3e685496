"""The avatar: everything that makes one person's head, and its file.

A file is a safetensors archive whose one metadata entry `flexavatar` is a JSON header; a file with a `.pt` name is the
same header and arrays as a torch archive. Files are told apart by content, and nothing is ever unpickled.
"""

import json
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from flexavatar_cli import __version__
from flexavatar_cli.core.camera import Camera
from flexavatar_cli.core.errors import InputError, WeightsError
from flexavatar_cli.core.files import digest_bytes, replacing

FORMAT_VERSION = 1
HEADER = "flexavatar"  # the metadata key; a single one, because safetensors writes several in random order
PLAYBACK_HEADER = "flexavatar-playback"  # the same of the low-rank basis that is kept beside an avatar
LARGEST_FILE = 1 << 30  # bytes; an avatar code is 1 to 4 MB
TEXTS = ("model", "model_digest", "head_model", "head_digest", "bias_sink", "tool_version")
EXTRA = "extra."  # prefix of further arrays


@dataclass(frozen=True)
class Avatar:
    """One person's head as the decoder of `model` understands it, in numpy arrays (the file needs no torch)."""

    avatar_code: np.ndarray  # [L, D] float32
    identity: np.ndarray  # [K] float32, head model coefficients
    model: str  # name of the weight set
    model_digest: str  # sha256 of the weights; decoding with others is an error
    head_model: str
    head_digest: str
    expression_names: tuple[str, ...]  # [E] layout of the expression code
    bias_sink: str  # "3d" or "2d"
    camera: Camera | None = None  # of the first input, after its crop
    thumbnail: bytes = b""  # PNG, 256 pixels
    provenance: Mapping[str, Any] = field(default_factory=dict)  # JSON values: input digests, options, losses
    extras: Mapping[str, np.ndarray] = field(default_factory=dict)  # further arrays a stage wants kept
    tool_version: str = __version__

    def __post_init__(self) -> None:
        for name, axes in (("avatar_code", 2), ("identity", 1)):
            array = np.ascontiguousarray(getattr(self, name))
            if array.ndim != axes or array.dtype != np.float32:
                raise ValueError(f"Avatar.{name} must be float32 with {axes} axes, not {array.dtype} {array.shape}")
            object.__setattr__(self, name, array)
        object.__setattr__(self, "expression_names", tuple(self.expression_names))
        object.__setattr__(self, "extras", {k: np.ascontiguousarray(v) for k, v in sorted(self.extras.items())})

    @property
    def digest(self) -> str:
        """sha256 (hex) of everything in the avatar, whichever kind of file holds it."""
        arrays = self._arrays()
        return digest_bytes(self._header().encode(), *(arrays[name].tobytes() for name in sorted(arrays)))

    def with_code(self, avatar_code: np.ndarray, **provenance: Any) -> "Avatar":
        """The same person with another code, e.g. after fitting; `provenance` is added to what is known."""
        return replace(self, avatar_code=avatar_code, provenance={**self.provenance, **provenance})

    def require(self, model_digest: str, head_digest: str) -> None:
        """Raises WeightsError unless the avatar was made with these weights and this head model."""
        if self.model_digest != model_digest:
            raise WeightsError(
                f"the avatar was made with {self.model} weights {self.model_digest[:12]}, these are "
                f"{model_digest[:12]}; pass the --model it was made with, or create it again"
            )
        if self.head_digest != head_digest:
            raise WeightsError(
                f"the avatar was made on head model {self.head_model} {self.head_digest[:12]}, this is "
                f"{head_digest[:12]}; create it again"
            )

    def save(self, path: Path) -> Path:
        """Write beside and rename; the same avatar always gives the same bytes. `.pt` makes a torch archive."""
        path = Path(path)
        content = self._torch_bytes() if path.suffix == ".pt" else self._safetensors_bytes()
        with replacing(path) as temporary:
            temporary.write_bytes(content)
        return path

    @staticmethod
    def load(path: Path) -> "Avatar":
        """Read either kind of file, by content. Raises InputError naming what is wrong; never unpickles."""
        path = Path(path)
        try:
            size = path.stat().st_size
            if size > LARGEST_FILE:
                raise InputError(f"{path}: not an avatar file ({size >> 20} MB is too large)")
            content = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from error
        try:
            header, arrays = parse_torch(content) if content[:4] == b"PK\x03\x04" else parse_safetensors(content)
            return from_parts(json.loads(header), arrays)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            detail = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise InputError(f"{path}: not an avatar file ({detail})") from error

    def _arrays(self) -> dict[str, np.ndarray]:
        arrays = {"avatar_code": self.avatar_code, "identity": self.identity}
        arrays["thumbnail"] = np.frombuffer(self.thumbnail, np.uint8)
        return arrays | {EXTRA + name: array for name, array in self.extras.items()}

    def _header(self) -> str:
        header: dict[str, Any] = {name: getattr(self, name) for name in TEXTS}
        header |= {"format_version": FORMAT_VERSION, "expression_names": list(self.expression_names)}
        header["provenance"] = dict(self.provenance)
        if self.camera is not None:
            header["camera"] = {
                "convention": "opencv",
                "cam2world": self.camera.cam2world.tolist(),
                "intrinsics": self.camera.intrinsics.tolist(),
                "width": self.camera.width,
                "height": self.camera.height,
            }
        return json.dumps(header, sort_keys=True, allow_nan=False)

    def _safetensors_bytes(self) -> bytes:
        from safetensors.numpy import save

        return save(self._arrays(), metadata={HEADER: self._header()})

    def _torch_bytes(self) -> bytes:
        import io

        import torch

        arrays = {name: torch.from_numpy(array.copy()) for name, array in self._arrays().items()}
        stream = io.BytesIO()  # a file's name would become part of the archive
        torch.save({HEADER: self._header(), "arrays": arrays}, stream)
        return stream.getvalue()


def parse_safetensors(content: bytes, key: str = HEADER) -> tuple[str, dict[str, np.ndarray]]:
    """JSON header and arrays of a safetensors archive. Raises ValueError or KeyError."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        arrays = load(content)
    except SafetensorError as error:
        raise ValueError(f"damaged or another kind of file: {error}") from error
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]).get("__metadata__", {})[key], arrays


def parse_torch(content: bytes) -> tuple[str, dict[str, np.ndarray]]:
    """JSON header and arrays of a torch archive, read without unpickling code. Raises ValueError or KeyError."""
    import io

    import torch

    try:
        archive = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        return archive[HEADER], {name: tensor.numpy() for name, tensor in archive["arrays"].items()}
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ValueError("damaged, or a torch file with more than plain arrays") from error


def from_parts(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> Avatar:
    """The avatar of a parsed file. Raises ValueError, KeyError or TypeError on what does not fit."""
    version = header["format_version"]
    if version != FORMAT_VERSION:
        raise ValueError(f"format version {version}, this program reads {FORMAT_VERSION}")
    texts = {name: header[name] for name in TEXTS}
    names = header["expression_names"]
    if not all(isinstance(text, str) for text in (*texts.values(), *names)):
        raise ValueError("header with a name that is no text")
    code, identity = arrays["avatar_code"], arrays["identity"]
    if not (np.isfinite(code).all() and np.isfinite(identity).all()):
        raise ValueError("values that are not finite")
    camera = header.get("camera")
    return Avatar(
        avatar_code=code,
        identity=identity,
        expression_names=tuple(names),
        camera=camera
        and Camera(
            np.array(camera["cam2world"]), np.array(camera["intrinsics"]), int(camera["width"]), int(camera["height"])
        ),
        thumbnail=arrays["thumbnail"].tobytes(),
        provenance=dict(header["provenance"]),
        extras={name[len(EXTRA) :]: array for name, array in arrays.items() if name.startswith(EXTRA)},
        **texts,
    )
