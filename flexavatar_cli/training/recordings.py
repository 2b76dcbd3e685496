"""Calibrated recordings as multi-view training data: one head at one moment, seen by many cameras."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from flexavatar_cli.core.camera import Camera, Crop
from flexavatar_cli.core.errors import InputError
from flexavatar_cli.core.expression import INDEX
from flexavatar_cli.core.options import TrackOptions
from flexavatar_cli.core.track import Track
from flexavatar_cli.heads import HeadModel
from flexavatar_cli.media.frames import Frames, open_frames
from flexavatar_cli.media.images import is_photo
from flexavatar_cli.stages.matting import matte_picture
from flexavatar_cli.stages.matting.nets import Net
from flexavatar_cli.stages.registration import registered
from flexavatar_cli.stages.tracking import track_landmarks
from flexavatar_cli.stages.tracking.landmarks import FaceFollower, to_uint8
from flexavatar_cli.stages.tracking.solver import LandmarkModel
from flexavatar_cli.stages.trajectories import load_cameras
from flexavatar_cli.training.portraits import Row, one_row

log = logging.getLogger(__name__)

CAMERAS = "cameras.json"
FRONTAL = 40.0  # degrees of yaw up to which landmarks say who it is
INPUT = 60.0  # degrees of azimuth up to which a picture may stand for a photo; the tracker is unsure beyond
LOOKS = 3  # of FaceMesh at each picture


def is_recording(folder: Path) -> bool:
    """Whether the cameras of a folder's pictures, or of those in its subfolders, are known."""
    return folder.is_dir() and (folder / CAMERAS).is_file()


def moments(folder: Path) -> list[Path]:
    """The folders with one picture per camera: the recording's own, or one subfolder per moment. Raises InputError."""
    if any(entry.is_file() and is_photo(entry) for entry in folder.iterdir()):
        return [folder]
    inner = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not inner:
        raise InputError(f"{folder}: {CAMERAS}, but no pictures")
    return inner


def recording_rows(folder: Path, most: int, head: HeadModel, net: Net) -> Iterator[Row]:
    """Every picture of up to `most` moments, evenly spread, of a recording. Raises InputError.

    The cameras are brought into the space of the head that the frontal pictures of all moments were tracked with: one
    identity, one expression a moment. Moments without a face, from the front and from a second side, are named.
    """
    found = moments(folder)
    found = [found[at] for at in np.unique(np.linspace(0, len(found) - 1, most).astype(int))]
    takes = [open_frames(moment) for moment in found]
    camera = cameras_of(folder, takes)
    faces = np.stack([faces_in(take) for take in takes])  # [M, V, 478, 2]
    track, frontal = tracked(camera, faces, head)
    for number, (take, view) in enumerate(zip(takes, frontal, strict=True)):
        if view is None:
            log.info("%s left out: no picture shows the face from the front", take.path)
            continue
        yield from _moment_rows(number, take, camera, faces[number], view, track[number], head, net)


def cameras_of(folder: Path, takes: Sequence[Frames]) -> Camera:
    """The cameras of a recording, for pictures as they are read. Raises InputError where they do not fit them."""
    camera = load_cameras(folder / CAMERAS)
    if len(camera) < 2:
        raise InputError(f"{folder / CAMERAS}: one camera; a recording has several")
    for take in takes:
        if len(take) != len(camera):
            raise InputError(f"{take.path}: {len(take)} pictures for {len(camera)} cameras")
        if take.source_size != (camera.width, camera.height) or take.width != takes[0].width:
            raise InputError(f"{take.path}: pictures of {take.source_size}, cameras of {camera.width, camera.height}")
    first = takes[0]
    return camera.cropped(Crop((0.0, 0.0), first.width / camera.width, first.width, first.height))


def faces_in(take: Frames) -> np.ndarray:  # [V, 478, 2] pixels, NaN where no face is seen
    """The landmarks of each picture."""
    with FaceFollower("largest", LOOKS) as follow:
        faces = [follow(to_uint8(picture)) for picture in take]
    return np.stack([np.full((478, 2), np.nan) if face is None else face for face in faces])


def tracked(
    camera: Camera,  # V
    faces: np.ndarray,  # [M, V, 478, 2]
    head: HeadModel,
) -> tuple[list[Track], list[int | None]]:
    """The track of the most frontal picture of each of M moments, with one identity, and the number of that picture.

    Raises InputError if no picture shows a face.
    """
    size = np.array([camera.width, camera.height])
    lens = float(camera.intrinsics[:, 1, 1].mean())
    focal = np.diagonal(camera.intrinsics[:, :2, :2], axis1=1, axis2=2)
    # as one lens would see them: the tracker knows no other
    seen = (faces - camera.intrinsics[:, None, :2, 2]) / focal[:, None] * lens + size / 2
    flat = seen.reshape(-1, 478, 2)
    if not np.isfinite(flat).any():
        raise InputError("no picture shows a face")

    def solved(points: np.ndarray) -> Track:
        width, height = size.tolist()
        return track_landmarks(points, (width, height), TrackOptions(smoothing=0.0), focal_px=lens, head=head)

    first = solved(flat)
    yaw = np.degrees(np.abs(first.expression_code[:, INDEX["headYaw"]]))
    frontal = (first.confidence > 0) & (yaw < FRONTAL)
    if not frontal.any():
        raise InputError("no picture shows the face from the front")
    track = solved(np.where(frontal[:, None, None], flat, np.nan))
    turned = np.where(frontal, yaw, np.inf).reshape(faces.shape[:2])
    picked = [int(row.argmin()) if np.isfinite(row).any() else None for row in turned]
    places = [moment * len(camera) + (view or 0) for moment, view in enumerate(picked)]
    return [track[place : place + 1] for place in places], picked


def _moment_rows(
    number: int,
    take: Frames,
    camera: Camera,  # V, as calibrated
    faces: np.ndarray,  # [V, 478, 2]
    frontal: int,
    track: Track,  # of that picture
    head: HeadModel,
    net: Net,
) -> Iterator[Row]:
    model = LandmarkModel.of(head)
    expression = track.expression_code[0, : model.expression.shape[2]].astype(np.float64)
    landmarks = model.points(track.identity.astype(np.float64), expression)
    sigma = np.where(model.used, model.sigma, np.inf)
    given = [face if np.isfinite(face).all() else None for face in faces]
    placed = registered(camera, given, landmarks, sigma, camera)
    if not placed.views:
        log.info("%s left out: no two pictures show the face, or not at one moment", take.path)
        return
    log.info("%s: %s", take.path, placed.words)
    around = track[np.zeros(len(camera), int)]
    around = replace(around, cam2world=placed.camera.cam2world, intrinsics=camera.intrinsics)
    eye = placed.camera.cam2world[:, :3, 3]
    azimuth = np.degrees(np.abs(np.arctan2(eye[:, 0], eye[:, 2])))
    for view in range(len(camera)):
        photo = take.still(view)
        alpha = matte_picture(photo.rgb, net) if photo.alpha is None else photo.alpha
        facts = {"moment": np.array(number, np.int32)}
        facts["input"] = np.array(view == frontal or (given[view] is not None and azimuth[view] < INPUT))
        yield one_row(photo.rgb, alpha, around, view, head) | facts
