"""How the published system sees its inputs: head-centric cameras, crops, codes and trajectories (SPEC 9.1, 10)."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from flexavatar_cli.core.avatar import Avatar
from flexavatar_cli.core.camera import Camera, look_at
from flexavatar_cli.core.errors import InputError, UsageError
from flexavatar_cli.core.expression import INDEX
from flexavatar_cli.core.files import digest_file
from flexavatar_cli.core.flame import (
    FLAME_NAMES,
    expression_code,
    proper_rotation,
    rotation_from_6d,
    rotation_to_6d,
)
from flexavatar_cli.core.track import Track
from flexavatar_cli.media.frame_files import (
    TrackedFrame,
    crop_box,
    frame_files,
    read_frame,
    read_npy,
    write_frame,
    write_npy,
)
from flexavatar_cli.media.frames import Frames
from flexavatar_cli.media.images import to_float, to_uint8
from flexavatar_cli.stages.instruments import Instruments

log = logging.getLogger(__name__)

CROP = 512  # pixels
CROPPED = "flame, published crop"  # head_model of tracks whose pictures are framed as the encoder wants them
BOX_FILE = "crop_ymin_ymax_xmin_xmax.npy"
CROP_MARGIN = 0.1  # of the box side, added on all sides
FPS = 24.0  # of the published videos
FOCAL = 1500.0  # pixels of a 512 picture, the published free views
TRAJECTORY_CENTRE = np.array([0.0, 0.0, -0.05])  # of the turns about the head
LID_CLOSED = 0.8  # eyelid coefficient of a shut eye; the published files hold about 0 to 0.8
JAW_OPEN = 0.35  # radians the jaw turns for a jawOpen of 1


def head_pose(frame: TrackedFrame) -> np.ndarray:  # [4, 4] float32
    """Head space to tracker world: global motion times the neck joint, made rigid (SPEC 10.2)."""
    pose = np.eye(4, dtype=np.float32)
    pose[:3, :3] = rotation_from_6d(frame.rotation)
    pose[:3, 3] = frame.translation
    pose = pose @ frame.joint_transforms[1]
    pose[:3, :3] = proper_rotation(pose[:3, :3])
    return pose.astype(np.float32)


def tracker_cam2world(frame: TrackedFrame) -> np.ndarray:  # [4, 4] float32
    """The tracker's camera in OpenCV axes, tracker world."""
    world2cam = np.eye(4, dtype=np.float32)
    world2cam[:3, :3], world2cam[:3, 3] = frame.base_rotation, frame.base_translation
    result = np.linalg.inv(world2cam)
    result[:, 1:3] *= -1
    return result


def headcentric_cam2world(frame: TrackedFrame) -> np.ndarray:  # [4, 4] float32
    """The camera in head space."""
    return np.linalg.inv(head_pose(frame)) @ tracker_cam2world(frame)


def tracker_intrinsics(frame: TrackedFrame) -> np.ndarray:  # [3, 3] float32, pixels of the tracker's 512 crop
    """Intrinsics of the tracker's own crop."""
    focal = np.float32(CROP) * frame.focal[0]
    centre = (CROP + 1) / 2 * frame.principal + (CROP + 1) / 2
    return np.array([[focal, 0, centre[0]], [0, focal, centre[1]], [0, 0, 1]], np.float32)


def code_of(frame: TrackedFrame) -> np.ndarray:  # [135] float32
    """The expression code, every part as it was tracked (SPEC 6.1)."""
    return expression_code(
        expression=frame.expression,
        eye_left=frame.eyes[:6],
        eye_right=frame.eyes[6:],
        eyelids=frame.eyelids,
        neck=frame.neck,
        jaw=frame.jaw,
        head=frame.rotation,
        translation=frame.translation,
    )


def _margins(box: Sequence[int], height: int) -> tuple[int, int, int]:
    """Side of the box, pixels added around it, and pixels the window moves up to stay above the picture's end."""
    side = box[1] - box[0]
    added = int(CROP_MARGIN * side)
    return side, added, max(0, added - (height - box[1]))


def crop_picture(picture: np.ndarray, box: Sequence[int]) -> np.ndarray:  # [H, W, 3] uint8 -> [512, 512, 3] uint8
    """The box (ymin, ymax, xmin, xmax) with a margin, white where the picture ends, as the encoder sees it (10.3)."""
    height, width = picture.shape[:2]
    top, bottom, left, right = box
    _, added, below = _margins(box, height)
    first, last = top - added - below, bottom + added - below
    start, end = left - added, right + added
    window = np.full((last - first, end - start, 3), 255, np.uint8)
    rows, columns = slice(max(first, 0), min(last, height)), slice(max(start, 0), min(end, width))
    window[rows.start - first : rows.stop - first, columns.start - start : columns.stop - start] = picture[
        rows, columns
    ]
    if window.shape[:2] == (CROP, CROP):
        return window
    return np.asarray(Image.fromarray(window).resize((CROP, CROP), Image.Resampling.BILINEAR))


