"""The protocols of `eval`: which frames make the avatar, which are compared, and the loop that measures them."""

import logging
import platform
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from flexavatar_cli.core.camera import Camera
from flexavatar_cli.core.errors import InputError
from flexavatar_cli.core.expression import EXPRESSION_NAMES
from flexavatar_cli.core.options import EncodeOptions, EvalOptions, FitOptions, TrackOptions
from flexavatar_cli.evaluation import metrics
from flexavatar_cli.evaluation.baselines import Body, ProjectedPhoto, StillPhoto, System, WarpedPhoto, ours
from flexavatar_cli.evaluation.networks import Judges, has_fovvideovdp, jod
from flexavatar_cli.evaluation.quality import holes, psnr
from flexavatar_cli.evaluation.scenes import Scene, Target, clip_scene, spread
from flexavatar_cli.media.images import to_uint8
from flexavatar_cli.stages import encoding, fitting, tracking
from flexavatar_cli.stages.instruments import Instruments
from flexavatar_cli.stages.observation import Observation, crop_observation
from flexavatar_cli.stages.rig import rig_anchor
from flexavatar_cli.stages.shots import Shot
from flexavatar_cli.stages.trajectories import turn
from flexavatar_cli.stages.uv_prior import UVPrior

log = logging.getLogger(__name__)

Row = dict[str, Any]  # protocol, scene, group, system, frame, and the measures that could be taken
OnStep = Callable[[int, int], None]
AZIMUTHS = 12
FIT_SHARE = 0.75  # of a clip, for the monocular protocol
FLICKER_FLOOR = 0.25 / 255  # a driver that does not move at all


class Clock:
    """Wall time, CPU time of all threads and peak memory of named stages."""

    def __init__(self) -> None:
        self.stages: dict[str, dict[str, float]] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Adds what happens inside to stage `name`."""
        fresh = reset_peak()
        start, start_cpu = time.perf_counter(), time.process_time()
        yield
        spent, spent_cpu, peak = time.perf_counter() - start, time.process_time() - start_cpu, peak_megabytes()
        stage = self.stages.setdefault(name, {"seconds": 0.0, "cpu_seconds": 0.0, "times": 0, "peak_mb": 0.0})
        stage["seconds"] += spent
        stage["cpu_seconds"] += spent_cpu
        stage["times"] += 1
        stage["peak_mb"] = max(stage["peak_mb"], peak) if fresh else peak


def reset_peak() -> bool:
    """Start a new peak of resident memory; whether the system could."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def peak_megabytes() -> float:
    """Peak resident memory of this process in MiB since the last `reset_peak`, or since it began."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    unit = 1 << 20 if platform.system() == "Darwin" else 1 << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


@dataclass
class Bench:
    """What all protocols of a run share."""

    instruments: Instruments
    judges: Judges
    options: EvalOptions
    seed: int = 0
    clock: Clock = field(default_factory=Clock)
    made: dict[tuple[Any, ...], list[Body]] = field(default_factory=dict)

    @cached_property
    def prior(self) -> UVPrior:
        """The closed-form prior of the model."""
        return encoding.load_prior(self.instruments)

    def source_frame(self, shot: Shot) -> int:
        """The frame a clip's avatar is made of: the most frontal, or the first with a face."""
        if self.options.source == "first":
            return int(np.flatnonzero(shot.track.confidence > 0)[0])
        return encoding.best_frame(shot.track)

    def bodies(
        self,
        shot: Shot,
        frame: int,  # what the encoder sees
        fitted_to: Sequence[int] | None = None,  # frames of the shot; None = that frame alone
        on_step: OnStep | None = None,
    ) -> list[Body]:
        """The photo on the rig, then the avatar before and after fitting, each with each bias sink; made once."""
        key = (shot.source, frame, None if fitted_to is None else tuple(fitted_to))
        if key not in self.made:
            self.made[key] = self._bodies(shot, frame, fitted_to, on_step)
        return self.made[key]

    def _bodies(self, shot: Shot, frame: int, fitted_to: Sequence[int] | None, on_step: OnStep | None) -> list[Body]:
        instruments, options = self.instruments, self.options
        names = shot.track.expression_names
        seen = observe(shot, [frame])[0]
        anchor = rig_anchor(instruments.head, instruments.model.resolution, instruments.device)
        bodies: list[Body] = [ProjectedPhoto(seen, self.prior, anchor, instruments, names)]
        sinks = ("3d", "2d") if options.sink == "both" else (options.sink,)
        avatars = {}
        for sink in sinks:
            with self.clock("encode"):
                avatars[sink] = encoding.encode(shot, instruments, EncodeOptions(bias_sink=sink), frame)
        bodies += [ours(avatars[sink], "encoded", instruments, names) for sink in sinks]
        if options.steps:
            observations = [seen] if fitted_to is None else observe(shot, fitted_to)
            fit_options = FitOptions(steps=options.steps)
            for number, sink in enumerate(sinks):
                done = number * options.steps

                def tick(step: int, total: int, done: int = done) -> None:
                    if on_step is not None:
                        on_step(done + step, options.steps * len(sinks))

                with self.clock("fit"):
                    better = fitting.fit_observations(
                        avatars[sink], observations, instruments, fit_options, self.seed, tick
                    )
                bodies.append(ours(better, "fitted", instruments, names))
        return bodies


