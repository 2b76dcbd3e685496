"""Sheets of what an avatar's face and head can do, one per item of issue 5, for docs/expressions.md.

    python benchmarks/sheets.py FOLDER -o docs/images [--steps 200] [--work DIR] [--only eyes,mouth]

FOLDER holds the photos and clips by the names of SHEETS (the samples, and the bearded portrait of the dev split that
`--beard DATA` puts there); those that are missing are left out and named. Avatars are made as `create` makes them, of
the frontal frame of a clip, and kept in `--work`.
"""

import argparse
import io
import logging
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from flexavatar_cli.cli import console
from flexavatar_cli.cli.runs import work_folder
from flexavatar_cli.core.avatar import Avatar
from flexavatar_cli.core.camera import Camera, Crop
from flexavatar_cli.core.expression import EXPRESSION_NAMES, INDEX, both
from flexavatar_cli.core.options import EncodeOptions, FitOptions, MatteOptions, TrackOptions
from flexavatar_cli.evaluation.views import shown, views
from flexavatar_cli.media.images import sheet, to_uint8
from flexavatar_cli.stages import encoding, fitting, pipeline
from flexavatar_cli.stages.animation import Puppet, puppet
from flexavatar_cli.stages.instruments import load_instruments
from flexavatar_cli.stages.motion import EASE, SMILE, with_lids
from flexavatar_cli.stages.observation import crop_observation
from flexavatar_cli.stages.tracking.solver import LandmarkModel
from flexavatar_cli.stages.trajectories import turn

SIDE, LARGE = 208, 280  # pixels of a picture on a sheet, and on one of few people
MOST_BYTES = 300_000  # of a JPEG
BEARDED = "us_022117"  # of models/open-1/dev_split.txt; only at 256 px
LOOK, LOOK_UP = 0.45, 0.3  # radians, sideways and up or down
# FaceMesh points that a close-up holds
EYES, MOUTH, FACE = (33, 133, 362, 263), (61, 291, 0, 17, 152, 4), (10, 152, 234, 454)
GROWN = 1.35  # of the box around them

Weights = dict[str, float]


def gaze(yaw: float, pitch: float) -> Weights:
    """Both eyes by angles in radians: to the subject's left, up."""
    return {"gazeLeftYaw": yaw, "gazeRightYaw": yaw, "gazeLeftPitch": pitch, "gazeRightPitch": pitch}


@dataclass(frozen=True)
class Tile:
    """One picture of a row."""

    label: str
    weights: Weights
    azimuth: float = 0.0  # degrees, positive sees the subject's left
    part: tuple[int, ...] = ()  # close-up of these landmarks; () = the whole head


@dataclass(frozen=True)
class Sheet:
    """One committed picture: a row per person, the photo first."""

    people: tuple[str, ...]  # stems of files
    tiles: tuple[Tile, ...]
    side: int = SIDE  # pixels


def faces(*tiles: tuple[str, Weights], part: tuple[int, ...] = ()) -> tuple[Tile, ...]:
    """Tiles from the front."""
    return tuple(Tile(label, weights, part=part) for label, weights in tiles)


