"""The parts that every verb plays on: network, head model, device and rasteriser, loaded once and named in reports."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from flexavatar_cli.core.errors import BackendError, WeightsError
from flexavatar_cli.core.paths import models_dir
from flexavatar_cli.heads import HeadModel, load_head
from flexavatar_cli.model import AvatarModel, load_model
from flexavatar_cli.render import pick_backend

SINKS = {"2d": 0, "3d": 1}  # rows of the bias-sink embedding: monocular, multi-view (SPEC 6.2)


@dataclass(frozen=True)
class Instruments:
    """A network, the head model it was trained on, and where they run."""

    model: AvatarModel  # on `device`, frozen
    head: HeadModel  # on the CPU
    device: torch.device
    backend: str  # of the rasteriser
    folder: Path = Path()  # of the model

    @property
    def digests(self) -> dict[str, str]:
        """What decides results besides the inputs: digests of weights and head, the device and the rasteriser."""
        return {
            "model": self.model.digest,
            "head_model": self.head.digest,
            "device": self.device.type,
            "backend": self.backend,
        }

    def describe(self) -> dict[str, Any]:
        """The parts in words, for the `--json` result."""
        card = self.model.card
        status = card.notes.get("status", "trained")
        return {
            "backend": self.backend,
            "device": str(self.device),
            "weights": f"{card.name} {self.model.digest[:12]} ({status})",
            "head_model": f"{self.head.name} {self.head.digest[:12]}",
        }


def load_instruments(model: str, device: str = "auto") -> Instruments:
    """Network and head model of `--model`, on `--device`. Raises WeightsError or BackendError."""
    chosen = pick_device(device)
    network = load_model(model_folder(model))
    card = network.card
    head = load_head(models_dir() / card.head_model)
    if card.head_digest and card.head_digest != head.digest:
        raise WeightsError(
            f"{model}: trained on {card.head_model} {card.head_digest[:12]}, the one installed is {head.digest[:12]}"
        )
    network.requires_grad_(False)
    return Instruments(network.to(chosen).eval(), head, chosen, pick_backend(chosen), model_folder(model))


def model_folder(name: str) -> Path:
    """The folder of a shipped or pulled model, or the folder given. Raises WeightsError."""
    known = models_dir() / name
    folder = known if known.is_dir() and name not in ("", ".", "..") else Path(name)
    if not folder.is_dir():
        found = sorted(path.parent.name for path in models_dir().glob("*/model.yaml"))
        raise WeightsError(f"--model {name}: no such model; there are {', '.join(found) or 'none'}, or give a folder")
    if not (folder / "model.yaml").is_file():
        raise WeightsError(f"--model {name}: {folder} holds no model.yaml")
    return folder


def pick_device(name: str) -> torch.device:
    """The device called auto, cpu, cuda or cuda:N. Raises BackendError if this machine lacks it."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise BackendError(f"--device {name}: not one of auto, cpu, cuda, cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise BackendError(f"--device {name}: not one of auto, cpu, cuda, cuda:N")
    if device.type == "cuda" and (device.index or 0) >= (torch.cuda.device_count() if torch.cuda.is_available() else 0):
        raise BackendError(f"--device {name}: no such CUDA device on this machine; use --device cpu")
    return device
