"""Playback: one avatar's Gaussians as a low-rank function of the expression code, without running the network.

For one avatar the decoder's output moves in few ways. A basis of those (principal components over sampled expressions,
each attribute in units of what can be seen) is scaled by coefficients that kernel ridge regression predicts from the
expression. Its kernel compares expressions as the decoder's first layers see them, which are small and kept as they
are; what is left out is the transformer and everything behind it. Over 253 sampled expressions this left half the
error that kernels of the plain code left, and a third of the linear one's. The rig itself is evaluated as always.
"""

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save
from torch import Tensor, nn

from flexavatar_cli.core.attributes import TexelAttributes
from flexavatar_cli.core.avatar import PLAYBACK_HEADER, Avatar, parse_safetensors
from flexavatar_cli.core.errors import InputError, UsageError
from flexavatar_cli.core.expression import ARKIT_NAMES, EXPRESSION_NAMES, INDEX
from flexavatar_cli.core.files import replacing
from flexavatar_cli.core.options import PlaybackOptions
from flexavatar_cli.stages import motion, trajectories
from flexavatar_cli.stages.animation import CHUNK, Puppet, picture
from flexavatar_cli.stages.workfolder import program_digest

log = logging.getLogger(__name__)

FORMAT_VERSION = 1
SUFFIX = ".playback.safetensors"
LARGEST_FILE = 1 << 28  # bytes
MOST_SAMPLES, MOST_RANK, MOST_TEXELS, MOST_UNITS = 4096, 256, 1 << 20, 1 << 13  # of a file that is believed

CHANNELS = {"color": 3, "offset": 3, "opacity": 1, "scale": 3, "rotation": 4}  # scale as its logarithm
# What counts as one step, about what changes an 8-bit pixel by one: 0.3 mm is 0.4 pixels at 512.
UNITS = {"color": 1 / 255, "offset": 3e-4, "opacity": 0.01, "scale": 0.02, "rotation": 0.02}
STILL = 0.1  # units; a texel's attribute that deviates less (root mean square) is constant
RANKS = (8, 12, 16, 24, 32, 48)
RIDGE = 1e-5  # of the kernel's diagonal, which is 1

OnStep = Callable[[int, int], None]


@dataclass(frozen=True)
class Field:
    """One attribute of N texels with C channels: its mean, and how n of them move along r directions."""

    mean: Tensor  # [N, C] float32
    moving: Tensor  # [n] int64, ascending
    basis: Tensor  # [r, n * C] float32, a coefficient of 1 is one standard deviation

    def values(self, coefficients: Tensor) -> Tensor:  # [T, r] -> [T, N, C]
        """The attribute for T expressions."""
        count, channels = self.mean.shape
        if len(self.moving) == 0:
            return self.mean.expand(len(coefficients), -1, -1)
        resting = self.mean if len(self.moving) == count else self.mean[self.moving]
        moved = torch.addmm(resting.reshape(1, -1), coefficients, self.basis)
        moved = moved.unflatten(1, (len(self.moving), channels))
        if len(self.moving) == count:
            return moved
        return self.mean.repeat(len(coefficients), 1, 1).index_copy_(1, self.moving, moved)


