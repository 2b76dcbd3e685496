"""A photo, video or folder together with its mattes and its track, all as files."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from flexavatar_cli.core.errors import InputError
from flexavatar_cli.core.options import MatteOptions, TrackOptions
from flexavatar_cli.core.track import Track
from flexavatar_cli.heads import HeadModel
from flexavatar_cli.heads.flame import FlameHead
from flexavatar_cli.media.frame_files import frame_files
from flexavatar_cli.media.frames import Frames, open_frames
from flexavatar_cli.media.images import read_matte, resize
from flexavatar_cli.media.video import write_video
from flexavatar_cli.stages import matting, tracking
from flexavatar_cli.stages.matting.nets import open_net
from flexavatar_cli.stages.published import box_file, cropped_inputs
from flexavatar_cli.stages.tracking.flame import track_flame
from flexavatar_cli.stages.workfolder import WorkFolder

OnStep = Callable[[int, int], None]


@dataclass(frozen=True)
class Shot:
    """T pictures of one person and what was found in them."""

    source: Path
    matte: Path  # alpha PNG of a photo; a folder of them otherwise
    track_file: Path

    @property
    def files(self) -> list[Path]:
        """What identifies the shot."""
        return [self.source, self.matte, self.track_file]

    @cached_property
    def frames(self) -> Frames:
        """The pictures. Raises InputError."""
        return open_frames(self.source)

    @cached_property
    def track(self) -> Track:
        """The track. Raises InputError if it is not of these pictures."""
        track = Track.load(self.track_file)
        size = (self.frames.width, self.frames.height)
        if len(track) != len(self.frames) or tuple(int(side) for side in track.size) != size:
            raise InputError(
                f"{self.track_file}: a track of {len(track)} frames of {tuple(track.size.tolist())} pixels, "
                f"{self.source} has {len(self.frames)} of {size}"
            )
        return track

    @cached_property
    def mattes(self) -> list[Path]:
        """One matte file per frame. Raises InputError if there are more or fewer."""
        files = sorted(self.matte.glob("*.png")) if self.matte.is_dir() else [self.matte]
        if len(files) != len(self.frames):
            raise InputError(f"{self.matte}: {len(files)} mattes for the {len(self.frames)} frames of {self.source}")
        return files

    def read(self, numbers: Sequence[int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Pictures [H, W, 3] and mattes [H, W], float32, of the frames `numbers`, which must ascend."""
        for number, rgb in zip(numbers, self.frames.read(numbers), strict=True):
            yield rgb, read_matte(self.mattes[number], self.frames.source_size)


def write_matte(source: Path, target: Path, options: MatteOptions, on_step: OnStep | None = None) -> Path:
    """The matte of a photo as an alpha PNG, of a video or folder as a folder of numbered ones."""
    frames = open_frames(source)
    alphas = matting.matte(frames, options, on_step)
    place = target if frames.kind == "photo" else f"{target}/"  # the slash asks for a folder, whatever the name
    return write_video(place, (resize(alpha, frames.source_size) for alpha in alphas), frames.fps)


def write_track(
    source: Path,
    target: Path,
    options: TrackOptions,
    head: HeadModel | None = None,  # None = the shipped one
    fov: float | None = None,  # vertical field of view, degrees
    on_step: OnStep | None = None,
) -> Path:
    """The track of a photo, video or folder."""
    frames = open_frames(source)
    try:
        track = tracking.track(frames, options, fov, frames.focal_px, on_step, frames.fps, head)
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
    return track.save(target)


def track_step(
    work: WorkFolder,
    source: Path,
    options: TrackOptions,
    head: HeadModel,
    fov: float | None = None,
    on_step: OnStep | None = None,
) -> Path:
    """The track of `source` in the work folder."""
    settings = {"options": asdict(options), "head_model": head.digest, "fov": fov}
    return work.step(
        "track", ".npz", [source], settings, lambda target: write_track(source, target, options, head, fov, on_step)
    )


def flame_step(
    work: WorkFolder, seen: Path, options: TrackOptions, head: FlameHead, on_step: OnStep | None = None
) -> Path:
    """The track on FLAME of the pictures that track `seen` on the open head is of, in the work folder."""
    settings = {"options": asdict(options), "head_model": head.digest}

    def make(target: Path) -> Path:
        return track_flame(Track.load(seen), head, options.smoothing, on_step).save(target)

    return work.step("track-flame", ".npz", [seen], settings, make)


def published_step(work: WorkFolder, source: Path, folder: Path) -> tuple[Path, Path]:
    """Pictures cropped as the published encoder sees them, and their track, of `source` and its `.frame` sequence."""
    frames = open_frames(source)
    files = frame_files(folder)
    if not files:
        raise InputError(f"{folder}: no .frame files in it")
    inputs = [source, files[0].parent, box_file(folder)]
    suffix = ".png" if frames.kind == "photo" else ""

    def pictures(target: Path) -> Path:
        place = target if suffix else f"{target}/"
        return write_video(place, cropped_inputs(frames, folder)[0], frames.fps)

    def track(target: Path) -> Path:
        return cropped_inputs(frames, folder)[1].save(target)

    return work.step("crop", suffix, inputs, {}, pictures), work.step("track-published", ".npz", inputs, {}, track)


def matte_step(work: WorkFolder, source: Path, options: MatteOptions, on_step: OnStep | None = None) -> Path:
    """The matte of `source` in the work folder."""
    frames = open_frames(source)
    own = matting.has_own_matte(frames, options)
    settings = {"options": asdict(options), "net": "own" if own else open_net(options.net).digest}
    suffix = ".png" if frames.kind == "photo" else ""
    return work.step("matte", suffix, [source], settings, lambda target: write_matte(source, target, options, on_step))
