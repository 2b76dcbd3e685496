"""Features of a frozen image network that the published encoder fuses in: DINOv2 ViT-B/14 with registers (SPEC 4.4)."""

import importlib.util
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from flexavatar_cli import weights
from flexavatar_cli.core.errors import InputError, WeightsError
from flexavatar_cli.core.pretrained import load_frozen
from flexavatar_cli.media.frame_files import read_npy

ENTRY = "dinov2"  # of the registry
SIDE, PATCH = 224, 14  # pixels
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, RGB
INSTALL = "pip install -e '.[flex1]' -c constraints.txt"


def image_features(picture: np.ndarray, channels: int, file: str = "") -> Tensor:  # [H, W, 3] uint8 -> [1, F, s, s]
    """The last layer's normed patch tokens of a picture on white, or those kept in `file` (.npy [F, s, s]).

    Raises WeightsError with the commands that install the network where it is missing.
    """
    return stored_features(Path(file), channels) if file else dinov2_features(picture, channels)


def stored_features(path: Path, channels: int) -> Tensor:
    """Features [1, F, s, s] computed elsewhere. Raises InputError if they are not of `channels` channels."""
    array = read_npy(path)
    array = array[None] if array.ndim == 3 else array
    if array.ndim != 4 or array.shape[:2] != (1, channels) or array.dtype.kind != "f" or not np.isfinite(array).all():
        raise InputError(f"{path}: not image features: floats [{channels}, s, s]")
    return torch.from_numpy(np.ascontiguousarray(array, np.float32))


def missing_parts() -> list[str]:
    """What is not on this machine, each with the command that brings it."""
    missing = []
    if importlib.util.find_spec("transformers") is None:
        missing.append(f"transformers: {INSTALL}")
    if weights.locate(ENTRY) is None:
        missing.append(f"DINOv2 weights: {weights.how_to_get(ENTRY)}")
    return missing


def dinov2_features(picture: np.ndarray, channels: int) -> Tensor:
    """DINOv2's features [1, F, 16, 16]. Raises WeightsError if it is not installed or another network."""
    missing = missing_parts()
    if missing:
        raise WeightsError(
            f"image features of this model need DINOv2, which is not here; run: {'; '.join(missing)}; "
            "or give features computed elsewhere with --image-features FILE.npy"
        )
    from transformers import Dinov2WithRegistersModel

    folder = weights.verify(ENTRY)[0].path.parent
    network = load_frozen(Dinov2WithRegistersModel, folder, "DINOv2 with registers")
    config = network.config
    if (config.hidden_size, config.patch_size) != (channels, PATCH):
        raise WeightsError(f"{folder}: {config.hidden_size} channels and patches of {config.patch_size}, not ViT-B/14")
    with torch.inference_mode():
        tokens = network(pixel_values=prepared(picture)).last_hidden_state[:, 1 + config.num_register_tokens :]
    side = SIDE // PATCH
    return tokens.transpose(1, 2).unflatten(2, (side, side)).float().clone()


def prepared(picture: np.ndarray) -> Tensor:  # [H, W, 3] uint8 -> [1, 3, 224, 224]
    """The network's input: resized bilinearly with antialiasing, normalised."""
    image = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None].float() / 255
    image = functional.interpolate(image, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
    return (image - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
