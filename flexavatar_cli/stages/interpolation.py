"""The heads between two people: avatar code and identity mixed on a straight line.

Straight, because around a sphere looked worse: over two pairs of portraits spherical interpolation of each token raised
lumps on the hair and put colours into the face that neither person has, and one angle for the whole code deepened them.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from flexavatar_cli.core.avatar import Avatar
from flexavatar_cli.core.errors import InputError, UsageError, WeightsError
from flexavatar_cli.stages import motion, trajectories
from flexavatar_cli.stages.animation import picture, puppet
from flexavatar_cli.stages.instruments import Instruments

TURN = np.radians(25.0)  # of the camera to either side during a morph


def interpolated(first: Avatar, second: Avatar, share: float) -> Avatar:
    """The avatar that lies `share` (0..1) of the way from `first` to `second`; the ends keep their values.

    No photo shows it, so it has neither camera nor thumbnail; its provenance names the digests of both.
    Raises WeightsError if they are of different models or head models, InputError if they differ in another way that
    forbids mixing, UsageError for a share outside 0..1.
    """
    if not 0 <= share <= 1:
        raise UsageError(f"{share:g} lies outside 0 (the first avatar) to 1 (the second)")
    check_alike(first, second)

    def mixed(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        return ((1 - share) * one + share * other).astype(np.float32)

    return replace(
        first,
        avatar_code=mixed(first.avatar_code, second.avatar_code),
        identity=mixed(first.identity, second.identity),
        camera=None,
        thumbnail=b"",
        provenance={"interpolation": {"first": first.digest, "second": second.digest, "share": share}},
        extras={},
    )


def check_alike(first: Avatar, second: Avatar) -> None:
    """Raises WeightsError or InputError unless codes and identities of the two mean the same, entry by entry."""
    if first.model_digest != second.model_digest:
        raise WeightsError(
            f"the avatars are of different models, {first.model} {first.model_digest[:12]} and {second.model} "
            f"{second.model_digest[:12]}; create both with one --model"
        )
    if first.head_digest != second.head_digest:
        raise WeightsError(
            f"the avatars stand on different head models, {first.head_model} {first.head_digest[:12]} and "
            f"{second.head_model} {second.head_digest[:12]}; create both again"
        )
    if first.bias_sink != second.bias_sink:
        raise InputError(
            f"the avatars are of bias sinks {first.bias_sink} and {second.bias_sink}; encode both with the same one"
        )
    shapes = [(avatar.avatar_code.shape, avatar.identity.shape, avatar.expression_names) for avatar in (first, second)]
    if shapes[0] != shapes[1]:
        raise InputError("the avatars differ in the size of their codes or in their expressions; create both again")


def morph_frames(fps: float) -> int:
    """How many frames a morph has: one period of the built-in motion."""
    return round(motion.DEMO_SECONDS * fps)


def morph(
    first: Avatar,
    second: Avatar,
    instruments: Instruments,
    fps: float,
    size: int,  # pixels
    background: tuple[float, float, float] | None = (1.0, 1.0, 1.0),  # RGB; None = transparent
) -> Iterator[np.ndarray]:  # pictures [size, size, 3 or 4] float32
    """From the first head to the second and back, with the built-in motion and a camera that sways; it loops.

    Raises what `interpolated` raises, and WeightsError if the instruments are not those of the avatars.
    """
    phase = 2 * np.pi * np.arange(morph_frames(fps)) / morph_frames(fps)
    shares = (1 - np.cos(phase)) / 2
    cameras = trajectories.turn(TURN * np.sin(phase), size)
    drive = motion.demo_motion(fps, size)
    codes = motion.recoded(drive.expression_code, drive.expression_names, first.expression_names)
    for number, share in enumerate(shares):
        figure = puppet(interpolated(first, second, float(share)), instruments)
        head = next(figure.gaussians(codes[number : number + 1]))
        yield picture(head, cameras[number], background, instruments.backend)