@dataclass(frozen=True)
class Playback:
    """What replaces the network for one avatar."""

    avatar: str  # digest of the avatar
    expression_names: tuple[str, ...]
    fields: Mapping[str, Field]  # by attribute, see CHANNELS
    layers: tuple[tuple[Tensor, Tensor], ...]  # weight [out, in], bias [out]: expression code -> tokens, ReLU between
    support: Tensor  # [S, E] the sampled expressions
    weights: Tensor  # [S + 1, r]: of the kernel, then the constant
    length: float  # of the kernel, in the tokens' units
    notes: Mapping[str, Any] = field(default_factory=dict)  # JSON values: rank, measured error, seconds

    @property
    def rank(self) -> int:
        """How many directions there are."""
        return self.weights.shape[1]

    @cached_property
    def support_tokens(self) -> Tensor:  # [S, U]
        """The sampled expressions as the decoder sees them."""
        return self.tokens(self.support)

    def tokens(self, expressions: Tensor) -> Tensor:  # [T, E] -> [T, U]
        """The decoder's first layers."""
        x = expressions
        for number, (weight, bias) in enumerate(self.layers):
            x = nn.functional.linear(x.relu() if number else x, weight, bias)
        return x

    def coefficients(self, expressions: Tensor) -> Tensor:  # [T, E] -> [T, r]
        """Where the expressions lie along the directions, in standard deviations of the samples."""
        near = kernel(self.tokens(expressions), self.support_tokens, self.length)
        return near @ self.weights[:-1] + self.weights[-1]

    def attributes(self, expressions: Tensor) -> TexelAttributes:  # [T, E] -> [T, N, ...]
        """What the decoder would say for T expressions."""
        coefficients = self.coefficients(expressions)
        values = {name: part.values(coefficients) for name, part in self.fields.items()}
        if len(self.fields["scale"].moving):
            values["scale"] = values["scale"].exp()
        else:
            values["scale"] = self.fields["scale"].mean.exp().expand_as(values["scale"])
        return TexelAttributes(**(values | {"opacity": values["opacity"][..., 0]}))

    def truncated(self, rank: int) -> "Playback":
        """With the first directions only."""
        fields = {name: replace(part, basis=part.basis[:rank]) for name, part in self.fields.items()}
        return replace(self, fields=fields, weights=self.weights[:, :rank])

    def to(self, device: torch.device) -> "Playback":
        """The same on `device`."""
        fields = {
            name: Field(part.mean.to(device), part.moving.to(device), part.basis.to(device))
            for name, part in self.fields.items()
        }
        layers = tuple((weight.to(device), bias.to(device)) for weight, bias in self.layers)
        support, weights = self.support.to(device), self.weights.to(device)
        return replace(self, fields=fields, layers=layers, support=support, weights=weights)

    def require(self, avatar: Avatar, texels: int) -> "Playback":
        """Itself. Raises InputError if it was made of another avatar or does not fit the model's texels."""
        if self.avatar != avatar.digest or self.expression_names != avatar.expression_names:
            raise InputError(f"the playback file is of another avatar ({self.avatar[:12]}, not {avatar.digest[:12]})")
        if len(self.fields["color"].mean) != texels:
            raise InputError(f"the playback file has {len(self.fields['color'].mean)} texels, the model {texels}")
        return self

    def save(self, path: Path) -> Path:
        """Write beside and rename: means, basis and layers as float16, the regression as float32."""
        arrays = {"support": self.support.numpy(), "weights": self.weights.numpy()}
        for name, part in self.fields.items():
            arrays[f"mean.{name}"] = part.mean.half().numpy()
            arrays[f"moving.{name}"] = part.moving.int().numpy()
            arrays[f"basis.{name}"] = part.basis.half().numpy()
        for number, (weight, bias) in enumerate(self.layers):
            arrays[f"layer.{number}.weight"], arrays[f"layer.{number}.bias"] = (
                weight.half().numpy(),
                bias.half().numpy(),
            )
        header = {"format_version": FORMAT_VERSION, "avatar": self.avatar, "length": self.length}
        header |= {"expression_names": list(self.expression_names), "notes": dict(self.notes)}
        content = save(
            {name: np.ascontiguousarray(array) for name, array in arrays.items()},
            metadata={PLAYBACK_HEADER: json.dumps(header, sort_keys=True, allow_nan=False)},
        )
        with replacing(path) as temporary:
            temporary.write_bytes(content)
        return Path(path)

    @staticmethod
    def load(path: Path) -> "Playback":
        """Read a file and check all of it. Raises InputError."""
        path = Path(path)
        try:
            if path.stat().st_size > LARGEST_FILE:
                raise InputError(f"{path}: not a playback file (too large)")
            header, arrays = parse_safetensors(path.read_bytes(), PLAYBACK_HEADER)
            return _from_parts(json.loads(header), arrays)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            detail = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise InputError(f"{path}: not a playback file ({detail}); remove it to have it made again") from error


