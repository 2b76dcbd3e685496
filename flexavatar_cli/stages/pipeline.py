"""The verbs in order, file to file: photo -> matte -> track -> encode -> fit -> .avatar -> render -> mp4."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from flexavatar_cli.core.avatar import Avatar
from flexavatar_cli.core.errors import UsageError, WeightsError
from flexavatar_cli.core.files import digest_file
from flexavatar_cli.core.options import EncodeOptions, FitOptions, MatteOptions, RenderOptions, TrackOptions
from flexavatar_cli.core.track import Track
from flexavatar_cli.media.frame_files import frame_files
from flexavatar_cli.media.video import write_video
from flexavatar_cli.stages import animation, encoding, fitting, motion, playback, trajectories
from flexavatar_cli.stages.instruments import Instruments
from flexavatar_cli.stages.playback import Playback
from flexavatar_cli.stages.shots import OnStep, Shot, flame_step, matte_step, published_step, track_step
from flexavatar_cli.stages.workfolder import WorkFolder

log = logging.getLogger(__name__)

Progress = Callable[[str], AbstractContextManager[OnStep]]  # progress("Tracking") yields an on_step
MOTION_FILES = (".npz", ".csv")


@contextmanager
def silent(label: str) -> Iterator[OnStep]:
    """A progress that says nothing."""
    yield lambda done, total: None


@dataclass(frozen=True)
class Job:
    """What all steps of a run share."""

    instruments: Instruments
    work: WorkFolder
    matte: MatteOptions = field(default_factory=MatteOptions)
    track: TrackOptions = field(default_factory=TrackOptions)
    encode: EncodeOptions = field(default_factory=EncodeOptions)
    fov: float | None = None  # vertical, degrees
    seed: int = 0
    progress: Progress = silent

    def settings(self, **options: Any) -> dict[str, Any]:
        """What decides the result of a step of the network."""
        return {**self.instruments.digests, "seed": self.seed, **options}


@dataclass(frozen=True)
class Made:
    """The files of one avatar, all in the work folder."""

    shots: list[Shot]
    encoded: Path  # .avatar before fitting
    fitted: Path  # .avatar after fitting
    video: Path | None


def shoot(job: Job, source: Path, matte: Path | None = None, track: Path | None = None) -> Shot:
    """Matte and track of one input, unless they are given; a folder as `track` is a published sequence of it."""
    if track is not None and track.is_dir():
        if not job.instruments.static:
            raise UsageError(f"--track {track}: published sequences are for models on FLAME such as flex-1")
        source, track = published_step(job.work, source, track)
    with job.progress("Tracking") as on_step:  # first: it is quick, and finds that there is no face
        track = track or tracked(job, source, on_step)
    with job.progress("Matting") as on_step:
        matte = matte or matte_step(job.work, source, job.matte, on_step)
    return Shot(source, matte, track)


def tracked(job: Job, source: Path, on_step: OnStep) -> Path:
    """The track of pictures on the head that the model's expressions belong to."""
    instruments = job.instruments
    seen = track_step(job.work, source, job.track, instruments.head, job.fov, on_step)
    if instruments.model.card.expression_layout != "flame":
        return seen
    if instruments.flame is None:
        raise WeightsError(
            f"--model {instruments.model.card.name}: tracking pictures needs a FLAME head; get FLAME 2020 or 2023 from "
            "flame.is.tue.mpg.de and run: flexavatar models add flame PATH"
        )
    return flame_step(job.work, seen, job.track, instruments.flame, on_step)


def encode_step(job: Job, shot: Shot) -> Path:
    """The first avatar of a shot, as the encoder sees it."""
    return job.work.step(
        "encode",
        ".avatar",
        shot.files,
        job.settings(options=asdict(job.encode), features=features_digest(job.encode)),
        lambda target: write_encoded(shot, target, job.instruments, job.encode),
    )


def features_digest(options: EncodeOptions) -> str:
    """What decides the image features besides the picture: the file they are kept in, if there is one."""
    return digest_file(Path(options.image_features)) if options.image_features else ""


def fit_step(job: Job, init: Path, shots: Sequence[Shot], options: FitOptions) -> Path:
    """The avatar after fitting to the shots."""
    files = [init, *(path for shot in shots for path in shot.files)]
    checkpoint = job.work.folder / "fit.checkpoint"
    with job.progress("Fitting") as on_step:
        return job.work.step(
            "fit",
            ".avatar",
            files,
            job.settings(options=asdict(options)),
            lambda target: write_fitted(init, shots, target, job.instruments, options, job.seed, on_step, checkpoint),
        )


