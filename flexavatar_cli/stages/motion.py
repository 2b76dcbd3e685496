"""Motion as a `Track` without pictures: the built-in demonstration, ARKit curves, motion files; and its transfer."""

import csv
import logging
import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from flexavatar_cli.core.camera import Camera
from flexavatar_cli.core.errors import InputError
from flexavatar_cli.core.expression import ARKIT_NAMES, EXPRESSION_NAMES, INDEX, LOOK_RADIANS, both
from flexavatar_cli.core.flame import FLAME_NAMES
from flexavatar_cli.core.track import Track
from flexavatar_cli.stages import published, trajectories

log = logging.getLogger(__name__)

DEMO_SECONDS = 6.0
DEMO_FPS = 25.0
LIVE_LINK_FPS = 60.0  # what the Live Link Face app records unless told otherwise
COMMON_FPS = (24.0, 25.0, 30.0, 50.0, 60.0)

BLINKS = (0.25, 1.25, 2.9, 4.55, 5.8)  # seconds; centre of each
EASE = both(mouthSmile=0.15)  # all the time: a face without any expression looks stern
# One that bares the teeth: with closed lips a face looks polite.
SMILE = {
    **both(mouthSmile=1.0, cheekSquint=0.5, eyeSquint=0.25, mouthUpperUp=0.45, mouthLowerDown=0.35, mouthDimple=0.2),
    "jawOpen": 0.08,
}
# Talking: seconds, then jawOpen, mouthFunnel, mouthPucker, mouthStretch, mouthClose, upper lip, lower lip at each key.
TALK = (
    (3.75, 0.00, 0.00, 0.00, 0.00, 0.00, 0.00, 0.00),
    (3.90, 0.45, 0.00, 0.00, 0.10, 0.00, 0.15, 0.25),  # ah
    (4.05, 0.10, 0.00, 0.00, 0.00, 0.10, 0.00, 0.00),  # m
    (4.20, 0.30, 0.45, 0.15, 0.00, 0.00, 0.00, 0.00),  # oh
    (4.35, 0.15, 0.10, 0.55, 0.00, 0.00, 0.00, 0.00),  # oo
    (4.50, 0.20, 0.00, 0.00, 0.40, 0.00, 0.20, 0.35),  # ee
    (4.65, 0.06, 0.00, 0.00, 0.00, 0.06, 0.00, 0.00),  # b
    (4.80, 0.55, 0.00, 0.00, 0.05, 0.00, 0.20, 0.30),  # ah
    (4.95, 0.15, 0.30, 0.35, 0.00, 0.00, 0.00, 0.00),  # w
    (5.10, 0.25, 0.00, 0.00, 0.30, 0.00, 0.15, 0.30),  # eh
    (5.22, 0.00, 0.00, 0.00, 0.00, 0.00, 0.00, 0.00),
)
TALK_SHAPES = (
    ("jawOpen",), ("mouthFunnel",), ("mouthPucker",), ("mouthStretchLeft", "mouthStretchRight"), ("mouthClose",),
    ("mouthUpperUpLeft", "mouthUpperUpRight"), ("mouthLowerDownLeft", "mouthLowerDownRight"),
)  # fmt: skip


def bump(seconds: np.ndarray, centre: float, rise: float, hold: float = 0.0) -> np.ndarray:  # [T] -> [T] in 0..1
    """A smooth rise to 1 around `centre` and back, periodic in the demonstration's length.

    It holds 1 for `hold` seconds and takes `rise` seconds up and as many down; the speed is 0 at all four ends.
    """
    away = np.abs((seconds - centre + DEMO_SECONDS / 2) % DEMO_SECONDS - DEMO_SECONDS / 2)
    height = np.clip(1 - (away - hold / 2) / rise, 0, 1)
    return height * height * (3 - 2 * height)