def systems(scene: Scene, bodies: Sequence[Body]) -> list[System]:
    """The rows of a scene's table: the photo held still, the photo warped, then the heads in 3-D."""
    relative = None if scene.truth else next(scene.targets(scene.numbers[:1])).landmarks
    return [StillPhoto(scene.source), WarpedPhoto(scene.source, relative), *bodies]


def observe(shot: Shot, numbers: Sequence[int]) -> list[Observation]:
    """Frames of a shot as encoding and fitting see them."""
    pairs = zip(numbers, shot.read(list(numbers)), strict=True)
    return [crop_observation(rgb, alpha, shot.track, number) for number, (rgb, alpha) in pairs]


def self_scene(bench: Bench, shot: Shot, name: str) -> tuple[Scene, int]:
    """Avatar of one frame, driven by the others of the same clip through the driver's cameras."""
    source = bench.source_frame(shot)
    numbers = [number for number in spread(len(shot.track), bench.options.frames) if number != source]
    if not numbers:
        raise InputError(f"{shot.source}: one frame is not enough to compare; give a video")
    return clip_scene("self", name, shot, source, numbers), source


def cross_scene(bench: Bench, giver: Shot, driver: Shot, name: str) -> tuple[Scene, int]:
    """Identity of one clip, motion of another: no truth, so only CSIM with the source, AED, APD and flicker."""
    source = bench.source_frame(giver)
    numbers = spread(len(driver.track), bench.options.frames)
    return clip_scene("cross", name, driver, 0, numbers, (giver, source)), source


def few_shot_scene(bench: Bench, shot: Shot, name: str) -> tuple[Scene, int, list[int]]:
    """Fitted to a few frames spread over the clip; compared with the rest."""
    source = bench.source_frame(shot)
    tracked = np.flatnonzero(shot.track.confidence > 0)
    chosen = sorted({source, *(int(tracked[at]) for at in spread(len(tracked), max(1, bench.options.shots - 1)))})
    rest = [number for number in range(len(shot.track)) if number not in chosen]
    if not rest:
        raise InputError(f"{shot.source}: all {len(chosen)} frames are inputs; nothing is left to compare with")
    numbers = [rest[at] for at in spread(len(rest), bench.options.frames)]
    return clip_scene("few-shot", name, shot, source, numbers), source, chosen


def monocular_scene(bench: Bench, shot: Shot, name: str) -> tuple[Scene, int, list[int]]:
    """Fitted to the first three quarters of a clip; compared with the last quarter."""
    end = int(FIT_SHARE * len(shot.track))
    tracked = [number for number in range(end) if shot.track.confidence[number] > 0]
    if not tracked or end >= len(shot.track):
        raise InputError(f"{shot.source}: too short to be fitted on its first part and compared on its last")
    chosen = [tracked[at] for at in spread(len(tracked), bench.options.frames)]
    source = tracked[encoding.best_frame(shot.track[np.array(tracked)])]
    numbers = [end + at for at in spread(len(shot.track) - end, bench.options.frames)]
    return clip_scene("monocular", name, shot, source, numbers), source, chosen


