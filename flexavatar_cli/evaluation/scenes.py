"""What an avatar is compared with: a source picture and target views, of a tracked clip or a calibrated folder."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flexavatar_cli.core.camera import Camera, Crop
from flexavatar_cli.core.errors import InputError
from flexavatar_cli.core.flame import FLAME_NAMES
from flexavatar_cli.core.track import Track
from flexavatar_cli.heads import HeadModel
from flexavatar_cli.media.frames import pictures_in
from flexavatar_cli.media.images import composite, is_photo, read_photo
from flexavatar_cli.stages.observation import head_crop
from flexavatar_cli.stages.registration import Registration, registered
from flexavatar_cli.stages.shots import Shot
from flexavatar_cli.stages.tracking.solver import LandmarkModel
from flexavatar_cli.stages.trajectories import load_cameras

SIDE = 512  # pixels of every window
FRONT, BACK = 45.0, 135.0  # degrees of azimuth at which front becomes side, and side back
RUN = 12  # consecutive frames on which flicker is measured
VIDEOS = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v")
CAMERAS = "cameras.json"


@dataclass(frozen=True)
class Portrait:
    """The picture an avatar is made of, as one window shows it."""

    rgb: np.ndarray  # [S, S, 3] float32
    matte: np.ndarray  # [S, S] float32
    landmarks: np.ndarray  # [478, 2] window pixels

    @property
    def on_white(self) -> np.ndarray:  # [S, S, 3]
        """Without its background."""
        return composite(self.rgb, self.matte)


@dataclass(frozen=True)
class Target:
    """One view to reproduce."""

    number: int
    rgb: np.ndarray  # [S, S, 3] float32
    matte: np.ndarray  # [S, S] float32
    inside: np.ndarray  # [S, S] float32, 0 where the source picture ends
    camera: Camera  # one, of this window, in the avatar's head space
    expression: np.ndarray  # [E] float32
    landmarks: np.ndarray | None  # [478, 2] window pixels; None if the view shows no face

    def shown(self, background: float = 1.0) -> np.ndarray:  # [S, S, 3]
        """The truth on one grey."""
        return composite(self.rgb, self.matte * (self.inside > 0.5), background)


@dataclass(frozen=True)
class Scene:
    """One source and its targets; `targets(numbers)` reads them anew each time, in ascending order."""

    protocol: str
    name: str
    source: Portrait
    numbers: list[int]  # what is measured
    run: list[int]  # consecutive numbers for measures over time; may be empty
    targets: Callable[[Sequence[int]], Iterator[Target]]
    expression_names: tuple[str, ...]
    fps: float
    truth: bool = True  # False: the driver is another person, and pixels cannot be compared
    groups: dict[int, str] | None = None  # front, side or back of each number
    note: str = ""  # what a reader of the numbers must know


def spread(count: int, wanted: int) -> list[int]:
    """`wanted` numbers of 0..count-1, evenly: trunc(linspace), as the published VFHQ protocol takes its frames."""
    return sorted({int(at) for at in np.linspace(0, count - 1, min(wanted, count))})


def window_of(shot: Shot, numbers: Sequence[int], side: int = SIDE) -> Crop:
    """The one square that holds the head crops of all `numbers`, so that pictures can be compared over time."""
    camera = shot.track.camera()
    low, high = np.full(2, np.inf), np.full(2, -np.inf)
    for number, (_, alpha) in zip(numbers, shot.read(numbers), strict=True):
        crop = head_crop(camera[number], alpha, side)
        low = np.minimum(low, crop.origin)
        high = np.maximum(high, np.asarray(crop.origin) + side / crop.scale)
    middle = (low + high) / 2
    return Crop.square((float(middle[0]), float(middle[1])), float((high - low).max()), side)


def portrait(shot: Shot, number: int, window: Crop) -> Portrait:
    """Frame `number` of a shot."""
    ((rgb, alpha),) = shot.read([number])
    points = window.points(shot.track.landmarks[number])
    return Portrait(window.image(rgb), window.image(alpha, border=0.0), points)


def shot_targets(shot: Shot, window: Crop) -> Callable[[Sequence[int]], Iterator[Target]]:
    """The views of a shot's frames through one window, with the driver's own cameras."""
    track = shot.track
    camera = track.camera()

    def read(numbers: Sequence[int]) -> Iterator[Target]:
        for number, (rgb, alpha) in zip(numbers, shot.read(numbers), strict=True):
            yield Target(
                number,
                window.image(rgb),
                window.image(alpha, border=0.0),
                window.image(np.ones(rgb.shape[:2], np.float32), border=0.0),
                camera[number].cropped(window),
                track.expression_code[number],
                window.points(track.landmarks[number]),
            )

    return read


def clip_scene(
    protocol: str,
    name: str,
    shot: Shot,
    source: int,
    numbers: Sequence[int],
    portrait_of: tuple[Shot, int] | None = None,  # another clip and its frame: cross-reenactment
) -> Scene:
    """Frames `numbers` of a clip, driven by the clip itself; numbers without a face are left out."""
    track = shot.track
    tracked = [number for number in numbers if track.confidence[number] > 0]
    if not tracked:
        raise InputError(f"{shot.source}: none of the frames to compare with shows a face")
    start = min(max(0, len(track) // 2 - RUN // 2), max(0, len(track) - RUN))
    run = [number for number in range(start, min(start + RUN, len(track))) if track.confidence[number] > 0]
    unbroken = run if len(run) >= 3 and run[-1] - run[0] == len(run) - 1 and shot.frames.kind == "video" else []
    window = window_of(shot, sorted({*tracked, *unbroken}))
    if portrait_of is None:
        first = portrait(shot, source, window)
    else:
        giver, frame = portrait_of
        first = portrait(giver, frame, window_of(giver, [frame]))
    return Scene(
        protocol,
        name,
        first,
        tracked,
        unbroken,
        shot_targets(shot, window),
        track.expression_names,
        track.fps,
        truth=portrait_of is None,
    )


@dataclass(frozen=True)
class Calibrated:
    """A folder of pictures of one moment with known cameras; transparency, where given, is the true matte."""

    folder: Path
    pictures: list[Path]
    camera: Camera  # one per picture
    source: int  # the picture to make the avatar of

    @property
    def azimuths(self) -> np.ndarray:  # [V] degrees, 0 = front, positive = the subject's left
        """Where the cameras stand around the head."""
        eye = self.camera.cam2world[:, :3, 3]
        return np.degrees(np.arctan2(eye[:, 0], eye[:, 2]))

    def group(self, number: int) -> str:
        """front, side or back."""
        away = abs(float(self.azimuths[number]))
        return "front" if away <= FRONT else "side" if away <= BACK else "back"


def open_calibrated(folder: Path) -> Calibrated:
    """A folder of pictures with `cameras.json`: one camera per picture in order of names, all square and equal.

    `"source": N` in it names the picture to start from; else the most frontal is. Raises InputError.
    """
    path = folder / CAMERAS
    camera = load_cameras(path)
    pictures = pictures_in(folder)
    if len(pictures) != len(camera):
        raise InputError(f"{path}: {len(camera)} cameras for the {len(pictures)} pictures beside it")
    stated = json.loads(path.read_text()).get("source")
    found = Calibrated(folder, pictures, camera, 0)
    source = int(np.abs(found.azimuths).argmin()) if stated is None else int(stated)
    if not 0 <= source < len(pictures):
        raise InputError(f"{path}: source {source}, but the pictures are 0 to {len(pictures) - 1}")
    return Calibrated(folder, pictures, camera, source)


def aligned(known: Camera, source: int, track: Track) -> Camera:
    """Calibrated cameras in the avatar's head space: the source camera becomes the tracked one.

    A single picture tells no distance, so the calibrated space is scaled by the ratio of the two distances to the
    head's origin.
    """
    ours, theirs = track.cam2world[0], known.cam2world[source]
    scale = np.linalg.norm(ours[:3, 3]) / np.linalg.norm(theirs[:3, 3])
    turn = ours[:3, :3] @ theirs[:3, :3].T
    moved = np.tile(np.eye(4), (len(known), 1, 1))
    moved[:, :3, :3] = turn @ known.cam2world[:, :3, :3]
    moved[:, :3, 3] = (known.cam2world[:, :3, 3] - theirs[:3, 3]) @ turn.T * scale + ours[:3, 3]
    return Camera(moved, known.intrinsics, known.width, known.height)


def calibrated_scene(
    found: Calibrated,
    shot: Shot,  # of the source picture
    head: HeadModel,
    matte_of: Callable[[int], np.ndarray],  # [H, W] of a picture
    face_of: Callable[[np.ndarray], np.ndarray | None],  # rgb [S, S, 3] float32 -> [478, 2]
    name: str,
) -> Scene:
    """All pictures of a calibrated folder from the avatar of one of them; the head holds its expression.

    The source picture keeps the camera that it was tracked with; all others are registered.
    """
    track = shot.track
    window = Crop.square(
        (found.camera.width / 2, found.camera.height / 2), max(found.camera.width, found.camera.height), SIDE
    )

    def picture(number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        photo = read_photo(found.pictures[number])
        matte = photo.alpha if photo.alpha is not None else matte_of(number)
        inside = window.image(np.ones(matte.shape, np.float32), border=0.0)
        return window.image(photo.rgb), window.image(matte, border=0.0), inside

    numbers = list(range(len(found.pictures)))
    faces = [face_of(composite(rgb, alpha)) for rgb, alpha, _ in map(picture, numbers)]
    placed = into_head_space(found, track, head, window, faces)
    matrices = placed.camera.cam2world.copy()
    matrices[found.source] = track.cam2world[0]
    camera = Camera(matrices, placed.camera.intrinsics, SIDE, SIDE)

    def read(numbers: Sequence[int]) -> Iterator[Target]:
        for number in numbers:
            rgb, alpha, inside = picture(number)
            yield Target(number, rgb, alpha, inside, camera[number], track.expression_code[0], faces[number])

    first = portrait(shot, 0, window)
    groups = {number: found.group(number) for number in numbers}
    groups[found.source] = "input"
    names = track.expression_names
    return Scene("novel view", name, first, numbers, [], read, names, track.fps, groups=groups, note=placed.words)


def into_head_space(
    found: Calibrated,
    track: Track,  # of the source picture
    head: HeadModel,
    window: Crop,
    faces: Sequence[np.ndarray | None],  # [478, 2] window pixels of each picture
) -> Registration:
    """The cameras of a calibrated folder, of one window, around the head that was tracked in its source picture."""
    otherwise = aligned(found.camera, found.source, track).cropped(window)
    if track.expression_names == FLAME_NAMES:  # the landmark map below is the open head's
        return Registration(otherwise, [], float("nan"))
    model = LandmarkModel.of(head)
    expression = track.expression_code[0, : model.expression.shape[2]].astype(np.float64)
    landmarks = model.points(track.identity.astype(np.float64), expression)
    sigma = np.where(model.used, model.sigma, np.inf)
    return registered(found.camera.cropped(window), faces, landmarks, sigma, otherwise)


def find_photos(sources: Sequence[Path]) -> list[Path]:
    """The photos given, and those in the folders given. Raises InputError for anything else."""
    photos: list[Path] = []
    for source in sources:
        if source.is_dir():
            photos += pictures_in(source)
        elif is_photo(source):
            photos.append(source)
        else:
            raise InputError(f"{source}: not a photo; the protocol portraits takes photos of different people")
    return photos


def find_material(sources: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """(clips, calibrated folders) in what was given: videos, folders of frames, and folders of either at any depth.

    So `<person>/<sequence>/<camera>.mp4` and `<clip>/<frame:08d>.png`, the layouts of NeRSemble and VFHQ, are read as
    clips. Raises InputError if there are only tracked FLAME coefficients, or nothing.
    """
    clips: list[Path] = []
    calibrated: list[Path] = []
    for source in sources:
        if not source.is_dir():
            clips.append(source)
            continue
        folders = sorted({source, *(entry for entry in source.rglob("*") if entry.is_dir())})
        folders = [folder for folder in folders if not any(part.startswith(".") for part in folder.parts)]
        before = len(clips) + len(calibrated)
        for folder in folders:
            if (folder / CAMERAS).is_file():
                calibrated.append(folder)
                continue
            files = sorted(entry for entry in folder.iterdir() if entry.is_file() and not entry.name.startswith("."))
            clips += [entry for entry in files if entry.suffix.lower() in VIDEOS]
            if sum(entry.stat().st_size > 0 and is_photo(entry) for entry in files[:3]) >= 2:
                clips.append(folder)
        if len(clips) + len(calibrated) == before:
            tracked = next(source.rglob("*.frame"), None)
            if tracked is not None:
                raise InputError(
                    f"{source}: tracked FLAME coefficients of the published release ({tracked.name}) but no pictures; "
                    "give the folder with the frames or videos: they are tracked anew"
                )
            raise InputError(f"{source}: no videos, folders of frames, or folders with {CAMERAS}")
    return clips, calibrated
