"""What `model.yaml` may say: the network's widths and switches, and where its weights come from."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import yaml

from flexavatar_cli.core.errors import WeightsError

BlockKind = Literal["dw", "joint"]


@dataclass(frozen=True)
class TrunkConfig:
    """Image -> context tokens. `gpt` is SPEC 4 (patchify, causal blocks, feature fusion), `conv` is ours."""

    kind: Literal["conv", "gpt"] = "conv"
    image_size: int = 256
    channels: int = 9  # RGB, then Pluecker moment and direction
    widths: tuple[int, ...] = (32, 64, 128, 256)  # conv: one stride-2 stage each
    residual_blocks: tuple[int, ...] = (0, 0, 1, 1)  # conv: after each stage
    patch: int = 16  # gpt
    layers: int = 1  # gpt
    feature_dim: int = 0  # gpt: channels of the frozen image features fused in (DINOv2: 768), 0 = none


@dataclass(frozen=True)
class UvFeaturesConfig:
    """Pixel-aligned UV input; its first channels are base colour - 0.5 [3] and base displacement [1] (in units)."""

    channels: int = 24
    patch: int = 8


@dataclass(frozen=True)
class DetailConfig:
    """The linear skip path base maps -> A -> texels, initialised as a DCT and its inverse."""

    patch: int = 8
    color_order: int = 8  # kept DCT frequencies per axis, of `patch`
    smooth_order: int = 4  # the same for displacement and opacity

    @property
    def dims(self) -> int:
        """Code dimensions with an initial meaning."""
        return 3 * self.color_order**2 + 2 * self.smooth_order**2


@dataclass(frozen=True)
class DecoderConfig:
    """Avatar code and expression -> tokens h (SPEC 6)."""

    blocks: tuple[BlockKind, ...] = ("dw",) * 4
    expression_dim: int = 59
    expression_hidden: tuple[int, ...] = (256, 256)
    expression_tokens: int = 4
    sinks: int = 2  # 0 = 2-D monocular, 1 = 3-D multi-view
    input_norm: bool = True  # blocks work on a normalised copy of A
    positions: bool = True  # point embedding added to that copy
    condition_channels: int = 4  # uv_condition: change of normal [3] and log area [1]; 0 = none
    condition_patch: int = 4


@dataclass(frozen=True)
class UpsamplerConfig:
    """Tokens h -> feature map; `stylegan` is SPEC 7, `conv` is bilinear x2 + 3x3 convolution + LeakyReLU per stage."""

    kind: Literal["conv", "stylegan"] = "conv"
    widths: tuple[int, ...] = (64, 32)


@dataclass(frozen=True)
class GaussiansConfig:
    """Feature map -> Gaussian attributes (SPEC 8)."""

    anchor: Literal["rigged", "static"] = "rigged"
    resolution: int = 256
    sampling: Literal["texel_centres", "end_inclusive"] = "texel_centres"
    offset_range: float = 0.1  # metres, bound of the network's offset (rigged: of its normal part)
    tangent_range: float = 0.03  # metres, rigged only
    displacement_unit: float = 0.05  # metres per unit of the detail displacement, rigged only
    log_scale_range: tuple[float, float] = (-1.5, 1.0)  # rigged only
    scale_max: float = 0.01  # metres, static only
    opacity_start: float = 0.99  # opacity of a zero logit, rigged only


@dataclass(frozen=True)
class ModelConfig:
    """The whole network. Raises WeightsError where the parts cannot fit together."""

    width: int = 256
    heads: int = 4
    grid: int = 32
    code_norm: Literal["none", "layernorm"] = "none"
    trunk: TrunkConfig = TrunkConfig()
    encoder: tuple[BlockKind, ...] = ("dw", "joint", "dw", "joint")
    uv_features: UvFeaturesConfig | None = UvFeaturesConfig()
    detail: DetailConfig | None = DetailConfig()
    decoder: DecoderConfig = DecoderConfig()
    upsampler: UpsamplerConfig = UpsamplerConfig()
    gaussians: GaussiansConfig = GaussiansConfig()

    def __post_init__(self) -> None:
        resolution, detail, uv = self.gaussians.resolution, self.detail, self.uv_features
        wrong = {
            "width must be a multiple of heads": self.width % self.heads,
            "encoder and decoder need blocks": not (self.encoder and self.decoder.blocks),
            "trunk.widths and trunk.residual_blocks differ in length": (
                len(self.trunk.widths) != len(self.trunk.residual_blocks)
            ),
            "uv_features.patch * grid must be gaussians.resolution": uv and uv.patch * self.grid != resolution,
            "detail needs uv_features of 4 or more channels": detail and (uv is None or uv.channels < 4),
            "detail.patch * grid must be gaussians.resolution": detail and detail.patch * self.grid != resolution,
            "detail orders must be 1..patch": detail
            and not 1
            <= min(detail.color_order, detail.smooth_order)
            <= max(detail.color_order, detail.smooth_order)
            <= detail.patch,
            "width is too small for the detail orders": detail and detail.dims > self.width,
            "a stylegan upsampler needs width divisible by 4 per stage": (
                self.upsampler.kind == "stylegan" and self.width % 4 ** len(self.upsampler.widths)
            ),
            "detail needs the rigged anchor": detail and self.gaussians.anchor != "rigged",
            "detail needs code_norm none": detail and self.code_norm != "none",
        }
        for reason, found in wrong.items():
            if found:
                raise WeightsError(f"model.yaml: network: {reason}")

    @property
    def anchor(self) -> str:
        """`rigged` or `static`: how TexelAttributes are to be read."""
        return self.gaussians.anchor

    @classmethod
    def tiny(cls, resolution: int = 256) -> "ModelConfig":
        """The parts of open-1 at a width for tests: a decode takes a few milliseconds."""
        return cls(
            width=48,
            heads=2,
            grid=resolution // 16,
            trunk=TrunkConfig(image_size=64, widths=(8, 16, 32, 48), residual_blocks=(0, 0, 0, 1)),
            encoder=("dw", "joint"),
            uv_features=UvFeaturesConfig(patch=16),
            detail=DetailConfig(patch=16, color_order=3, smooth_order=2),
            decoder=DecoderConfig(blocks=("dw",), expression_hidden=(32,), condition_patch=8),
            upsampler=UpsamplerConfig(widths=(16, 16, 8)),
            gaussians=GaussiansConfig(resolution=resolution),
        )


@dataclass(frozen=True)
class WeightsFile:
    """One file beside `model.yaml`; `sha256` empty = not pinned, `url` empty = shipped."""

    file: str
    sha256: str = ""
    url: str = ""
    layout: Literal["native", "release"] = "native"  # release = the flat names of the published checkpoint (SPEC 3)


@dataclass(frozen=True)
class ModelCard:
    """All of `model.yaml`: the network, the files it needs, and where they come from."""

    name: str
    licence: str = ""
    origin: str = ""
    head_model: str = "open-head"
    head_digest: str = ""  # of the head the network was trained with; empty = any of that name
    expression_layout: Literal["arkit", "flame"] = "arkit"
    weights: WeightsFile = WeightsFile("weights.safetensors")
    template: WeightsFile | None = None  # OBJ of a static anchor; a rigged model carries its texels in its weights
    notes: dict[str, Any] = field(default_factory=dict)
    network: ModelConfig = ModelConfig()


T = TypeVar("T")


def from_mapping(kind: type[T], found: Any, where: str) -> T:
    """`found` as the dataclass `kind`. Raises WeightsError naming an unknown key or a value of the wrong type."""
    if not isinstance(found, Mapping):
        raise WeightsError(f"{where}: expected a mapping, not {found!r}")
    hints = get_type_hints(kind)
    known = {entry.name for entry in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(map(str, found)) - known)
    if unknown:
        raise WeightsError(f"{where}: unknown key {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    values = {name: _convert(hints[name], value, f"{where}.{name}") for name, value in found.items()}
    try:
        return kind(**values)
    except TypeError as error:
        raise WeightsError(f"{where}: {error}") from error


def _convert(hint: Any, value: Any, where: str) -> Any:
    arguments = get_args(hint)
    if type(None) in arguments:
        if value is None:
            return None
        hint = next(entry for entry in arguments if entry is not type(None))
        arguments = get_args(hint)
    if is_dataclass(hint):
        return from_mapping(hint, value, where)  # type: ignore[arg-type]
    if get_origin(hint) is Literal:
        if value in arguments:
            return value
        raise WeightsError(f"{where}: {value!r} is none of {', '.join(map(str, arguments))}")
    if get_origin(hint) is tuple and isinstance(value, list | tuple):
        return tuple(_convert(arguments[0], entry, f"{where}[{index}]") for index, entry in enumerate(value))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    plain = get_origin(hint) or hint
    if not isinstance(plain, type) or not isinstance(value, plain) or (isinstance(value, bool) and plain is not bool):
        raise WeightsError(f"{where}: {value!r} is not of type {getattr(plain, '__name__', plain)}")
    return value


def read_card(path: Path) -> ModelCard:
    """The model card in `path`. Raises WeightsError if it is missing, malformed or has unknown keys."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise WeightsError(f"{path}: not YAML ({str(error).splitlines()[0]})") from error
    return from_mapping(ModelCard, found, str(path))


def card_text(card: ModelCard) -> str:
    """YAML that `read_card` reads back to an equal card."""
    return yaml.safe_dump(_plain(asdict(card)), sort_keys=False, width=120, default_flow_style=None)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, tuple) else value