def measure(bench: Bench, scene: Scene, systems: Sequence[System], on_step: OnStep | None = None) -> list[Row]:
    """Rows of one scene: a row per system and frame, and one per system for what belongs to the whole clip."""
    judges = bench.judges
    faces: dict[str, list[np.ndarray | None]] = {system.name: [] for system in systems}
    drivers: list[np.ndarray | None] = []
    rows: dict[tuple[str, int], Row] = {}
    source_vector = None
    if judges.embedding is not None:
        portrait = to_uint8(scene.source.on_white)
        found = judges.face(portrait, scene.source.landmarks)
        source_vector = None if found is None else judges.embedding.embed(portrait, found)
    total = len(scene.numbers) * len(systems)
    camera = None
    for at, target in enumerate(scene.targets(scene.numbers)):
        camera = target.camera
        truth = to_uint8(target.shown())
        driver = None if target.landmarks is None else judges.face(truth, target.landmarks)
        drivers.append(driver)
        for order, system in enumerate(systems):
            with bench.clock("render"):
                rgb, alpha = confined(system.show(target), target)
            row: Row = {"protocol": scene.protocol, "scene": scene.name, "system": system.name, "frame": target.number}
            row["group"] = "" if scene.groups is None else scene.groups[target.number]
            picture = to_uint8(rgb)
            with bench.clock("measure"):
                near = target.landmarks
                face = None if near is None else judges.face(picture, near)
                faces[system.name].append(face)
                if scene.truth:
                    row |= compare(rgb, alpha, target, judges)
                    row |= face_measures(picture, face, truth, driver, judges)
                elif judges.embedding is not None:
                    vector = None if face is None else judges.embedding.embed(picture, face)
                    missing = vector is None or source_vector is None
                    row["csim"] = float("nan") if missing else metrics.cosine(vector, source_vector)  # type: ignore[arg-type]
            rows[system.name, target.number] = row
            if on_step is not None:
                on_step(at * len(systems) + order + 1, total)
    assert camera is not None
    with bench.clock("measure"):
        truth_code = codes(drivers, camera.width, float(camera.intrinsics[0, 0, 0]), bench)
        for name, found_faces in faces.items():
            code = codes(found_faces, camera.width, float(camera.intrinsics[0, 0, 0]), bench)
            aed, apd = metrics.code_distances(code, truth_code)
            for number, one, other in zip(scene.numbers, aed, apd, strict=True):
                rows[name, number] |= {"aed": float(one), "apd": float(other)}
    return list(rows.values()) + over_time(bench, scene, systems)


def confined(shown: tuple[np.ndarray, np.ndarray], target: Target) -> tuple[np.ndarray, np.ndarray]:
    """A picture cut where the driver's own picture ends: nobody knows what is beyond."""
    rgb, alpha = shown
    known = target.inside > 0.5
    return np.where(known[..., None], rgb, np.float32(1)), alpha * known


def compare(rgb: np.ndarray, alpha: np.ndarray, target: Target, judges: Judges) -> Row:
    """Measures of one picture on white, and its alpha, against the truth."""
    truth = target.shown()
    black = np.clip(rgb - (1 - alpha[..., None]), 0, 1)  # the picture is composited on white
    black_truth = target.shown(0.0)
    mask = target.matte * target.inside
    similar = metrics.ssim_map(rgb, truth)
    row: Row = {
        "psnr": psnr(rgb, truth),
        "psnr_black": psnr(black, black_truth),
        "psnr_matte": psnr(rgb, truth, mask),
        "ssim": metrics.ssim_mean(similar),
        "ssim_black": metrics.ssim_mean(metrics.ssim_map(black, black_truth)),
        "ssim_matte": metrics.ssim_mean(similar, mask),
    }
    ours_alpha, theirs = alpha > 0.5, mask > 0.5
    union = (ours_alpha | theirs).sum()
    row["iou"] = float((ours_alpha & theirs).sum() / union) if union else float("nan")
    if judges.lpips is not None:
        row["lpips"] = judges.lpips.distance(np.clip(rgb, 0, 1), truth)
    return row


def face_measures(
    picture: np.ndarray,  # [S, S, 3] uint8
    face: np.ndarray | None,  # [478, 2]
    truth: np.ndarray,
    driver: np.ndarray | None,
    judges: Judges,
) -> Row:
    """AKD and CSIM of one picture; NaN where one of the two shows no face."""
    row: Row = {}
    side = picture.shape[1]
    if judges.landmarks is not None and driver is not None:
        one, other = (judges.landmarks.points(rgb, driver) for rgb in (picture, truth))
        row["akd"] = metrics.keypoint_distance(one, other, side)
    elif face is not None and driver is not None:
        row["akd"] = metrics.keypoint_distance(face, driver, side)
    else:
        row["akd"] = float("nan")
    if judges.embedding is not None:
        pair = [(picture, face), (truth, driver)]
        vectors = [judges.embedding.embed(rgb, points) for rgb, points in pair if points is not None]
        row["csim"] = metrics.cosine(*vectors) if len(vectors) == 2 else float("nan")
    return row