def demo_expression(seconds: np.ndarray) -> np.ndarray:  # [T] -> [T, 59]
    """The built-in motion at the given times: blinks, a smile, raised brows, glances, speech, the tongue once.

    Exactly periodic in DEMO_SECONDS, and neutral at 0. Timed for `trajectories.orbit`: the face is turned
    more than 60 degrees away from the camera between 1.7 s and 4.3 s.
    """
    seconds = np.asarray(seconds, np.float64) % DEMO_SECONDS
    code = np.zeros((len(seconds), len(EXPRESSION_NAMES)), np.float32)

    def add(curve: np.ndarray, **weights: float) -> None:
        for name, weight in weights.items():
            code[:, INDEX[name]] += weight * curve

    for centre in BLINKS:
        add(bump(seconds, centre, 0.12, 0.03), **both(eyeBlink=1.0))
    add(bump(seconds, 0.85, 0.3, 0.4), **SMILE)
    brows = bump(seconds, 1.5, 0.22, 0.15)
    add(brows, browInnerUp=0.8, jawOpen=0.12)
    add(brows, **both(browOuterUp=0.8, eyeWide=0.4))
    keys = np.array(TALK)
    for names, values in zip(TALK_SHAPES, keys[:, 1:].T, strict=True):
        curve = cosine_keys(seconds, keys[:, 0], values)
        add(curve, **dict.fromkeys(names, 1.0))
    tongue = bump(seconds, 5.5, 0.16, 0.06)
    add(tongue, tongueOut=1.0, jawOpen=0.45)
    add(bump(seconds, 4.7, 0.3, 0.3), **both(browDown=0.35))

    yaw = 0.32 * bump(seconds, 1.5, 0.1, 0.24) - 0.32 * bump(seconds, 4.85, 0.1, 0.3)
    pitch = 0.12 * bump(seconds, 1.5, 0.1, 0.24) - 0.15 * bump(seconds, 5.1, 0.1, 0.2)
    for side in ("Left", "Right"):
        add(yaw, **{f"gaze{side}Yaw": 1.0})
        add(pitch, **{f"gaze{side}Pitch": 1.0})
    return with_lids(np.clip(code, np.minimum(code, 0) * gaze_columns(), 1.0))


def cosine_keys(seconds: np.ndarray, times: np.ndarray, values: np.ndarray) -> np.ndarray:  # [T], [K], [K] -> [T]
    """Smooth curve through keys that starts and ends at rest; its speed is 0 at every key. Outside: the end values."""
    index = np.clip(np.searchsorted(times, seconds, side="right") - 1, 0, len(times) - 2)
    part = np.clip((seconds - times[index]) / (times[index + 1] - times[index]), 0, 1)
    part = part * part * (3 - 2 * part)
    return values[index] * (1 - part) + values[index + 1] * part


def gaze_columns() -> np.ndarray:  # [59] float32, 1 where a column is an angle and may be negative
    """Marks of the columns that are angles in radians, not weights."""
    return np.array([name not in ARKIT_NAMES for name in EXPRESSION_NAMES], np.float32)


def with_lids(code: np.ndarray) -> np.ndarray:  # [T, 59] -> [T, 59]
    """The same code with the eight eyeLook* weights set from the gaze angles, as the tracker does."""
    code = code.copy()
    for side, sign in (("Left", 1.0), ("Right", -1.0)):
        yaw = code[:, INDEX[f"gaze{side}Yaw"]] * sign / LOOK_RADIANS  # > 0: outwards
        pitch = code[:, INDEX[f"gaze{side}Pitch"]] / LOOK_RADIANS
        for name, value in (("Out", yaw), ("In", -yaw), ("Up", pitch), ("Down", -pitch)):
            code[:, INDEX[f"eyeLook{name}{side}"]] = np.clip(value, 0, 1)
    return code


def demo_motion(fps: float = DEMO_FPS, size: int = 512) -> Track:
    """One period of the built-in motion, at ease throughout, seen from the front."""
    frames = round(DEMO_SECONDS * fps)
    code = demo_expression(np.arange(frames) / fps)
    for name, weight in EASE.items():
        code[:, INDEX[name]] = (code[:, INDEX[name]] + weight).clip(max=1.0)
    return motion_track(code, trajectories.front(frames, size), fps, "demo")