def _from_parts(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> Playback:
    """Raises ValueError, KeyError or TypeError on what does not fit."""
    if header["format_version"] != FORMAT_VERSION:
        raise ValueError(f"format version {header['format_version']}, this program reads {FORMAT_VERSION}")
    names, length = tuple(header["expression_names"]), float(header["length"])
    if not isinstance(header["avatar"], str) or not all(isinstance(name, str) for name in names):
        raise ValueError("header with a name that is no text")
    samples, rank = arrays["weights"].shape[0] - 1, arrays["weights"].shape[1]
    count = len(arrays["mean.color"])
    if not (0 < samples <= MOST_SAMPLES and 0 < rank <= MOST_RANK and 0 < count <= MOST_TEXELS and length > 0):
        raise ValueError(f"{samples} samples, rank {rank}, {count} texels, length {length}")
    fields = {}
    for name, channels in CHANNELS.items():
        moving = _checked(arrays, f"moving.{name}", np.int32, None)
        if (np.diff(moving) <= 0).any() or (len(moving) and not 0 <= moving[0] <= moving[-1] < count):
            raise ValueError(f"moving.{name} points outside the texels")
        mean = _checked(arrays, f"mean.{name}", np.float16, (count, channels))
        basis = _checked(arrays, f"basis.{name}", np.float16, (rank, len(moving) * channels))
        fields[name] = Field(_float(mean), torch.from_numpy(moving.astype(np.int64)), _float(basis))
    layers: list[tuple[Tensor, Tensor]] = []
    width = len(names)
    while f"layer.{len(layers)}.weight" in arrays:
        units = len(arrays[f"layer.{len(layers)}.bias"])
        if units > MOST_UNITS:
            raise ValueError(f"a layer of {units}")
        weight = _checked(arrays, f"layer.{len(layers)}.weight", np.float16, (units, width))
        bias = _checked(arrays, f"layer.{len(layers)}.bias", np.float16, (units,))
        layers.append((_float(weight), _float(bias)))
        width = units
    support = _checked(arrays, "support", np.float32, (samples, len(names)))
    weights = _checked(arrays, "weights", np.float32, (samples + 1, rank))
    regression = _float(support), _float(weights), length
    return Playback(header["avatar"], names, fields, tuple(layers), *regression, dict(header["notes"]))


def _checked(arrays: dict[str, np.ndarray], name: str, kind: type, shape: tuple[int, ...] | None) -> np.ndarray:
    array = arrays[name]
    if array.dtype != kind or (array.ndim != 1 if shape is None else array.shape != shape):
        raise ValueError(f"{name} is {array.dtype} {array.shape}, not {np.dtype(kind)} {shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} has values that are not finite")
    return array


def _float(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(np.float32))


def kernel(first: Tensor, second: Tensor, length: float) -> Tensor:  # [T, U], [S, U] -> [T, S]
    """How alike token vectors are, 1 = the same: a Gaussian of their distance."""
    return torch.exp(-0.5 * (torch.cdist(first, second) / length) ** 2)


def playback_file(avatar: Path) -> Path:
    """Where the playback of an avatar file is kept: beside it."""
    return avatar.with_name(avatar.stem + SUFFIX)


def playing(figure: Puppet, playback: Playback) -> Puppet:
    """The puppet with the network replaced."""
    return replace(figure, decode=playback.to(figure.instruments.device).attributes)


def find_or_build(
    avatar: Avatar,
    path: Path,  # of the playback file
    figure: Puppet,
    options: PlaybackOptions = PlaybackOptions(),
    on_step: OnStep | None = None,
) -> Playback:
    """The playback in the file, if it is this avatar's and this program's; else it is built and written there.

    Raises InputError if the file is damaged or no playback, UsageError if the avatar's expressions are not ARKit's.
    """
    texels = len(figure.instruments.model.texel_index)
    if path.exists():
        found = Playback.load(path)
        if found.avatar == avatar.digest and found.notes.get("program") == program_digest():
            return found.require(avatar, texels)
        log.warning("%s: made of another avatar or by another version of this program, built anew", path)
    built = build(avatar, figure, options, on_step)
    try:
        built.save(path)
    except InputError as error:
        log.warning("%s; the playback is used but not kept", error)
    return built


def build(
    avatar: Avatar,
    figure: Puppet,  # on its network
    options: PlaybackOptions = PlaybackOptions(),
    on_step: OnStep | None = None,
) -> Playback:
    """The playback of lowest rank whose pictures of held-out speech are within `options.error`, or the best one.

    Raises UsageError if the avatar's expressions are not ARKit's.
    """
    if not set(avatar.expression_names) <= set(EXPRESSION_NAMES):
        raise UsageError("playback needs an avatar whose expressions are ARKit's; render it without --fast")
    start = time.monotonic()
    held_out = motion.recoded(speech(options.held_out), EXPRESSION_NAMES, avatar.expression_names)
    samples = sample_expressions(options.samples, options.seed)
    samples = motion.recoded(samples, EXPRESSION_NAMES, avatar.expression_names)
    decoded = decode(figure, samples, on_step)
    whole = regress(decompose(decoded, units(figure)), figure, avatar, torch.from_numpy(samples))
    del decoded
    pictures = film(figure, held_out, options.size)
    ranks = [rank for rank in RANKS if rank < whole.rank] + [whole.rank]
    tried: list[dict[str, float]] = []
    for rank in ranks:
        tried.append(
            {
                "rank": rank,
                **image_error(film(playing(figure, whole.truncated(rank)), held_out, options.size), pictures),
            }
        )
        if tried[-1]["head"] <= options.error:
            break
    best = min(tried, key=lambda entry: entry["head"])
    notes = {"rank": best["rank"], "mean_abs_255": best["head"], "whole_picture_255": best["whole"], "tried": tried}
    notes |= {"seconds": round(time.monotonic() - start, 1), "options": asdict(options)}
    notes["program"] = program_digest()
    log.info("playback of rank %d, mean error %.2f/255 on the head", best["rank"], best["head"])
    return replace(whole.truncated(int(best["rank"])), notes=notes)


def sample_expressions(count: int, seed: int) -> np.ndarray:  # [count, 59]
    """Expressions of all kinds: neutral, each ARKit shape alone, random mixes of few, half of them symmetric."""
    random = np.random.default_rng(seed)
    code = np.zeros((max(count, 1 + len(ARKIT_NAMES)), len(EXPRESSION_NAMES)), np.float32)
    code[1 : 1 + len(ARKIT_NAMES), : len(ARKIT_NAMES)] = np.eye(len(ARKIT_NAMES))
    mixes = code[1 + len(ARKIT_NAMES) :]
    pairs = [(INDEX[name], INDEX[name[:-4] + "Right"]) for name in ARKIT_NAMES if name.endswith("Left")]
    alone = [(INDEX[name],) for name in ARKIT_NAMES if not name.endswith(("Left", "Right"))]
    single: list[tuple[int, ...]] = [(column,) for column in range(len(ARKIT_NAMES))]
    for number, row in enumerate(mixes):
        groups: list[tuple[int, ...]] = single if number % 2 else [*pairs, *alone]
        for choice in random.choice(len(groups), random.integers(2, 10), replace=False):
            row[list(groups[choice])] = random.uniform() ** 2
        yaw, pitch = random.normal(scale=0.2, size=2)
        for side in ("Left", "Right"):
            row[[INDEX[f"gaze{side}Yaw"], INDEX[f"gaze{side}Pitch"]]] = yaw, pitch
    mixes[:] = motion.with_lids(mixes)
    return code


def speech(count: int) -> np.ndarray:  # [count, 59]
    """Frames of the built-in motion, which the samples do not hold: half while it speaks, half from all of it."""
    first, last = motion.TALK[0][0], motion.TALK[-1][0]
    talking = np.linspace(first, last, count - count // 2 + 2)[1:-1]
    return motion.demo_expression(np.concatenate([talking, np.linspace(0, motion.DEMO_SECONDS, count // 2 + 2)[1:-1]]))


@torch.inference_mode()
def decode(figure: Puppet, expressions: np.ndarray, on_step: OnStep | None = None) -> dict[str, Tensor]:
    """The network's attributes [S, N, C] as float16, by name; scale as its logarithm."""
    made: dict[str, Tensor] = {}
    for start in range(0, len(expressions), CHUNK):
        batch = torch.from_numpy(expressions[start : start + CHUNK]).to(figure.instruments.device)
        attributes = figure.decoded(batch)
        for name, channels in CHANNELS.items():
            values = getattr(attributes, name).reshape(len(batch), -1, channels)
            values = values.log() if name == "scale" else values
            if name not in made:
                made[name] = torch.empty((len(expressions), *values.shape[1:]), dtype=torch.float16)
            made[name][start : start + len(batch)] = values.cpu()
        if on_step is not None:
            on_step(min(start + CHUNK, len(expressions)), len(expressions))
    return made


def units(figure: Puppet) -> dict[str, Tensor]:
    """UNITS per texel [N or 1, 1]; an offset counts as far as the rig lets it move its texel."""
    result = {name: torch.full((1, 1), unit) for name, unit in UNITS.items()}
    if figure.anchor is not None:
        result["offset"] = UNITS["offset"] / figure.anchor.reach.cpu()
    return result


@torch.inference_mode()
def decompose(
    decoded: dict[str, Tensor],  # [S, N, C] by name
    unit: dict[str, Tensor],  # [N or 1, 1]
    block: int = 4096,  # texels at a time
) -> tuple[dict[str, Field], Tensor]:
    """Principal components of all attributes together, in units: fields of full rank, coefficients [S, r]."""
    samples = len(next(iter(decoded.values())))
    gram = torch.zeros(samples, samples, dtype=torch.float64)
    means, moving = {}, {}
    for name, values in decoded.items():
        means[name] = torch.cat([part.float().mean(0) for part in values.split(block, 1)])
        pairs = zip(values.split(block, 1), means[name].split(block), strict=True)
        spread = torch.cat([(part.float() - mean).square().mean(0).sqrt().amax(-1) for part, mean in pairs])
        moving[name] = torch.nonzero(spread / unit[name][:, 0] > STILL)[:, 0]
        for index in moving[name].split(block):
            off = _deviation(values, means[name], unit[name], index)
            gram += off @ off.T
    variance, vectors = torch.linalg.eigh(gram)
    rank = min(RANKS[-1], max(1, int((variance > 1e-9 * variance[-1].clamp_min(1e-30)).sum())))
    variance, vectors = variance.flip(0)[:rank].clamp_min(1e-30), vectors.flip(1)[:, :rank]
    coefficients = vectors * samples**0.5  # one standard deviation = 1
    back = (vectors / samples**0.5).T.float()
    fields = {}
    for name, values in decoded.items():
        parts = [back @ _deviation(values, means[name], unit[name], index) for index in moving[name].split(block)]
        step = (unit[name].expand(values.shape[1], values.shape[2]))[moving[name]].reshape(1, -1)
        fields[name] = Field(means[name].half().float(), moving[name], (torch.cat(parts, 1) * step).half().float())
    return fields, coefficients


def _deviation(values: Tensor, mean: Tensor, unit: Tensor, index: Tensor) -> Tensor:  # [S, n * C]
    """Deviations of the texels `index` from the mean, in units."""
    step = unit if len(unit) == 1 else unit[index]
    return ((values[:, index].float() - mean[index]) / step).flatten(1)


@torch.inference_mode()
def regress(
    parts: tuple[dict[str, Field], Tensor],  # of `decompose`
    figure: Puppet,
    avatar: Avatar,
    samples: Tensor,  # [S, E]
) -> Playback:
    """Kernel ridge regression of the coefficients on the expressions' tokens, in closed form."""
    fields, coefficients = parts
    linear = [layer for layer in figure.instruments.model.decoder.expression if isinstance(layer, nn.Linear)]
    layers = tuple((layer.weight.cpu().half().float(), layer.bias.cpu().half().float()) for layer in linear)
    names = avatar.expression_names
    blank = Playback(avatar.digest, names, fields, layers, samples, coefficients.new_zeros(len(samples) + 1, 1), 1.0)
    tokens = blank.tokens(samples)
    length = max(float(torch.cdist(tokens, tokens).median()), 1e-6)
    near = kernel(tokens, tokens, length).double() + RIDGE * torch.eye(len(samples), dtype=torch.float64)
    constant = coefficients.mean(0, keepdim=True)
    weights = torch.cat([torch.linalg.solve(near, coefficients - constant), constant]).float()
    return replace(blank, weights=weights, length=length)


def film(figure: Puppet, expressions: np.ndarray, size: int) -> list[np.ndarray]:  # [T, E] -> T x [H, W, 4]
    """Transparent pictures from the front."""
    camera = trajectories.front(1, size)
    backend = figure.instruments.backend
    return [picture(head, camera, None, backend) for head in figure.gaussians(expressions)]


def image_error(ours: list[np.ndarray], theirs: list[np.ndarray]) -> dict[str, float]:
    """Mean absolute difference on white in steps of 1/255: over the head's pixels, and over the whole picture."""
    total, covered, pixels = 0.0, 0.0, 0
    for a, b in zip(ours, theirs, strict=True):
        seen = np.maximum(a[..., 3], b[..., 3]) > 0.5
        off = np.abs(_on_white(a) - _on_white(b)).mean(-1)
        total, covered, pixels = total + float(off.sum()), covered + float(seen.sum()), pixels + off.size
    return {"head": round(255 * total / max(covered, 1), 4), "whole": round(255 * total / pixels, 4)}


def _on_white(image: np.ndarray) -> np.ndarray:
    return image[..., :3] * image[..., 3:] + 1 - image[..., 3:]