def render_step(job: Job, avatar: Path, options: RenderOptions, size: int, driver: Path | None = None) -> Path:
    """The mp4 of an avatar; `driver` is a motion file or a track."""
    files = [avatar, *([driver] if driver else [])]
    with job.progress("Rendering") as on_step:
        return job.work.step(
            "render",
            ".mp4",
            files,
            job.settings(options=asdict(options), size=size),
            lambda target: write_render(avatar, target, job.instruments, options, size, driver, on_step),
        )


def fit_shots(
    job: Job,
    shots: Sequence[Shot],
    options: FitOptions,
    preview: RenderOptions | None = None,
    size: int = 512,
    init: Path | None = None,
) -> Made:
    """Shots of one person to one avatar and, with `preview`, its mp4.

    Starts from `init`, or from what the encoder makes of the first shot; without steps that is the result.
    """
    with job.progress("Encoding"):
        encoded = init or encode_step(job, shots[0])
    fitted = fit_step(job, encoded, shots, options) if options.steps else encoded
    video = render_step(job, fitted, preview, size) if preview else None
    return Made(list(shots), encoded, fitted, video)


def create(job: Job, photo: Path, fit: FitOptions, preview: RenderOptions | None = None, size: int = 512) -> Made:
    """One photo to a fitted avatar and, with `preview`, its mp4."""
    return fit_shots(job, [shoot(job, photo)], fit, preview, size)


def write_encoded(shot: Shot, target: Path, instruments: Instruments, options: EncodeOptions) -> Path:
    """Encode the best frame of a shot into an avatar file."""
    return encoding.encode(shot, instruments, options).save(target)


def write_fitted(
    init: Path,
    shots: Sequence[Shot],
    target: Path,
    instruments: Instruments,
    options: FitOptions,
    seed: int = 0,
    on_step: OnStep | None = None,
    checkpoint: Path | None = None,
) -> Path:
    """Fit the avatar in `init` to the shots, into another avatar file. A `checkpoint` is removed when it is done."""
    fitted = fitting.fit(Avatar.load(init), shots, instruments, options, seed, on_step, checkpoint)
    written = fitted.save(target)
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    return written


def write_render(
    avatar: Path,
    target: Path | str,
    instruments: Instruments,
    options: RenderOptions,
    size: int,
    driver: Path | None = None,  # motion file or track; None = the built-in motion
    on_step: OnStep | None = None,
    basis: Playback | None = None,  # for `options.fast`; None = the one beside the avatar, or a new one
) -> Path:
    """Film an avatar into mp4, webm, png or a folder. Returns what was written. Raises UsageError, InputError."""
    background = animation.parse_background(options.background)
    if background is None and Path(target).suffix == ".mp4":
        raise UsageError(f"{target}: mp4 holds no transparency; write .webm, .png or a folder")
    content = Avatar.load(avatar)
    figure = animation.puppet(content, instruments)
    if options.fast:
        basis = basis or playback.find_or_build(content, playback.playback_file(avatar), figure)
        figure = playback.playing(figure, basis)
    drive = load_driver(driver, options, size)
    if options.camera == "driver" and driver is None:
        raise UsageError("--camera driver: give a --driver whose camera to use")
    camera = trajectories.cameras_for(options.camera, drive, size, options.relative)
    frames = animation.render_video(figure, drive, camera, background, options.relative)
    return write_video(target, frames, drive.fps, on_step, len(drive))


def playback_basis(job: Job, avatar: Path) -> Playback:
    """What stands in for the network: the playback beside the avatar if it fits, else a new one, kept there."""
    content = Avatar.load(avatar)
    with job.progress("Playback") as on_step:
        figure = animation.puppet(content, job.instruments)
        return playback.find_or_build(content, playback.playback_file(avatar), figure, on_step=on_step)


def load_driver(driver: Path | None, options: RenderOptions, size: int) -> Track:
    """The motion in a file, or the built-in one."""
    return motion.demo_motion(options.fps, size) if driver is None else motion.load_motion(driver, size)


def driver_file(job: Job, driver: Path | None) -> Path | None:
    """A motion file for whatever was given as `--driver`: motion files as they are, pictures tracked."""
    if driver is None or driver.suffix.lower() in MOTION_FILES:
        return driver
    frames = frame_files(driver)
    if frames:
        return frames[0].parent
    with job.progress("Tracking") as on_step:
        return tracked(job, driver, on_step)
