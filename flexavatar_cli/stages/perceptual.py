"""Feature distances of the published fitting loss: SAM 2.1 Hiera-small and DINOv2-small, where they are installed.

Both networks are frozen and come through `transformers` from what `flexavatar models pull` fetched (SPEC 11).
"""

import importlib.util
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from flexavatar_cli import weights
from flexavatar_cli.core.pretrained import load_frozen

log = logging.getLogger(__name__)

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, RGB
SAM_SIDE = 1024  # pixels
DINO_PATCH, DINO_STATES = 14, (5, 8, 11)  # of the 13 hidden states, 0 = patch embedding, before the final norm
NAMES = {"SAM": "sam2-small", "DINO": "dinov2-small"}  # term -> entry of the registry


@dataclass(frozen=True)
class FeatureDistance:
    """Mean absolute difference between the features of two pictures; no gradient reaches the second."""

    name: str
    features: Callable[[Tensor], Tensor]  # [1, 3, H, W], normalised

    def __call__(self, picture: Tensor, target: Tensor) -> Tensor:  # [H, W, 3] each
        with torch.no_grad():
            wanted = self.features(normalised(target))
        return (self.features(normalised(picture)) - wanted).abs().mean()


def normalised(picture: Tensor) -> Tensor:  # [H, W, 3] -> [1, 3, H, W]
    """Channels first, ImageNet mean and deviation."""
    mean, std = picture.new_tensor(MEAN), picture.new_tensor(STD)
    return ((picture - mean) / std).permute(2, 0, 1)[None]


def published_terms(device: torch.device) -> tuple[list[FeatureDistance], list[str]]:
    """The terms that this machine can compute, and the others with the commands that bring them.

    Raises WeightsError if a network that is here is damaged.
    """
    found, missing = [], []
    library = importlib.util.find_spec("transformers") is not None
    for name, entry in NAMES.items():
        if not library:
            missing.append(f"{name} (pip install -e '.[flex1]' -c constraints.txt)")
        elif weights.locate(entry) is None:
            missing.append(f"{name} ({weights.how_to_get(entry)})")
        else:
            make = sam_features if name == "SAM" else dino_features
            found.append(FeatureDistance(name, make(_network(entry).to(device))))
    return found, missing


def dino_features(network: Any) -> Callable[[Tensor], Tensor]:
    """Hidden states 5, 8 and 11 of all tokens, of the picture's centre in whole patches (512 -> 504)."""

    def features(picture: Tensor) -> Tensor:
        height, width = (side - side % DINO_PATCH for side in picture.shape[-2:])
        top, left = (picture.shape[-2] - height) // 2, (picture.shape[-1] - width) // 2
        centre = picture[..., top : top + height, left : left + width]
        states = network(pixel_values=centre, output_hidden_states=True).hidden_states
        return torch.stack([states[number] for number in DINO_STATES])

    return features


def sam_features(network: Any) -> Callable[[Tensor], Tensor]:
    """The final image embedding [1, 256, 64, 64], with the embedding of no memory added."""

    def features(picture: Tensor) -> Tensor:
        large = functional.interpolate(picture, (SAM_SIDE, SAM_SIDE), mode="bilinear", align_corners=False)
        maps = network.get_image_features(large, return_dict=True).fpn_hidden_states
        return maps[-1] + network.no_memory_embedding  # [64 * 64, 1, 256]

    return features


def _network(entry: str) -> Any:
    """The frozen network of a registry entry. Raises WeightsError."""
    from transformers import Dinov2Model, Sam2Model

    folder = weights.verify(entry)[0].path.parent
    return load_frozen(Sam2Model if entry == NAMES["SAM"] else Dinov2Model, folder, entry)