TALKERS = ("portrait_hopper_usnavy", "portrait_ride_nasa", "portrait_epps_nasa", "talk_man_glasses")
SHEETS = {
    "heads": Sheet(
        ("portrait_epps_nasa", "portrait_ride_nasa", "portrait_bluford_nasa"),
        (
            Tile("a smile", SMILE, -20),
            Tile("ah", {"jawOpen": 0.5} | both(mouthLowerDown=0.3, mouthUpperUp=0.2), 30),
            Tile("oh", {"jawOpen": 0.35, "mouthFunnel": 0.8, "browInnerUp": 0.6} | both(browOuterUp=0.6)),
            Tile("a wink", SMILE | {"eyeBlinkLeft": 1.0, "browDownLeft": 0.5}, 10),
            Tile("60", EASE, 60),
            Tile("180", {}, 180),
        ),
        LARGE,
    ),
    "eyes": Sheet(
        TALKERS,
        faces(
            ("open", {}),
            ("both 0.5", both(eyeBlink=0.5)),
            ("both 1", both(eyeBlink=1.0)),
            ("left 1", {"eyeBlinkLeft": 1.0}),
            ("right 1", {"eyeBlinkRight": 1.0}),
            ("wide", both(eyeWide=1.0)),
            ("squint", both(eyeSquint=1.0)),
            part=EYES,
        ),
    ),
    "gaze": Sheet(
        TALKERS,
        faces(
            ("ahead", {}),
            ("her / his left", gaze(LOOK, 0)),
            ("right", gaze(-LOOK, 0)),
            ("up", gaze(0, LOOK_UP)),
            ("down", gaze(0, -LOOK_UP)),
            ("left and up", gaze(LOOK, LOOK_UP)),
            part=EYES,
        ),
    ),
    "mouth": Sheet(
        TALKERS,
        faces(
            ("jawOpen 0", {}),
            ("0.25", {"jawOpen": 0.25}),
            ("0.5", {"jawOpen": 0.5}),
            ("0.75", {"jawOpen": 0.75}),
            ("1", {"jawOpen": 1.0}),
            ("0.5, tongue", {"jawOpen": 0.5, "tongueOut": 1.0}),
            part=MOUTH,
        ),
    ),
    "expressions": Sheet(
        TALKERS,
        faces(
            ("rest", {}),
            ("smile", SMILE),
            ("jaw open", {"jawOpen": 1.0}),
            ("pucker", {"mouthPucker": 1.0}),
            ("funnel", {"mouthFunnel": 1.0, "jawOpen": 0.2}),
            ("frown", both(mouthFrown=1.0) | both(browDown=1.0)),
            ("brows up", both(browOuterUp=1.0) | {"browInnerUp": 1.0}),
            ("one-sided", {"mouthSmileLeft": 1.0, "eyeBlinkLeft": 0.8, "browDownLeft": 0.6}),
            part=FACE,
        ),
    ),
    "turn": Sheet(
        ("portrait_ride_nasa", "portrait_epps_nasa", "portrait_hopper_usnavy", "talk_woman_fur_hat"),
        tuple(Tile(f"{azimuth}", {}, azimuth) for azimuth in (-60, -30, 0, 30, 60, 90, 135, 180, 225, 270)),
    ),
    "glasses": Sheet(
        ("portrait_hopper_usnavy", "talk_man_glasses"),
        (
            *(Tile(f"{azimuth}", {}, azimuth) for azimuth in (-60, -30, 0, 30, 60)),
            Tile("blink", both(eyeBlink=1.0)),
            Tile("brows up", both(browOuterUp=1.0) | {"browInnerUp": 1.0}),
            Tile("close", {}, part=EYES),
            Tile("close, 30", {}, 30, part=EYES),
        ),
        LARGE,
    ),
    "beard": Sheet(
        (BEARDED, "talk_man_glasses"),
        (
            *(Tile(f"{azimuth}", {}, azimuth) for azimuth in (-60, -30, 0, 30, 60)),
            Tile("jaw open", {"jawOpen": 1.0}),
            Tile("smile", both(mouthSmile=1.0)),
            Tile("close", {}, part=MOUTH),
            Tile("close, jaw open", {"jawOpen": 1.0}, part=MOUTH),
        ),
        LARGE,
    ),
}


