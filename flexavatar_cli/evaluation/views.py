"""The same view twice: as the picture shows it and as the avatar renders it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from flexavatar_cli.core.camera import Camera
from flexavatar_cli.core.track import Track
from flexavatar_cli.media.images import composite
from flexavatar_cli.stages.animation import Puppet, picture
from flexavatar_cli.stages.motion import recoded
from flexavatar_cli.stages.observation import head_crop
from flexavatar_cli.stages.shots import Shot

CROP_SIZE = 512  # pixels


@dataclass(frozen=True)
class View:
    """The head crop of one frame."""

    number: int
    image: np.ndarray  # [S, S, 3] float32, on white
    matte: np.ndarray  # [S, S] float32
    inside: np.ndarray  # [S, S] float32, 0 where the source picture ends
    camera: Camera  # of the crop
    rgb: np.ndarray  # [S, S, 3] float32, with its own background


def views(shot: Shot, numbers: Sequence[int], size: int = CROP_SIZE) -> Iterator[View]:
    """The head crops of the frames `numbers`, which must ascend."""
    camera = shot.track.camera()
    for number, (rgb, alpha) in zip(numbers, shot.read(numbers), strict=True):
        crop = head_crop(camera[number], alpha, size)
        image, matte = crop.image(rgb, border=1.0), crop.image(alpha, border=0.0)
        inside = crop.image(np.ones(rgb.shape[:2], np.float32), border=0.0)
        yield View(number, composite(image, matte), matte, inside, camera[number].cropped(crop), image)


def rendered(figure: Puppet, track: Track, view: View) -> tuple[np.ndarray, np.ndarray]:
    """RGB [S, S, 3] on white and alpha [S, S] of the avatar in that frame's camera and expression."""
    code = recoded(track.expression_code[[view.number]], track.expression_names, figure.expression_names)
    return shown(figure, code[0], view.camera)


def shown(figure: Puppet, expression: np.ndarray, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """RGB [H, W, 3] on white and alpha [H, W] of the avatar with one expression [E] in one camera."""
    return next(seen_from(figure, expression, camera))


def seen_from(figure: Puppet, expression: np.ndarray, camera: Camera) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """`shown` from each of V cameras; the network is asked once."""
    head = next(figure.gaussians(expression[None]))
    for number in range(len(camera)):
        clear = picture(head, camera[number], None, figure.instruments.backend)
        yield composite(clear[..., :3], clear[..., 3]), clear[..., 3]
