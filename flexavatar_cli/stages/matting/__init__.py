"""Matting: how much of each pixel is the person. A photo is a video of one frame."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from flexavatar_cli.core.errors import InputError
from flexavatar_cli.core.options import MatteOptions
from flexavatar_cli.media.frames import Frames
from flexavatar_cli.media.images import composite, read_matte, resize
from flexavatar_cli.media.video import FILMS, write_video
from flexavatar_cli.stages.matting.figures import attached, whole
from flexavatar_cli.stages.matting.nets import Net, open_net
from flexavatar_cli.stages.matting.refinement import refined
from flexavatar_cli.stages.matting.unmixing import foreground

CLEAR = 0.03  # share of a cut-out's pixels that are transparent, at least
CUT = 0.04  # mean colour difference of neighbouring frames above which they are of different shots


class Look(NamedTuple):
    """What a net says of a frame."""

    rgb: np.ndarray  # [H, W, 3]
    probability: np.ndarray  # [H, W]
    small: np.ndarray  # [32, 32, 3]: tells cuts


def has_own_matte(frames: Frames, options: MatteOptions = MatteOptions()) -> bool:
    """Whether the frames' own transparency is the matte; `auto` wants a ground of it in each of them.

    Raises InputError if it was asked for and is not there.
    """
    if options.net not in ("auto", "alpha"):
        return False
    if options.net == "auto":  # a few clear pixels, such as rounded corners, are no matte
        return all(alpha is not None and (alpha < 0.5).mean() > CLEAR for alpha in frames.alphas())
    if not all(alpha is not None for alpha in frames.alphas()):
        raise InputError(f"{frames.path}: has no transparency of its own; leave out `--matte alpha`")
    return True


def matte(
    frames: Frames,
    options: MatteOptions = MatteOptions(),
    on_step: Callable[[int, int], None] | None = None,
    net: Net | None = None,
) -> Iterator[np.ndarray]:
    """The alpha [H, W] float32 of each frame in order, in steps of 1/255 so that an 8-bit PNG holds it exactly.

    A frame's own transparency comes first, then `net` or the one that `options` name. Raises InputError at a frame
    that shows no person.
    """
    if has_own_matte(frames, options):
        alphas: Iterable[np.ndarray] = (alpha for alpha in frames.alphas() if alpha is not None)
    else:
        alphas = net_mattes(frames, net or open_net(options.net))
    for number, alpha in enumerate(alphas):
        if not (alpha > 0.5).any():
            raise InputError(f"{frames.path}: no person found in frame {number}")
        yield (np.round(alpha * 255) / 255).astype(np.float32)
        if on_step is not None:
            on_step(number + 1, len(frames))


def given_mattes(
    frames: Frames, place: Path, on_step: Callable[[int, int], None] | None = None
) -> Iterator[np.ndarray]:
    """The alpha [H, W] of each frame from a PNG, or a folder of them, made elsewhere. Raises InputError."""
    files = sorted(place.glob("*.png")) if place.is_dir() else [place]
    if len(files) != len(frames):
        raise InputError(f"{place}: {len(files)} mattes for the {len(frames)} frames of {frames.path}")
    for number, file in enumerate(files):
        yield resize(read_matte(file, frames.source_size), (frames.width, frames.height))
        if on_step is not None:
            on_step(number + 1, len(files))


def write_mattes(
    frames: Frames,
    alphas: Iterable[np.ndarray],  # one [H, W] per frame
    target: Path,
) -> Path:
    """Write mattes at the source's own size: a PNG, a folder of them, or a film in grey."""
    return write_frames(frames, (resize(alpha, frames.source_size) for alpha in alphas), target)


def write_cut_outs(
    frames: Frames,
    alphas: Iterable[np.ndarray],  # one [H, W] per frame
    target: Path,
    background: tuple[float, float, float] | None,  # None = transparent
) -> Path:
    """Write the person before a background, in their own colours; `.webm`, `.mov` and PNG hold transparency."""
    pictures = (
        np.dstack([front, alpha]) if background is None else composite(front, alpha, background)
        for front, alpha in ((foreground(rgb, alpha), alpha) for rgb, alpha in zip(frames, alphas, strict=True))
    )
    return write_frames(frames, pictures, target)


def write_frames(frames: Frames, pictures: Iterable[np.ndarray], target: Path) -> Path:
    """Write one picture per frame: a photo's as it is named, others into a film or a folder of PNGs."""
    single = frames.kind == "photo" or target.suffix.lower() in FILMS
    return write_video(target if single else f"{target}/", pictures, frames.fps)


def matte_picture(rgb: np.ndarray, net: Net) -> np.ndarray:
    """The alpha [H, W] of one picture [H, W, 3], without a look at its neighbours."""
    return finished(rgb, net.probability(rgb), net)


def net_mattes(frames: Frames, net: Net) -> Iterator[np.ndarray]:
    """The alpha [H, W] of each frame, its probability smoothed over its neighbours of one shot with weights 1 2 1."""
    window: list[Look] = []  # at the frame before, this, and the next
    for rgb in frames:
        window.append(Look(rgb, net.probability(rgb), cv2.resize(rgb, (32, 32), interpolation=cv2.INTER_AREA)))
        if len(window) == 1:
            window *= 2  # the first frame has itself before it
        elif len(window) == 3:
            yield blended(window, net)
            window.pop(0)
    window.append(window[-1])
    yield blended(window, net)


def blended(window: list[Look], net: Net) -> np.ndarray:
    """The alpha [H, W] of the middle frame of three; one of another shot, or another photo of a folder, is left out."""
    now = window[1]
    before, after = (look if np.abs(look.small - now.small).mean() < CUT else now for look in (window[0], window[2]))
    return finished(now.rgb, (before.probability + 2 * now.probability + after.probability) / 4, net)


def finished(rgb: np.ndarray, probability: np.ndarray, net: Net) -> np.ndarray:
    """The alpha [H, W] of a picture: edges refined where the net is coarse, one person, no holes."""
    if net.guided:
        return attached(probability)
    return whole(refined(rgb, probability) if net.coarse else probability)