def crop_intrinsics(intrinsics: np.ndarray, box: Sequence[int], height: int) -> np.ndarray:  # [3, 3] -> [3, 3]
    """Intrinsics of the tracker's crop for the crop with a margin.

    The shift in x is exactly a tenth, the pixels' is the truncated integer: the published mismatch, kept (SPEC 10.3).
    """
    side, added, below = _margins(box, height)
    moved = np.array(intrinsics, np.float64)
    moved[0, 2] += CROP_MARGIN * CROP
    moved[1, 2] += CROP * (added + below) / side
    moved[:2] *= CROP / (CROP + 2 * CROP_MARGIN * CROP)
    return moved.astype(np.float32)


def track_of(frames: Sequence[TrackedFrame]) -> Track:
    """Tracked frames as a Track: head-centric cameras of the tracker's 512 crop, and 135-d codes."""
    count = len(frames)
    return Track(
        cam2world=np.stack([headcentric_cam2world(frame) for frame in frames]).astype(np.float64),
        intrinsics=np.stack([tracker_intrinsics(frame) for frame in frames]).astype(np.float64),
        size=np.array([CROP, CROP]),
        fps=FPS,
        expression_code=np.stack([code_of(frame) for frame in frames]),
        expression_names=FLAME_NAMES,
        identity=frames[0].shape.astype(np.float32),
        confidence=np.ones(count, np.float32),
        reprojection_px=np.zeros(count, np.float32),
        landmarks=np.zeros((count, 478, 2), np.float32),
        head_model="flame",
    )


def box_file(folder: Path) -> Path:
    """The crop box of a tracked sequence: in its folder, or where the published layout has it (SPEC 10.1).

    Raises InputError if there is none.
    """
    places = sorted(Path(folder).rglob(BOX_FILE))
    checkpoint = frame_files(folder)[0].parent.resolve()
    for ancestor in checkpoint.parents:
        rest = checkpoint.relative_to(ancestor).parts
        if ancestor.name == "tracking" and len(rest) > 2:
            places.append(ancestor.parent / "processing" / rest[0] / rest[1] / "tracking" / BOX_FILE)
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise InputError(f"{folder}: no {BOX_FILE} in it; put the crop box of the sequence beside its frames")
    return found


def cropped_inputs(pictures: Frames, folder: Path) -> tuple[Iterator[np.ndarray], Track]:
    """Pictures [512, 512, 3] float32 as the published encoder sees them, and their track, of a tracked sequence.

    Raises InputError if the sequence is not of these pictures.
    """
    files = frame_files(folder)
    if len(files) != len(pictures):
        raise InputError(f"{folder}: {len(files)} tracked frames for the {len(pictures)} pictures of {pictures.path}")
    frames, box, height = [read_frame(path) for path in files], crop_box(box_file(folder)), pictures.height
    track = track_of(frames)
    intrinsics = np.stack([crop_intrinsics(tracker_intrinsics(frame), box, height) for frame in frames])
    crops = (to_float(crop_picture(to_uint8(picture), box)) for picture in pictures)
    return crops, replace(track, intrinsics=intrinsics.astype(np.float64), head_model=CROPPED)


def load_tracked(folder: Path) -> Track:
    """The tracked sequence at or under `folder`. Raises InputError naming the file that is wrong."""
    files = frame_files(folder)
    if not files:
        raise InputError(f"{folder}: no .frame files in it")
    return track_of([read_frame(path) for path in files])


def frames_of(track: Track) -> list[TrackedFrame]:
    """A FLAME track as frames of the published kind: its cameras become the head's motion in front of a fixed one.

    Raises InputError if the codes are not 135-d FLAME codes.
    """
    if track.expression_names != FLAME_NAMES:
        raise InputError("only tracks of a FLAME head can be written as .frame files")
    fixed = np.diag([1.0, -1.0, -1.0, 1.0])  # tracker camera to its world: one metre in front, looking back
    fixed[2, 3] = 1
    frames = []
    for number, code in enumerate(track.expression_code.astype(np.float32)):
        pose = fixed @ np.linalg.inv(track.cam2world[number])
        joints = np.tile(np.eye(4, dtype=np.float32), (5, 1, 1))
        joints[2, :3, :3] = rotation_from_6d(code[120:126])
        joints[3, :3, :3], joints[4, :3, :3] = rotation_from_6d(code[100:106]), rotation_from_6d(code[106:112])
        side = float(track.size[0])
        focal, centre = track.intrinsics[number, 0, 0], track.intrinsics[number, :2, 2]
        shape = np.zeros(300, np.float32)
        shape[: min(300, len(track.identity))] = track.identity[:300]
        frames.append(
            TrackedFrame(
                expression=code[:100],
                shape=shape,
                eyes=code[100:112],
                eyelids=code[112:114],
                jaw=code[120:126],
                neck=np.array([1, 0, 0, 0, 1, 0], np.float32),
                rotation=rotation_to_6d(pose[:3, :3]),
                translation=pose[:3, 3],
                base_rotation=np.eye(3),
                base_translation=np.array([0.0, 0, -1]),
                focal=np.array([focal / side]),
                principal=centre * (CROP / side) / ((CROP + 1) / 2) - 1,
                joint_transforms=joints,
            )
        )
    return frames


