"""A tracked photo to the code of a model with a static anchor, as the published encoder sees it (SPEC 4, 10)."""

from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import torch

from flexavatar_cli.core.avatar import Avatar
from flexavatar_cli.core.camera import Crop
from flexavatar_cli.core.errors import UsageError
from flexavatar_cli.core.files import digest_file
from flexavatar_cli.core.flame import FLAME_NAMES
from flexavatar_cli.core.options import EncodeOptions
from flexavatar_cli.core.track import Track
from flexavatar_cli.media.images import encode_png
from flexavatar_cli.model import plucker_map
from flexavatar_cli.stages.image_features import image_features
from flexavatar_cli.stages.instruments import Instruments
from flexavatar_cli.stages.observation import Observation, crop_window
from flexavatar_cli.stages.published import CROP, CROPPED
from flexavatar_cli.stages.shots import Shot

VISIBLE = 0.33  # metres across the window at the head: published focal lengths of 2.8 to 3.5 windows, 1 m away
THUMBNAIL = 256  # pixels


def observe(rgb: np.ndarray, alpha: np.ndarray, track: Track, frame: int, size: int = 512) -> Observation:
    """The square window of the published framing around the head's origin, on white; all of a published crop.

    `rgb` [H, W, 3] and `alpha` [H, W] float32 are picture number `frame` of the track and its matte.
    """
    if track.head_model == CROPPED:
        return crop_window(rgb, alpha, track, frame, Crop((0.0, 0.0), size / CROP, size, size))
    camera = track.camera()[frame]
    pixels, depth = camera.project(np.zeros((1, 3)))
    side = VISIBLE * float(camera.intrinsics[0, 1, 1]) / float(depth[0, 0])
    crop = Crop.square((float(pixels[0, 0, 0]), float(pixels[0, 0, 1])), side, size)
    return crop_window(rgb, alpha, track, frame, crop)


def encode_static(shot: Shot, instruments: Instruments, options: EncodeOptions, frame: int) -> Avatar:
    """The avatar of one frame. No fitting.

    Raises UsageError for a track of another head, WeightsError where image features are needed and cannot be had.
    """
    model, track = instruments.model, shot.track
    require_flame(track, shot.track_file)
    ((rgb, alpha),) = shot.read([frame])
    seen = observe(rgb, alpha, track, frame, model.config.trunk.image_size)
    channels = model.config.trunk.feature_dim
    features = image_features(seen.image, channels, options.image_features) if channels else None
    scale = np.array([[seen.camera.width], [seen.camera.height], [1.0]])
    cam2world = torch.from_numpy(seen.camera.cam2world).float()
    intrinsics = torch.from_numpy(seen.camera.intrinsics / scale).float()
    device = instruments.device
    with torch.inference_mode():
        image = torch.from_numpy(seen.image).permute(2, 0, 1)[None].float() / 255
        rays = plucker_map(cam2world, intrinsics, seen.camera.height, seen.camera.width)
        fused = None if features is None else features.to(device)
        code = model.encode(image.to(device), rays.to(device), None, fused)
    thumbnail = cv2.resize(seen.image, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    return Avatar(
        avatar_code=code[0].float().cpu().numpy(),
        identity=np.asarray(track.identity, np.float32),
        model=model.card.name,
        model_digest=model.digest,
        head_model=instruments.head_name,
        head_digest=instruments.head_digest,
        expression_names=FLAME_NAMES,
        bias_sink=options.bias_sink,
        camera=seen.camera,
        thumbnail=encode_png(thumbnail / np.float32(255)),
        provenance={
            "inputs": {path.name: digest_file(path) for path in shot.files[:1]},
            "frame": frame,
            "encode": asdict(options),
        },
    )


def require_flame(track: Track, source: Path) -> None:
    """Raises UsageError unless the track's codes are FLAME's."""
    if track.expression_names != FLAME_NAMES:
        raise UsageError(f"{source}: a track on {track.head_model}; this model wants one on FLAME")
