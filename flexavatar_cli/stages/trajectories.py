"""Cameras for a video of an avatar: turntable, circle, front, the driver's own, or a file's. Head space, metres."""

import json
from pathlib import Path

import numpy as np

from flexavatar_cli.core.camera import Camera, look_at
from flexavatar_cli.core.errors import InputError, UsageError
from flexavatar_cli.core.files import replacing
from flexavatar_cli.core.track import Track
from flexavatar_cli.stages import published

HEAD_CENTRE = np.zeros(3)  # between the ears: halfway from the shoulders (-0.19 m) to the top of full hair
DISTANCE = 1.0  # metres from the eye to the head's centre, as in the published trajectories
VISIBLE_HEIGHT = 0.40  # metres at the head's centre: shoulders to hair, as in the encoder's crop; 22.6 degrees vertical
FRONT_DWELL = 0.75  # 0 = even turn; the turntable runs at 1 - dwell at the front and 1 + dwell behind

FREE_CAMERAS = ("orbit", "front", "circle", "paper-circle", "paper-turn")


def free_camera(cam2world: np.ndarray, size: int) -> Camera:  # cam2world [V, 4, 4]
    """Square cameras of `size` pixels that see the whole head and the shoulders."""
    focal = size * DISTANCE / VISIBLE_HEIGHT
    intrinsics = np.array([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1.0]])
    return Camera(cam2world, intrinsics, size, size)


def turn(azimuths: np.ndarray, size: int) -> Camera:  # azimuths [V] radians
    """Cameras on the horizontal circle around the head; 0 is the front, pi / 2 sees the subject's left side."""
    directions = np.stack([np.sin(azimuths), np.zeros_like(azimuths), np.cos(azimuths)], -1)
    eyes = HEAD_CENTRE + DISTANCE * directions
    return free_camera(np.stack([look_at(eye, HEAD_CENTRE) for eye in eyes]), size)


def orbit_azimuths(frames: int, dwell: float = FRONT_DWELL) -> np.ndarray:  # [frames] radians
    """One full turn that starts at the front, increases steadily, and is slow in front and fast behind.

    The step from the last frame to the first continues the turn, so the video loops.
    """
    phase = 2 * np.pi * np.arange(frames) / frames
    return phase - dwell * np.sin(phase)


def orbit(frames: int, size: int, dwell: float = FRONT_DWELL) -> Camera:
    """A turntable of 360 degrees."""
    return turn(orbit_azimuths(frames, dwell), size)


def front(frames: int, size: int) -> Camera:
    """A camera that stays in front of the face."""
    return turn(np.zeros(frames), size)


def circle(frames: int, size: int) -> Camera:
    """The paper's small frontal circle: eye at (-0.3 sin, 0.3 cos, 1) m from the head's centre."""
    angle = 2 * np.pi * np.arange(frames) / frames
    eyes = HEAD_CENTRE + np.stack([-0.3 * np.sin(angle), 0.3 * np.cos(angle), np.full(frames, DISTANCE)], -1)
    return free_camera(np.stack([look_at(eye, HEAD_CENTRE) for eye in eyes]), size)


def following(track: Track, size: int, relative: bool = False) -> Camera:
    """A frontal camera moved so that the head is seen to move as the driver's did.

    The head's rotation against the camera is the driver's (with `relative`: the rotation since the first frame);
    its centre moves as the driver's did around the clip's median place (with `relative`: since the first frame).
    """
    fixed = front(1, size)
    world2cam = track.camera().world2cam
    rotation, centre = world2cam[:, :3, :3], world2cam[:, :3, :3] @ HEAD_CENTRE + world2cam[:, :3, 3]
    facing = fixed.world2cam[0, :3, :3]
    if relative:
        rotation, rest = rotation @ rotation[0].T @ facing, centre[0]
    else:
        rest = np.median(centre, 0)
    place = fixed.world2cam[0, :3, :3] @ HEAD_CENTRE + fixed.world2cam[0, :3, 3] + centre - rest
    cam2world = np.tile(np.eye(4), (len(track), 1, 1))
    cam2world[:, :3, :3] = rotation.transpose(0, 2, 1)
    cam2world[:, :3, 3] = HEAD_CENTRE - (cam2world[:, :3, :3] @ place[..., None])[..., 0]
    return free_camera(cam2world, size)


