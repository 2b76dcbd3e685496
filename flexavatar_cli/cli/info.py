"""`flexavatar info`: what is in a file."""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from flexavatar_cli.core.errors import InputError


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(info)


def info(file: Path) -> None:
    """Say what is in an avatar, track, photo, video, folder of pictures, model folder or network (.onnx)."""
    from flexavatar_cli.cli.console import report

    report(describe(file))


def describe(path: Path) -> dict[str, Any]:
    """Facts about the file or folder at `path`, told by its content. Raises InputError for what is not ours."""
    if path.is_dir():
        cards = [path / name for name in ("model.yaml", "head.yaml") if (path / name).is_file()]
        if cards:
            return describe_model(path, cards[0])
        networks = sorted(path.glob("*.onnx"))
        return describe_network(networks[0]) if len(networks) == 1 else describe_media(path)
    try:
        with open(path, "rb") as stream:
            start = stream.read(9)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if path.suffix == ".onnx":
        return describe_network(path)
    if start[:2] == b"PK":
        return describe_archive(path)
    if start[8:9] == b"{":  # safetensors: the length of a JSON header, then the header
        return describe_tensors(path)
    return describe_media(path)


def describe_archive(path: Path) -> dict[str, Any]:
    """Facts about a zip: a numpy archive or a torch archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError) as error:
        raise InputError(f"{path}: damaged archive ({error})") from error
    if not all(name.endswith(".npy") for name in names):
        return describe_avatar(path)
    if "cam2world.npy" in names and "expression_code.npy" in names:
        return describe_track(path)
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {"kind": "arrays", "file": path, "arrays": shapes({name: arrays[name] for name in arrays.files})}
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path}: damaged numpy archive ({error})") from error


def describe_tensors(path: Path) -> dict[str, Any]:
    """Facts about a safetensors file: an avatar, or weights."""
    from safetensors import SafetensorError, safe_open

    from flexavatar_cli.core.avatar import HEADER, PLAYBACK_HEADER
    from flexavatar_cli.core.files import digest_file

    try:
        with safe_open(path, "np") as archive:
            metadata = archive.metadata() or {}
            arrays = {name: archive.get_slice(name).get_shape() for name in sorted(archive.keys())}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: damaged safetensors file ({error})") from error
    if HEADER in metadata:
        return describe_avatar(path)
    if PLAYBACK_HEADER in metadata:
        return {"kind": "playback", "file": path, "bytes": path.stat().st_size, **describe_playback(path, metadata)}
    numbers = sum(product(shape) for shape in arrays.values())
    return {"kind": "weights", "file": path, "tensors": len(arrays), "numbers": numbers, "sha256": digest_file(path)}


def describe_avatar(path: Path) -> dict[str, Any]:
    """Facts about an avatar."""
    from flexavatar_cli.core.avatar import Avatar

    avatar = Avatar.load(path)
    camera = avatar.camera
    return {
        "kind": "avatar",
        "file": path,
        "digest": avatar.digest,
        "avatar_code": list(avatar.avatar_code.shape),
        "identity": len(avatar.identity),
        "model": avatar.model,
        "model_digest": avatar.model_digest,
        "head_model": avatar.head_model,
        "head_digest": avatar.head_digest,
        "expression": f"{len(avatar.expression_names)} values",
        "bias_sink": avatar.bias_sink,
        "camera": None if camera is None else f"{len(camera)} of {camera.width} x {camera.height}",
        "thumbnail_bytes": len(avatar.thumbnail),
        "extras": shapes(avatar.extras),
        "tool_version": avatar.tool_version,
        "provenance": dict(avatar.provenance),
    }


def describe_playback(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """Whose low-rank basis it is, and how good it was found to be."""
    from flexavatar_cli.core.avatar import PLAYBACK_HEADER

    try:
        header = json.loads(metadata[PLAYBACK_HEADER])
        return {"avatar_digest": header["avatar"], **header["notes"]}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: damaged playback file ({error})") from error


def describe_track(path: Path) -> dict[str, Any]:
    """Facts about a track."""
    from flexavatar_cli.core.track import Track

    track = Track.load(path)
    seen = track.confidence > 0
    return {
        "kind": "track",
        "file": path,
        "frames": len(track),
        "frames_with_face": int(seen.sum()),
        "fps": track.fps,
        "size": [int(side) for side in track.size],
        "head_model": track.head_model,
        "expression": f"{len(track.expression_names)} values",
        "identity": len(track.identity),
        "reprojection_px": float(track.reprojection_px[seen].mean()) if seen.any() else None,
    }


def describe_media(path: Path) -> dict[str, Any]:
    """Facts about a photo, video or folder of pictures."""
    from flexavatar_cli.media.frames import open_frames

    frames = open_frames(path)
    facts: dict[str, Any] = {"kind": frames.kind, "file": path, "size": list(frames.source_size)}
    if frames.kind != "photo":
        facts |= {"frames": len(frames), "fps": frames.fps, "seconds": len(frames) / frames.fps}
    if frames.kind != "video":
        facts |= {"transparency": frames.still(0).alpha is not None, "exif_focal_35mm": frames.still(0).focal_35mm}
    return facts


def describe_model(folder: Path, card: Path) -> dict[str, Any]:
    """Facts about a model folder: its card, and the digests of its weights."""
    import yaml

    from flexavatar_cli.core.files import digest_file

    try:
        content = yaml.safe_load(card.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{card}: not a model card ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise InputError(f"{card}: not a model card")
    wanted = ("name", "licence", "origin", "format", "head_model", "expression_layout")
    facts = {key: content[key] for key in wanted if key in content}
    weights = {entry.name: digest_file(entry) for entry in sorted(folder.glob("*.safetensors"))}
    return {"kind": "model" if card.name == "model.yaml" else "head model", "file": folder, **facts, "sha256": weights}


def describe_network(path: Path) -> dict[str, Any]:
    """Facts about an ONNX network: what goes in and comes out."""
    from flexavatar_cli.core.files import digest_file
    from flexavatar_cli.core.onnx import open_session

    session = open_session(path)
    ends = {"inputs": session.get_inputs(), "outputs": session.get_outputs()}
    facts = {end: {value.name: value.shape for value in values} for end, values in ends.items()}
    return {"kind": "network", "file": path, **facts, "sha256": digest_file(path)}


def shapes(arrays: Mapping[str, Any]) -> dict[str, list[int]]:
    """The shape of each array."""
    return {name: list(array.shape) for name, array in arrays.items()}


def product(shape: list[int]) -> int:
    """How many numbers an array of `shape` holds."""
    total = 1
    for side in shape:
        total *= side
    return total