def save_tracked(track: Track, folder: Path) -> Path:
    """Write a FLAME track as numbered `.frame` files into `folder`/checkpoint."""
    for number, frame in enumerate(frames_of(track)):
        write_frame(frame, Path(folder) / "checkpoint" / f"{number:05d}.frame", number)
    return Path(folder)


def read_code(path: Path, instruments: Instruments, bias_sink: str = "3d") -> Avatar:
    """The avatar of a published `avatar_code_*.npy` [L, 1, D]. Raises InputError if it is no code of the model."""
    array = read_npy(path)
    length, width = instruments.model.code_shape
    if array.shape != (length, 1, width) or array.dtype != np.float32 or not np.isfinite(array).all():
        raise InputError(f"{path}: not an avatar code of {instruments.model.card.name}: float32 {(length, 1, width)}")
    return Avatar(
        avatar_code=array[:, 0],
        identity=np.zeros(0, np.float32),
        model=instruments.model.card.name,
        model_digest=instruments.model.digest,
        head_model=instruments.head_name,
        head_digest=instruments.head_digest,
        expression_names=FLAME_NAMES,
        bias_sink=bias_sink,
        provenance={"inputs": {path.name: digest_file(path)}},
    )


def write_code(avatar: Avatar, path: Path) -> Path:
    """Write the code as the published programs do: `.npy` [L, 1, D] float32. Raises UsageError for other avatars."""
    if avatar.expression_names != FLAME_NAMES:
        raise UsageError(f"{path}: only avatars of flex-1 can be written as avatar_code .npy")
    return write_npy(avatar.avatar_code[:, None], path)


def save_avatar(avatar: Avatar, path: Path) -> Path:
    """The avatar as the suffix says: `.npy` a published code, anything else an avatar file."""
    return write_code(avatar, path) if path.suffix == ".npy" else avatar.save(path)


def published_camera(cam2world: np.ndarray, size: int = CROP) -> Camera:  # [V, 4, 4]
    """The published free view: a focal length of 1500 pixels for 512."""
    focal = FOCAL * size / CROP
    return Camera(cam2world, np.array([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1.0]]), size, size)


def frontal_circle(frames: int, size: int = CROP) -> Camera:
    """The published default trajectory: a small circle in front (SPEC 9.1)."""
    angle = 2 * np.pi * np.arange(frames) / frames
    eyes = np.stack([-0.3 * np.sin(angle), 0.3 * np.cos(angle), np.ones(frames)], -1)
    return published_camera(np.stack([look_at(eye, np.zeros(3)) for eye in eyes]), size)


def full_turn(frames: int, size: int = CROP) -> Camera:
    """The published 360-degree trajectory, which starts behind the head (SPEC 9.1)."""
    angle = 2 * np.pi * np.arange(frames) / frames
    eyes = np.stack([-np.sin(angle), np.zeros(frames), -np.cos(angle)], -1) + TRAJECTORY_CENTRE
    return published_camera(np.stack([look_at(eye, TRAJECTORY_CENTRE) for eye in eyes]), size)


def code_from_arkit(code: np.ndarray) -> np.ndarray:  # [T, 59] -> [T, 135] float32
    """What ARKit curves say about a FLAME code without a fit: jaw, lids and gaze. Other shapes have no counterpart."""
    jaw = np.zeros((len(code), 3))
    jaw[:, 0] = JAW_OPEN * code[:, INDEX["jawOpen"]]
    lids = LID_CLOSED * code[:, [INDEX["eyeBlinkLeft"], INDEX["eyeBlinkRight"]]]
    eyes = [
        gaze_rotation(code[:, INDEX[f"gaze{side}Yaw"]], code[:, INDEX[f"gaze{side}Pitch"]])
        for side in ("Left", "Right")
    ]
    return expression_code(
        jaw=rotation_to_6d(_about_x(jaw[:, 0])),
        eyelids=lids,
        eye_left=rotation_to_6d(eyes[0]),
        eye_right=rotation_to_6d(eyes[1]),
    )


def gaze_rotation(yaw: np.ndarray, pitch: np.ndarray) -> np.ndarray:  # [T], [T] radians -> [T, 3, 3]
    """R_y(yaw) R_x(-pitch): +z turns to the subject's left and up."""
    zero, one = np.zeros_like(yaw), np.ones_like(yaw)
    sin, cos = np.sin(yaw), np.cos(yaw)
    about_y = np.stack([np.stack(row, -1) for row in ((cos, zero, sin), (zero, one, zero), (-sin, zero, cos))], -2)
    return about_y @ _about_x(-pitch)


def _about_x(angle: np.ndarray) -> np.ndarray:  # [T] -> [T, 3, 3]
    zero, one = np.zeros_like(angle), np.ones_like(angle)
    sin, cos = np.sin(angle), np.cos(angle)
    return np.stack([np.stack(row, -1) for row in ((one, zero, zero), (zero, cos, -sin), (zero, sin, cos))], -2)
