"""An avatar moved and filmed: expression codes to Gaussians to pictures."""

import logging
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from flexavatar_cli.core.ahead import ahead
from flexavatar_cli.core.attributes import TexelAttributes
from flexavatar_cli.core.avatar import Avatar
from flexavatar_cli.core.camera import Camera
from flexavatar_cli.core.errors import UsageError
from flexavatar_cli.core.flame import neutral_code
from flexavatar_cli.core.gaussians import Gaussians
from flexavatar_cli.core.track import Track, name_frames
from flexavatar_cli.render import render_frames
from flexavatar_cli.stages import motion as motions
from flexavatar_cli.stages.eyelids import with_lids_closed
from flexavatar_cli.stages.instruments import SINKS, Instruments
from flexavatar_cli.stages.posing import Pose, pose_of
from flexavatar_cli.stages.rig import RigAnchor, rig_anchor, rigged_heads, settled

log = logging.getLogger(__name__)

# Expressions decoded and drawn together: shares what does not depend on them and keeps memory small. On a GPU a batch
# is a handful of launches and one wait, so more go together.
CHUNK, GPU_CHUNK = 4, 8
COLOURS = {"white": (1.0, 1.0, 1.0), "black": (0.0, 0.0, 0.0)}


@dataclass(frozen=True)
class Puppet:
    """An avatar on the network and head it was made with, ready to be moved."""

    instruments: Instruments
    anchor: RigAnchor | None  # None for a static template surface
    code: Tensor  # [L, D]
    identity: Tensor  # [K]
    sink: int
    expression_names: tuple[str, ...]
    quick: Pose | None = None  # the anchor's tables for pictures without gradients, on a CPU
    decode: Callable[[Tensor], TexelAttributes] | None = None  # in place of the network, [T, E] -> [T, N, ...]

    @property
    def neutral(self) -> np.ndarray:  # [E] float32
        """The avatar's resting face: all shapes at zero, eyes straight ahead."""
        if self.instruments.model.card.expression_layout == "flame":
            return neutral_code()
        return np.zeros(len(self.expression_names), np.float32)

    @property
    def chunk(self) -> int:
        """How many expressions go together on its device."""
        return CHUNK if self.instruments.device.type == "cpu" else GPU_CHUNK

    def batches(self, expressions: np.ndarray) -> Generator[list[Gaussians], None, None]:  # [T, E]
        """The head with each of T expressions, in order, `chunk` at a time."""
        for start in range(0, len(expressions), self.chunk):
            batch = torch.from_numpy(np.ascontiguousarray(expressions[start : start + self.chunk], np.float32))
            batch = batch.to(self.instruments.device)
            with torch.inference_mode():
                heads = self.heads(self.attributes(batch), batch)
            yield heads

    def gaussians(self, expressions: np.ndarray) -> Generator[Gaussians, None, None]:  # [T, E]
        """The head with each of T expressions, in order."""
        for heads in self.batches(expressions):
            yield from heads

    def attributes(self, expressions: Tensor) -> TexelAttributes:  # [T, E] -> [T, N, ...]
        """What T expressions put on the surface."""
        found = self.decoded(expressions) if self.decode is None else self.decode(expressions)
        return found if self.anchor is None else with_lids_closed(self.anchor.lids, found, expressions)

    def decoded(self, expressions: Tensor) -> TexelAttributes:  # [T, E] -> [T, N, ...]
        """Decoder output for T expressions, settled but with lids as if open."""
        decoded = self.instruments.model.decode_expressions(self.code, expressions, self.sink, chunk=self.chunk)
        return decoded if self.anchor is None else settled(self.anchor, decoded, expressions)

    def heads(self, attributes: TexelAttributes, expressions: Tensor) -> list[Gaussians]:  # of T, [T, E]
        """Attributes on the posed surface, or on the static template, for T expressions."""
        if self.quick is not None:
            each = ({name: value[at] for name, value in vars(attributes).items()} for at in range(len(attributes)))
            return [self.quick.gaussians(row, **one) for row, one in zip(expressions, each, strict=True)]
        if self.anchor is not None:
            return rigged_heads(self.anchor, attributes, self.identity, expressions)
        base = self.instruments.model.base_positions
        assert base is not None
        moved = replace(attributes, offset=base + attributes.offset)
        fields = (moved.offset, moved.rotation, moved.scale, moved.opacity, moved.color)
        return [Gaussians(*one) for one in zip(*(field.unbind(0) for field in fields), strict=True)]

    def pose(self, attributes: TexelAttributes, expression: Tensor) -> Gaussians:  # of one, [E]
        """`heads` of one expression."""
        return self.heads(attributes, expression[None])[0]


def puppet(avatar: Avatar, instruments: Instruments) -> Puppet:
    """The avatar on its instruments. Raises WeightsError if it was made with others."""
    avatar.require(instruments.model.digest, instruments.head_digest)
    device = instruments.device
    model = instruments.model
    rigged = model.config.anchor == "rigged"
    anchor = rig_anchor(instruments.head, model.resolution, device) if rigged else None
    identity = torch.from_numpy(avatar.identity.copy()).to(device)
    return Puppet(
        instruments,
        anchor,
        torch.from_numpy(avatar.avatar_code.copy()).to(device),
        identity,
        SINKS[avatar.bias_sink],
        avatar.expression_names,
        pose_of(anchor, identity) if anchor is not None and device.type == "cpu" else None,
    )


