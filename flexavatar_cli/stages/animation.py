"""An avatar moved and filmed: expression codes to Gaussians to pictures."""

import logging
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

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
from flexavatar_cli.core.track import Track
from flexavatar_cli.render import render
from flexavatar_cli.stages import motion as motions
from flexavatar_cli.stages.instruments import SINKS, Instruments
from flexavatar_cli.stages.posing import Pose, pose_of
from flexavatar_cli.stages.rig import RigAnchor, rig_anchor, rigged_gaussians, settled

log = logging.getLogger(__name__)

CHUNK = 4  # expressions decoded together: shares the expression-independent work and keeps memory small
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

    def gaussians(self, expressions: np.ndarray) -> Generator[Gaussians, None, None]:  # [T, E]
        """The head with each of T expressions, in order."""
        for start in range(0, len(expressions), CHUNK):
            batch = torch.from_numpy(np.ascontiguousarray(expressions[start : start + CHUNK], np.float32))
            batch = batch.to(self.instruments.device)
            with torch.inference_mode():
                attributes = self.attributes(batch)
                for number in range(len(batch)):
                    one = attributes.map(lambda values, at=number: values[at : at + 1])  # type: ignore[misc]
                    yield self.pose(one, batch[number])

    def attributes(self, expressions: Tensor) -> TexelAttributes:  # [T, E] -> [T, N, ...]
        """Decoder output for T expressions."""
        if self.decode is not None:
            return self.decode(expressions)
        model = self.instruments.model
        condition = None
        decoded = model.decode_expressions(self.code, expressions, self.sink, condition)
        return decoded if self.anchor is None else settled(self.anchor, decoded)

    def pose(self, attributes: TexelAttributes, expression: Tensor) -> Gaussians:  # of one expression
        """Attributes on the posed surface, or on the static template."""
        if self.quick is not None:
            one = {name: value[0] for name, value in vars(attributes).items()}
            return self.quick.gaussians(expression, **one)
        if self.anchor is not None:
            return rigged_gaussians(self.anchor, attributes, self.identity, expression)
        base = self.instruments.model.base_positions
        assert base is not None
        return Gaussians(
            base + attributes.offset[0],
            attributes.rotation[0],
            attributes.scale[0],
            attributes.opacity[0],
            attributes.color[0],
        )


def puppet(avatar: Avatar, instruments: Instruments) -> Puppet:
    """The avatar on its instruments. Raises WeightsError if it was made with others."""
    avatar.require(instruments.model.digest, instruments.head_digest)
    device = instruments.device
    model = instruments.model
    rigged = model.config.anchor == "rigged"
    anchor = rig_anchor(instruments.head.to(device), model.resolution) if rigged else None
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


def picture(
    head: Gaussians,
    camera: Camera,  # one camera
    background: tuple[float, float, float] | None,  # RGB; None = transparent
    backend: str,
) -> np.ndarray:  # [H, W, 3] float32, or [H, W, 4] with straight alpha
    """One picture of the head."""
    with torch.inference_mode():
        rgb, alpha = render(head, camera, background=background or (0.0, 0.0, 0.0), backend=backend)
    colour = rgb[0].clamp(0, 1).cpu().numpy()
    if background is not None:
        return colour
    cover = alpha[0].reshape(camera.height, camera.width, 1).clamp(0, 1).cpu().numpy()
    straight = np.where(cover > 0, colour / np.maximum(cover, 1e-6), 0)
    return np.concatenate([np.clip(straight, 0, 1), cover], -1).astype(np.float32)


def render_video(
    figure: Puppet,
    motion: Track,  # T frames
    camera: Camera,  # T cameras, or one that is held
    background: tuple[float, float, float] | None = (1.0, 1.0, 1.0),  # None = transparent
    relative: bool = False,
    on_step: Callable[[int, int], None] | None = None,
) -> Iterator[np.ndarray]:  # T pictures [H, W, 3 or 4] float32
    """One picture per frame of the motion, streamed. Frames without a face repeat the last pose and are named."""
    held, missing = motions.hold_missing(motion)
    if missing:
        log.warning("%d of %d driver frames show no face and repeat the last pose: %s",
                    len(missing), len(motion), name_frames(missing))  # fmt: skip
    code = motions.recoded(held.expression_code, held.expression_names, figure.expression_names)
    code = motions.transfer(code, figure.expression_names, figure.neutral, relative)
    heads = ahead(figure.gaussians(code))
    pictures = (
        picture(head, camera[number if len(camera) > 1 else 0], background, figure.instruments.backend)
        for number, head in enumerate(heads)
    )
    for number, image in enumerate(ahead(pictures)):
        yield image
        if on_step is not None:
            on_step(number + 1, len(motion))


def name_frames(numbers: list[int]) -> str:
    """Frame numbers as ranges, e.g. "0-3, 7, 20-22"."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)