def main() -> None:
    """Make avatars, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="photos and clips")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the folder of the sheets")
    parser.add_argument("--steps", type=int, default=200, help="of fitting")
    parser.add_argument("--only", default=",".join(SHEETS), help="sheets, comma-separated")
    parser.add_argument("--beard", type=Path, help="the folder with portraits_256.tar: its bearded portrait is added")
    parser.add_argument("--model", default="open-1")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--work", type=Path, help="keeps the avatars")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    wanted = {name: SHEETS[name] for name in options.only.split(",")}
    options.output.mkdir(parents=True, exist_ok=True)
    instruments = load_instruments(options.model, options.device)
    people: dict[str, tuple[np.ndarray, Puppet]] = {}
    with work_folder(options.work, [], {"command": "sheets", "steps": options.steps}) as folder:
        job = pipeline.Job(instruments, folder, MatteOptions(), TrackOptions(), progress=console.progress)
        sources = {path.stem: path for path in options.folder.iterdir()}
        if options.beard is not None:
            sources[BEARDED] = unpack(options.beard, folder.folder)
        for name in dict.fromkeys(name for item in wanted.values() for name in item.people):
            if name not in sources:
                logging.info("%s: not in %s, left out", name, options.folder)
                continue
            people[name] = made(job, sources[name], options.steps)
    for name, item in wanted.items():
        rows = [drawn(*people[person], item) for person in item.people if person in people]
        if rows:
            labels = ["photo", *(tile.label for tile in item.tiles)]
            write(options.output / f"sheet-{name}.jpg", sheet(rows, labels, item.side))


def unpack(data: Path, folder: Path) -> Path:
    """The bearded portrait as a file."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{BEARDED}.png"
    with tarfile.open(data / "portraits_256.tar") as archive:
        stream = archive.extractfile(f"portraits_256/{BEARDED}.jpg")
        assert stream is not None
        Image.open(io.BytesIO(stream.read())).save(target)
    return target


def made(job: pipeline.Job, source: Path, steps: int) -> tuple[np.ndarray, Puppet]:
    """The head crop [S, S, 3] of the photo, or of a clip's most frontal frame, and the avatar fitted to it."""
    shot = pipeline.shoot(job, source)
    number = encoding.best_frame(shot.track)
    (view,) = views(shot, [number])
    kept = job.work.folder / f"{source.stem}-{steps}-{job.instruments.model.digest[:12]}.avatar"
    if not kept.exists():
        avatar = encoding.encode(shot, job.instruments, EncodeOptions(), number)
        ((rgb, alpha),) = shot.read([number])
        seen = crop_observation(rgb, alpha, shot.track, number)
        if steps:
            avatar = fitting.fit_observations(avatar, [seen], job.instruments, FitOptions(steps=steps), 0)
        avatar.save(kept)
    return view.image, puppet(Avatar.load(kept), job.instruments)


def drawn(photo: np.ndarray, figure: Puppet, item: Sheet) -> list[np.ndarray]:
    """The photo and the tiles of one person."""
    pictures = [photo]
    for tile in item.tiles:
        code = np.zeros((1, len(EXPRESSION_NAMES)), np.float32)
        for name, weight in tile.weights.items():
            code[0, INDEX[name]] = weight
        camera = turn(np.radians([tile.azimuth]), 512)
        if tile.part:
            camera = close_up(figure, camera, tile.part)
        rgb, _ = shown(figure, with_lids(code)[0], camera)
        pictures.append(rgb)
    return pictures


def close_up(figure: Puppet, camera: Camera, part: Sequence[int]) -> Camera:
    """The camera's square around some landmarks of the resting face."""
    model = LandmarkModel.of(figure.instruments.head)
    points = model.points(figure.identity.cpu().numpy().astype(np.float64), np.zeros(model.expression.shape[2]))
    pixels, _ = camera.project(points[list(part)])
    low, high = pixels[0].min(0), pixels[0].max(0)
    middle = (low + high) / 2
    return camera.cropped(
        Crop.square((float(middle[0]), float(middle[1])), GROWN * float((high - low).max()), 2 * SIDE)
    )


def write(path: Path, picture: np.ndarray) -> None:
    """A JPEG of at most MOST_BYTES."""
    image = Image.fromarray(to_uint8(picture))
    for quality in range(88, 40, -6):
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=quality, optimize=True)
        if stream.tell() <= MOST_BYTES:
            break
    path.write_bytes(stream.getvalue())
    print(path)


if __name__ == "__main__":
    main()
