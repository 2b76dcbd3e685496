"""`train.yaml`: what to train, on what, for how long."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from flexavatar_cli.core.errors import InputError, UsageError, WeightsError
from flexavatar_cli.model.config import ModelCard, from_mapping, read_card


@dataclass(frozen=True)
class Phase:
    """One stretch of training. Raises UsageError unless it ends after `steps` or after `minutes`, not both."""

    resolution: int  # of the texels; 128 trains four times as fast as 256
    batch: int  # samples of one step, over all processes
    rate: float  # peak learning rate
    steps: int = 0
    minutes: float = 0.0  # of wall clock, for a machine that is lent for a while; such a run cannot be repeated
    kind: Literal["uv", "rendered"] = "uv"  # compare texels, or texels and pictures
    views: int = 2  # rendered: pictures of each synthetic or recorded head
    monocular_share: float = 0.15  # of the samples, where portraits were prepared
    recording_share: float = 0.3  # of the samples, where calibrated recordings were

    def __post_init__(self) -> None:
        if bool(self.steps) == bool(self.minutes):
            raise UsageError("a phase needs either steps or minutes")


@dataclass(frozen=True)
class TrainConfig:
    """The whole run."""

    model: str  # folder of the model.yaml with the network
    phases: tuple[Phase, ...]
    seed: int = 0
    initial: str = ""  # a model folder whose weights a new run starts from; "" = random ones
    network: dict[str, Any] | None = None  # what differs from that model.yaml's `network`
    sinks: Literal["domain", "none", "side"] = "domain"  # one per kind of data, one for all, one per camera side
    expression_names: tuple[str, ...] = ()  # of the tracked code that the decoder is told, in this order; () = all
    multi_view_share: float = 1.0  # of the synthetic heads; the others are seen by one camera, like portraits
    guarded_portraits: bool = True  # teach their seen texels, and no more; else by pictures alone, as in the paper
    hint_dropout: float = 0.1  # samples whose hull hint is flattened, so that length is not copied blindly
    uv_weight: float = 0.5  # of the texel losses in a rendered phase: they keep what the pictures do not show
    perceptual_weight: float = 0.15  # of LPIPS in a rendered phase, where its network is given
    skip_rate: float = 0.1  # learning rate of the skip path, relative: it starts as the right answer
    weight_decay: float = 0.03
    warmup: int = 60  # steps at the start of each phase
    accumulate: int = 1  # parts that a batch is cut into, where it does not fit into memory
    strategy: Literal["ddp", "fsdp"] = "ddp"  # of several processes: a whole network in each, or a piece
    bfloat16: bool = False  # the network's arithmetic; posing, pictures and losses stay float32
    checkpoint_minutes: float = 3.0
    preview_steps: int = 0  # a picture sheet every so many steps; 0 = none


def read_config(path: Path) -> TrainConfig:
    """The training configuration in `path`. Raises InputError, or UsageError naming what is wrong.

    `base: other.yaml` takes everything from another file beside it and replaces what this one says.
    """
    try:
        return from_mapping(TrainConfig, _found(path), str(path))
    except WeightsError as error:
        raise UsageError(f"not a training configuration: {error}") from error


def _found(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not YAML ({str(error).splitlines()[0]})") from error
    if not isinstance(found, dict):
        raise UsageError(f"{path}: not a training configuration (a mapping is expected)")
    base = found.pop("base", None)
    return found if base is None else _found(path.parent / base) | found


def is_for_matting(path: Path) -> bool:
    """Whether `path` configures the matting net. Raises InputError or UsageError as `read_config` does."""
    return _found(path).get("kind") == "matting"


def network_card(config: TrainConfig) -> ModelCard:
    """The card of the network to train. Raises WeightsError where `network` does not fit it."""
    card = read_card(Path(config.model) / "model.yaml")
    if not config.network:
        return card
    plain = {name: value for name, value in asdict(card).items() if name != "network"}
    plain["network"] = merged(asdict(card.network), config.network)
    return from_mapping(ModelCard, plain, config.model)


def merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`under` with the values of `over`, mapping by mapping."""
    both = {name: merged(under[name], value) for name, value in over.items()
            if isinstance(value, dict) and isinstance(under.get(name), dict)}  # fmt: skip
    return under | over | both
