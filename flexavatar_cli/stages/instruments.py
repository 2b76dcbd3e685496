"""The parts that every verb plays on: network, head model, device and rasteriser, loaded once and named in reports."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from flexavatar_cli import weights
from flexavatar_cli.core.errors import BackendError, WeightsError
from flexavatar_cli.core.files import digest_bytes
from flexavatar_cli.core.paths import models_dir
from flexavatar_cli.heads import HeadModel, load_head
from flexavatar_cli.heads.flame import FlameHead, load_flame
from flexavatar_cli.model import AvatarModel, load_model
from flexavatar_cli.render import pick_backend

log = logging.getLogger(__name__)

SINKS = {"2d": 0, "3d": 1}  # rows of the bias-sink embedding: monocular, multi-view (SPEC 6.2)


@dataclass(frozen=True)
class Instruments:
    """A network, the head model it was trained on, and where they run."""

    model: AvatarModel  # on `device`, frozen
    head: HeadModel  # on the CPU; with a static anchor only the tracker's
    device: torch.device
    backend: str  # of the rasteriser
    folder: Path = Path()  # of the model
    flame: FlameHead | None = None  # the user's, for models whose expressions are FLAME's, if there is one

    @property
    def static(self) -> bool:
        """Whether Gaussians start from a fixed surface instead of the posed head model."""
        return self.model.config.anchor == "static"

    @property
    def head_name(self) -> str:
        """Name of the surface that avatars of this model stand on."""
        return self.model.card.head_model if self.static else self.head.name

    @property
    def head_digest(self) -> str:
        """sha256 of that surface: of the head model, or of a static template, which no FLAME file can change."""
        if not self.static:
            return self.head.digest
        base = self.model.base_positions
        assert base is not None
        return digest_bytes(self.model.texel_index.cpu().numpy().tobytes(), base.cpu().numpy().tobytes())

    @property
    def digests(self) -> dict[str, str]:
        """What decides results besides the inputs: digests of weights and head, the device and the rasteriser."""
        return {
            "model": self.model.digest,
            "head_model": self.head_digest,
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
            "head_model": f"{self.head_name} {self.head_digest[:12]}",
        }


def load_instruments(model: str, device: str = "auto") -> Instruments:
    """Network and head model of `--model`, on `--device`. Raises WeightsError or BackendError."""
    chosen = pick_device(device)
    folder = model_folder(model)
    network = load_model(folder, pulled=weights.model_cache() / folder.name)
    card = network.card
    flame = None
    if card.expression_layout == "flame":
        head, flame = load_head(), installed_flame()
    else:
        head = load_head(models_dir() / card.head_model)
    if card.head_digest and card.head_digest != head.digest:
        raise WeightsError(
            f"{model}: trained on {card.head_model} {card.head_digest[:12]}, the one installed is {head.digest[:12]}"
        )
    network.requires_grad_(False)
    return Instruments(network.to(chosen).eval(), head, chosen, pick_backend(chosen), folder, flame)


def installed_flame() -> FlameHead | None:
    """The user's FLAME head, if `flexavatar models add flame` was run. Raises WeightsError if it is damaged."""
    path = weights.model_cache() / "flame" / weights.FLAME_FILE
    return load_flame(path) if path.is_file() else None


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
    """The device called auto, cpu, cuda or cuda:N. Raises BackendError if this machine lacks it.

    "auto" is the GPU if pictures can be drawn there, else the CPU.
    """
    if name == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        try:
            pick_backend("cuda")
        except BackendError as error:
            log.warning("working on the CPU instead of the GPU: %s", error)
            return torch.device("cpu")
        return torch.device("cuda")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise BackendError(f"--device {name}: not one of auto, cpu, cuda, cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise BackendError(f"--device {name}: not one of auto, cpu, cuda, cuda:N")
    if device.type == "cuda" and (device.index or 0) >= (torch.cuda.device_count() if torch.cuda.is_available() else 0):
        raise BackendError(f"--device {name}: no such CUDA device on this machine; use --device cpu")
    return device