def gaussians(avatar: Avatar, instruments: Instruments, expression: np.ndarray | None = None) -> Gaussians:  # [E]
    """The head with one expression (None = neutral)."""
    figure = puppet(avatar, instruments)
    code = figure.neutral if expression is None else expression
    return next(figure.gaussians(code[None]))


def parse_background(name: str) -> tuple[float, float, float] | None:
    """RGB of white, black or #rrggbb; None for transparent. Raises UsageError."""
    if name == "transparent":
        return None
    if name in COLOURS:
        return COLOURS[name]
    digits = name.removeprefix("#")
    if name.startswith("#") and len(digits) == 6 and all(digit in "0123456789abcdefABCDEF" for digit in digits):
        red, green, blue = (int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4))
        return red, green, blue
    raise UsageError(f"--background {name}: not one of white, black, transparent, #rrggbb")


def pictures(
    heads: list[Gaussians],
    camera: Camera,  # as many cameras
    background: tuple[float, float, float] | None,  # RGB; None = transparent
    backend: str,
) -> Tensor:  # [T, H, W, 3] float32, or [T, H, W, 4] with straight alpha, on the device of the heads
    """One picture of each head, each by its own camera; on a GPU in one launch, and not waited for."""
    with torch.inference_mode():
        rgb, alpha = render_frames(heads, camera, background=background or (0.0, 0.0, 0.0), backend=backend)
        colour = rgb.clamp(0, 1)
        if background is not None:
            return colour
        cover = alpha[..., None].clamp(0, 1)
        straight = torch.where(cover > 0, colour / cover.clamp_min(1e-6), 0).clamp(0, 1)
        return torch.cat([straight, cover], -1)


def picture(
    head: Gaussians,
    camera: Camera,  # one camera
    background: tuple[float, float, float] | None,  # RGB; None = transparent
    backend: str,
) -> np.ndarray:  # [H, W, 3] float32, or [H, W, 4] with straight alpha
    """One picture of the head."""
    return pictures([head], camera, background, backend)[0].cpu().numpy()


class HostCopy:
    """A batch of pictures on its way to the host: from a GPU into pinned memory, while other work goes on."""

    def __init__(self, batch: Tensor) -> None:
        self.batch = batch
        self.done: torch.cuda.Event | None = None
        if batch.is_cuda:
            self.batch = torch.empty(batch.shape, dtype=batch.dtype, pin_memory=True)
            self.batch.copy_(batch, non_blocking=True)
            self.done = torch.cuda.Event()
            self.done.record(torch.cuda.current_stream(batch.device))

    def numpy(self) -> np.ndarray:
        """The batch, once it has arrived."""
        if self.done is not None:
            self.done.synchronize()
        return self.batch.numpy()


def on_host(batches: Iterable[Tensor]) -> Generator[np.ndarray, None, None]:
    """The pictures of all batches, each batch waited for only when the next one has been started."""
    before = None
    for batch in batches:
        after = HostCopy(batch)
        if before is not None:
            yield from before.numpy()
        before = after
    if before is not None:
        yield from before.numpy()


def film(
    figure: Puppet,
    expressions: np.ndarray,  # [T, E]
    camera: Camera,  # T cameras, or one that is held
    background: tuple[float, float, float] | None,  # RGB; None = transparent
) -> Generator[np.ndarray, None, None]:  # T pictures [H, W, 3 or 4] float32
    """One picture per expression, streamed: network, rasteriser and caller each work in a thread of their own."""

    def drawn() -> Generator[Tensor, None, None]:
        first = 0
        for heads in ahead(figure.batches(expressions)):
            views = camera[first : first + len(heads)] if len(camera) > 1 else held(camera, len(heads))
            yield pictures(heads, views, background, figure.instruments.backend)
            first += len(heads)

    return ahead(on_host(drawn()), depth=figure.chunk)


def held(camera: Camera, count: int) -> Camera:
    """One camera, `count` times."""
    return Camera(np.repeat(camera.cam2world, count, 0), camera.intrinsics, camera.width, camera.height)


def render_video(
    figure: Puppet,
    motion: Track,  # T frames
    camera: Camera,  # T cameras, or one that is held
    background: tuple[float, float, float] | None = (1.0, 1.0, 1.0),  # None = transparent
    relative: bool = False,
    on_step: Callable[[int, int], None] | None = None,
) -> Iterator[np.ndarray]:  # T pictures [H, W, 3 or 4] float32
    """One picture per frame of the motion, streamed. Frames without a face repeat the last pose and are named."""
    whole, missing = motions.hold_missing(motion)
    if missing:
        log.warning("%d of %d driver frames show no face and repeat the last pose: %s",
                    len(missing), len(motion), name_frames(missing))  # fmt: skip
    code = motions.recoded(whole.expression_code, whole.expression_names, figure.expression_names)
    code = motions.transfer(code, figure.expression_names, figure.neutral, relative)
    for number, image in enumerate(film(figure, code, camera, background)):
        yield image
        if on_step is not None:
            on_step(number + 1, len(motion))