def cameras_for(name: str, motion: Track, size: int, relative: bool = False) -> Camera:
    """The cameras called `name` (of FREE_CAMERAS, driver, or the path of a cameras.json), one per frame.

    Raises UsageError for a name that is neither, InputError for a bad file.
    """
    frames = len(motion)
    if name == "orbit":
        return orbit(frames, size)
    if name == "circle":
        return circle(frames, size)
    if name == "front":
        return following(motion, size, relative)
    if name == "paper-circle":
        return published.frontal_circle(frames, size)
    if name == "paper-turn":
        return published.full_turn(frames, size)
    if name == "driver":
        return motion.camera()
    if not Path(name).is_file():
        raise UsageError(f"--camera {name}: not one of {', '.join(FREE_CAMERAS)}, driver, and no such file")
    camera = load_cameras(Path(name))
    if len(camera) == 1:
        return Camera(np.repeat(camera.cam2world, frames, 0), camera.intrinsics, camera.width, camera.height)
    if len(camera) != frames:
        raise InputError(f"{name}: {len(camera)} cameras for {frames} frames; give one, or one per frame")
    return camera


def load_cameras(path: Path) -> Camera:
    """The cameras of a cameras.json. Raises InputError naming what is wrong."""
    try:
        content = json.loads(Path(path).read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: not a cameras.json ({error})") from error
    if not isinstance(content, dict) or content.get("convention") != "opencv":
        raise InputError(f'{path}: not a cameras.json (no "convention": "opencv")')
    entries = content.get("cameras")
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{path}: no cameras in it")
    try:
        sizes = {(int(entry["width"]), int(entry["height"])) for entry in entries}
        cam2world = np.array([entry["cam2world"] for entry in entries], np.float64)
        values = np.array([[entry[key] for key in ("fx", "fy", "cx", "cy")] for entry in entries], np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: a camera lacks or misstates a field ({error})") from error
    if len(sizes) != 1:
        raise InputError(f"{path}: cameras of different sizes; a video has one")
    if cam2world.shape[1:] != (4, 4) or not np.isfinite(cam2world).all() or not np.isfinite(values).all():
        raise InputError(f"{path}: cam2world must be 4 x 4 finite numbers")
    rotation = cam2world[:, :3, :3]
    if np.abs(rotation @ rotation.transpose(0, 2, 1) - np.eye(3)).max() > 1e-3 or (np.linalg.det(rotation) < 0).any():
        raise InputError(f"{path}: cam2world is not a rotation and a translation")
    width, height = sizes.pop()
    if min(width, height) < 1 or max(width, height) > 8192 or (values[:, :2] <= 0).any():
        raise InputError(f"{path}: size must be 1 to 8192 pixels and the focal lengths positive")
    intrinsics = np.tile(np.eye(3), (len(entries), 1, 1))
    intrinsics[:, 0, 0], intrinsics[:, 1, 1], intrinsics[:, 0, 2], intrinsics[:, 1, 2] = values.T
    return Camera(cam2world, intrinsics, width, height)


def save_cameras(
    camera: Camera,
    path: Path,
    source: int | None = None,  # number of the picture that `eval` makes the avatar of
) -> Path:
    """Write a cameras.json, beside and renamed."""
    entries = [
        {
            "cam2world": cam2world.tolist(),
            **{"fx": k[0, 0], "fy": k[1, 1], "cx": k[0, 2], "cy": k[1, 2]},
            **{"width": camera.width, "height": camera.height},
        }
        for cam2world, k in zip(camera.cam2world, camera.intrinsics, strict=True)
    ]
    stated = {} if source is None else {"source": source}
    with replacing(path) as temporary:
        temporary.write_text(json.dumps({"convention": "opencv", **stated, "cameras": entries}, indent=1))
    return Path(path)