def motion_track(code: np.ndarray, camera: Camera, fps: float, head_model: str) -> Track:  # code [T, 59]
    """A Track of an expression code that was not measured in pictures: confidence 1, no landmarks."""
    frames = len(code)
    return Track(
        cam2world=camera.cam2world,
        intrinsics=camera.intrinsics,
        size=np.array([camera.width, camera.height]),
        fps=float(fps),
        expression_code=np.asarray(code, np.float32),
        expression_names=EXPRESSION_NAMES,
        identity=np.zeros(0, np.float32),
        confidence=np.ones(frames, np.float32),
        reprojection_px=np.zeros(frames, np.float32),
        landmarks=np.zeros((frames, 478, 2), np.float32),
        head_model=head_model,
    )


def load_motion(path: Path, size: int = 512) -> Track:
    """Motion of a `.npz` (track or motion), `.csv` (ARKit curves) or folder of `.frame` files. Raises InputError."""
    path = Path(path)
    if path.is_dir():
        return published.load_tracked(path)
    if path.suffix.lower() == ".csv":
        return load_arkit(path, size)
    return Track.load(path)


def load_arkit(path: Path, size: int = 512) -> Track:
    """Motion of ARKit curves as the Live Link Face app writes them: a header, then one row per frame.

    Columns go by name, in any order and case. The gaze comes from the eyeLook* columns; HeadYaw, HeadPitch and
    HeadRoll (radians; yaw > 0 turns to the subject's left, pitch > 0 up) move the camera. The rate comes from
    the Timecode column (HH:MM:SS:FF.fff), else it is 60. Raises InputError.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:
            rows = [row for row in csv.reader(stream) if any(cell.strip() for cell in row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a table of ARKit curves ({error})") from error
    if len(rows) < 2:
        raise InputError(f"{path}: no frames in it")
    header = [cell.strip().lower() for cell in rows[0]]
    found = {name: header.index(name.lower()) for name in EXPRESSION_NAMES if name.lower() in header}
    if not any(name in ARKIT_NAMES for name in found):
        raise InputError(f"{path}: no ARKit column such as jawOpen in its header")
    code = np.zeros((len(rows) - 1, len(EXPRESSION_NAMES)), np.float32)
    for number, row in enumerate(rows[1:]):
        try:
            for name, column in found.items():
                code[number, INDEX[name]] = float(row[column])
        except (ValueError, IndexError) as error:
            raise InputError(f"{path}: line {number + 2} lacks a number for {name}") from error
    if not np.isfinite(code).all():
        raise InputError(f"{path}: has values that are not finite")
    code = with_gaze(code)
    head = code[:, [INDEX["headYaw"], INDEX["headPitch"], INDEX["headRoll"]]]
    camera = turned_heads(head.astype(np.float64), size)
    times = [row[header.index("timecode")] for row in rows[1:]] if "timecode" in header else []
    return motion_track(code, camera, timecode_fps(times), "arkit")


def with_gaze(code: np.ndarray) -> np.ndarray:  # [T, 59] -> [T, 59]
    """The same code with the gaze angles set from the eyeLook* weights."""
    code = code.copy()
    for side, sign in (("Left", 1.0), ("Right", -1.0)):
        look = {name: code[:, INDEX[f"eyeLook{name}{side}"]] for name in ("In", "Out", "Up", "Down")}
        code[:, INDEX[f"gaze{side}Yaw"]] = (look["Out"] - look["In"]) * sign * LOOK_RADIANS
        code[:, INDEX[f"gaze{side}Pitch"]] = (look["Up"] - look["Down"]) * LOOK_RADIANS
    return code


def turned_heads(angles: np.ndarray, size: int) -> Camera:  # angles [T, 3] radians: yaw, pitch, roll
    """Frontal cameras moved so that the head is seen turned by the angles about its centre."""
    (cy, cp, cr), (sy, sp, sr) = np.cos(angles).T, np.sin(angles).T
    zero, one = np.zeros_like(cy), np.ones_like(cy)
    yaw = np.array([[cy, zero, sy], [zero, one, zero], [-sy, zero, cy]])
    pitch = np.array([[one, zero, zero], [zero, cp, sp], [zero, -sp, cp]])  # > 0 turns +z towards +y
    roll = np.array([[cr, -sr, zero], [sr, cr, zero], [zero, zero, one]])
    head2world = np.einsum("ijt,jkt,klt->til", yaw, pitch, roll)
    fixed = trajectories.front(1, size)
    cam2world = np.tile(np.eye(4), (len(angles), 1, 1))
    cam2world[:, :3, :3] = head2world.transpose(0, 2, 1) @ fixed.cam2world[0, :3, :3]
    away = fixed.cam2world[0, :3, 3] - trajectories.HEAD_CENTRE
    cam2world[:, :3, 3] = trajectories.HEAD_CENTRE + head2world.transpose(0, 2, 1) @ away
    return trajectories.free_camera(cam2world, size)


def timecode_fps(times: list[str]) -> float:
    """Frames per second of rows stamped HH:MM:SS:FF or HH:MM:SS:FF.fff; 60 where the stamps do not tell.

    FF counts frames of a rate that the file does not name; it is the least common rate above every FF.
    """
    matches = [re.fullmatch(r"(\d+):(\d+):(\d+)[:;.](\d+(?:\.\d+)?)", text.strip()) for text in times]
    if len(times) < 2 or not all(matches):
        return LIVE_LINK_FPS
    parts = np.array([[float(group) for group in match.groups()] for match in matches if match])
    base = next((rate for rate in COMMON_FPS if rate > parts[:, 3].max() and rate >= 30), LIVE_LINK_FPS)
    seconds = parts[:, :3] @ [3600, 60, 1] + parts[:, 3] / base
    length = (seconds[-1] - seconds[0]) % 86400
    if length <= 0:
        return LIVE_LINK_FPS
    fps = (len(times) - 1) / length
    near = min(COMMON_FPS, key=lambda rate: abs(rate - fps))
    return near if abs(near - fps) < 0.03 * near else float(np.clip(fps, 1, 240))


def hold_missing(track: Track) -> tuple[Track, list[int]]:
    """The track with frames of confidence 0 showing the last pose before them, and the numbers of those frames.

    Frames before the first face show the first face's pose. Raises InputError if no frame has a face.
    """
    seen = track.confidence > 0
    if not seen.any():
        raise InputError("driver: no frame shows a face")
    last = np.maximum.accumulate(np.where(seen, np.arange(len(track)), -1))
    last[last < 0] = np.flatnonzero(seen)[0]
    held = track[last]
    return replace(held, confidence=track.confidence), np.flatnonzero(~seen).tolist()


def transfer(
    code: np.ndarray,  # [T, E]
    names: tuple[str, ...],  # [E]
    neutral: np.ndarray,  # [E] the avatar's resting face
    relative: bool,
) -> np.ndarray:  # [T, E]
    """The driver's expression for the avatar.

    With `relative` the driver's first frame counts as its resting face: what differs from it is added to the
    avatar's, so that a driver whose mouth hangs open or whose lids are heavy at rest passes on none of that.
    Blendshape weights stay in 0..1; angles and other codes are not limited.
    """
    if not relative:
        return code
    moved = code - code[:1] + neutral
    weights = np.isin(np.array(names), ARKIT_NAMES)
    return np.where(weights, np.clip(moved, 0, 1), moved).astype(np.float32)


def recoded(code: np.ndarray, names: tuple[str, ...], wanted: tuple[str, ...]) -> np.ndarray:  # [T, E] -> [T, E']
    """The code's columns in the order `wanted`; names it lacks are 0. Raises InputError if it has none of them."""
    if names == wanted:
        return code
    if wanted == FLAME_NAMES and names == EXPRESSION_NAMES:
        log.warning("driver: ARKit curves move jaw, lids and gaze of a FLAME avatar; its other shapes stay at rest")
        return published.code_from_arkit(code)
    where = {name: column for column, name in enumerate(names)}
    if not any(name in where for name in wanted):
        raise InputError("driver: its expression names are not the avatar's; track it with the avatar's head model")
    result = np.zeros((len(code), len(wanted)), np.float32)
    for column, name in enumerate(wanted):
        if name in where:
            result[:, column] = code[:, where[name]]
    return result