def codes(faces: Sequence[np.ndarray | None], side: int, focal: float, bench: Bench) -> np.ndarray:  # [T, E]
    """Our tracker's codes of landmarks [478, 2] or None, one identity for all; NaN where there is no face."""
    points = np.array([np.full((478, 2), np.nan) if face is None else face for face in faces])
    valid = np.isfinite(points).all((1, 2))
    result = np.full((len(points), len(EXPRESSION_NAMES)), np.nan)
    if valid.any():
        options = TrackOptions(smoothing=0)  # the frames are far apart
        logger = logging.getLogger(tracking.__name__)
        before, logger.disabled = logger.disabled, True  # its talk is about clips
        try:
            track = tracking.track_landmarks(
                points[valid], (side, side), options, focal_px=focal, head=bench.instruments.head
            )
        finally:
            logger.disabled = before
        result[valid] = track.expression_code
    return result


def over_time(bench: Bench, scene: Scene, systems: Sequence[System]) -> list[Row]:
    """Flicker and JOD of each system on the scene's unbroken run of frames."""
    if len(scene.run) < 3:
        return []
    window: dict[str, list[np.ndarray]] = {}
    change: dict[str, list[float]] = {}
    films: dict[str, list[np.ndarray]] = {}
    wants_film = has_fovvideovdp() and scene.truth
    for target in scene.targets(scene.run):
        pictures = {"": target.shown()}
        for system in systems:
            with bench.clock("render"):
                pictures[system.name] = confined(system.show(target), target)[0]
        for name, rgb in pictures.items():
            three = window.setdefault(name, [])
            three.append(to_uint8(rgb))
            if wants_film:
                films.setdefault(name, []).append(three[-1])
            if len(three) == 3:
                mask = target.matte * target.inside > 0.5
                moved = metrics.second_difference(three)[mask]
                change.setdefault(name, []).append(float(moved.mean()) / 255 if moved.size else 0.0)
                three.pop(0)
    own = max(float(np.mean(change[""])), FLICKER_FLOOR)
    rows = []
    for system in systems:
        row: Row = {"protocol": scene.protocol, "scene": scene.name, "system": system.name, "frame": -1, "group": ""}
        row["flicker"] = float(np.mean(change[system.name])) / own
        if wants_film:
            row["jod"] = jod(np.stack(films[system.name]), np.stack(films[""]), scene.fps)
        rows.append(row)
    return rows


def all_around() -> Camera:
    """The AZIMUTHS cameras that look for holes, the front first."""
    return turn(2 * np.pi * np.arange(AZIMUTHS) / AZIMUTHS, 512)


def completeness(bench: Bench, name: str, bodies: Sequence[Body], on_step: OnStep | None = None) -> list[Row]:
    """Holes of every head in 3-D at rest, from AZIMUTHS sides; `frame` is the azimuth in degrees."""
    cameras = all_around()
    rows = []
    for order, body in enumerate(bodies):
        rest = np.zeros(len(body.expression_names), np.float32)
        with bench.clock("render"):
            alphas = [alpha for _, alpha in body.pose(rest, cameras)]
        for number, alpha in enumerate(alphas):
            row: Row = {"protocol": "completeness", "scene": name, "system": body.name, "group": ""}
            rows.append(row | {"frame": round(360 / AZIMUTHS * number), "holes": holes(alpha)})
            if on_step is not None:
                on_step(order * AZIMUTHS + number + 1, len(bodies) * AZIMUTHS)
    return rows


def difference(rgb: np.ndarray, truth: np.ndarray) -> np.ndarray:  # [H, W, 3] each -> [H, W, 3]
    """A heat map of the absolute error, mean over RGB: black 0, red, yellow, white from 0.4 on."""
    error = np.clip(np.abs(rgb - truth).mean(-1) / 0.4, 0, 1)[..., None]
    return np.clip(error * 3 - np.array([0.0, 1.0, 2.0]), 0, 1).astype(np.float32)
