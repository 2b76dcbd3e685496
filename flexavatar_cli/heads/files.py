"""Head model folders: `head.yaml` (name, file, sha256, licence, part and joint names) beside one safetensors file."""

from dataclasses import replace
from pathlib import Path

import cv2
import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from flexavatar_cli.core.errors import InputError, WeightsError
from flexavatar_cli.core.files import digest_file, replacing
from flexavatar_cli.heads.head_model import JOINT_NAMES, HeadModel

FORMAT = "flexavatar-head/1"
EAR_LIGHT = "ear_light.png"  # beside head.yaml, in the atlas: light in the folds of the ears
DEFAULT = Path(__file__).resolve().parents[2] / "models" / "open-head"
_HALF = ("identity_basis", "expression_basis")  # stored as fp16: 5e-4 of a displacement of millimetres
_ARRAYS = (
    "template", "faces", "uv", "faces_uv", "face_part", "identity_basis", "expression_basis", "eye_vertices",
    "landmark_face", "landmark_bary", "landmark_sigma", "landmark_used", "scalp_weight",
)  # fmt: skip
_INTEGER = ("faces", "faces_uv", "face_part", "landmark_face")
_BOOLEAN = ("eye_vertices", "landmark_used")


def load_head(path: Path | str | None = None) -> HeadModel:
    """The head model in folder `path` (or its `head.yaml`); None is the open head that comes with this package.

    Raises WeightsError if it is missing, damaged, or not what its `head.yaml` says.
    """
    folder = DEFAULT if path is None else Path(path)
    card = folder if folder.is_file() else folder / "head.yaml"
    try:
        description = yaml.safe_load(card.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise WeightsError(f"{card}: no readable head model ({_first_line(error)})") from error
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise WeightsError(f"{card}: not a head model of format {FORMAT}")
    try:
        weights = card.parent / Path(str(description["file"])).name
        parts = tuple(str(name) for name in description["parts"])
        name, expected = str(description["name"]), str(description["sha256"])
    except (KeyError, TypeError) as error:
        raise WeightsError(f"{card}: lacks {error}") from error
    try:
        digest = digest_file(weights)
    except InputError as error:
        raise WeightsError(str(error)) from error
    if digest != expected:
        raise WeightsError(f"{weights}: sha256 differs from {card.name}; fetch the head model again")
    return replace(_build(weights, name, digest, parts), ear_light=_ear_light(card.parent / EAR_LIGHT))


def save_head(head: HeadModel, folder: Path, notes: dict[str, object]) -> HeadModel:
    """Write `head` as a folder's safetensors and `head.yaml` (`notes`: licence, origin, ...); returns it as loaded."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {name: _stored(name, getattr(head, name)) for name in _ARRAYS}
    arrays |= {f"joint.{name}": head.joints[name].contiguous() for name in JOINT_NAMES}
    weights = folder / f"{head.name}.safetensors"
    with replacing(weights) as temporary:
        temporary.write_bytes(save(arrays))
    description = {
        "format": FORMAT,
        "name": head.name,
        "file": weights.name,
        "sha256": digest_file(weights),
        "parts": list(head.part_names),
        **notes,
    }
    with replacing(folder / "head.yaml") as temporary:
        temporary.write_text(yaml.safe_dump(description, sort_keys=False, allow_unicode=True, width=120), "utf-8")
    return load_head(folder)


def _build(weights: Path, name: str, digest: str, parts: tuple[str, ...]) -> HeadModel:
    try:
        arrays = load(weights.read_bytes())
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{weights}: damaged ({_first_line(error)})") from error
    missing = [key for key in (*_ARRAYS, *(f"joint.{joint}" for joint in JOINT_NAMES)) if key not in arrays]
    if missing:
        raise WeightsError(f"{weights}: lacks {', '.join(missing)}")
    values = {key: _loaded(key, arrays[key]) for key in _ARRAYS}
    joints = {joint: arrays[f"joint.{joint}"].float() for joint in JOINT_NAMES}
    try:
        return HeadModel(name=name, digest=digest, part_names=parts, joints=joints, **values)  # type: ignore[arg-type]
    except WeightsError as error:
        raise WeightsError(f"{weights}: {error}") from error


def _ear_light(path: Path) -> Tensor | None:  # [R, R] in 0..1
    """The picture; None where a head model comes without: its ears are then unshaded. Raises WeightsError."""
    if not path.exists():
        return None
    picture = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if picture is None or picture.shape[0] != picture.shape[1]:
        raise WeightsError(f"{path}: not a square picture")
    return torch.from_numpy(picture).float() / 255


def _stored(name: str, value: Tensor) -> Tensor:
    if name in _HALF:
        return value.half().contiguous()
    if name in _INTEGER:
        return value.to(torch.uint8 if name == "face_part" else torch.int32).contiguous()
    if name in _BOOLEAN:
        return value.to(torch.uint8).contiguous()
    return value.float().contiguous()


def _loaded(name: str, value: Tensor) -> Tensor:
    if name in _INTEGER:
        return value.long()
    return value.bool() if name in _BOOLEAN else value.float()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
