"""A tracked photo to an avatar code in one forward pass."""

from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np
import torch

from flexavatar_cli.core.avatar import Avatar
from flexavatar_cli.core.errors import InputError, WeightsError
from flexavatar_cli.core.files import digest_file
from flexavatar_cli.core.flame import FLAME_NAMES
from flexavatar_cli.core.options import EncodeOptions
from flexavatar_cli.core.track import Track
from flexavatar_cli.heads import HeadModel
from flexavatar_cli.media.images import encode_png
from flexavatar_cli.stages.draft import Draft
from flexavatar_cli.stages.ears import with_ears
from flexavatar_cli.stages.instruments import Instruments
from flexavatar_cli.stages.observation import crop_observation
from flexavatar_cli.stages.shots import Shot
from flexavatar_cli.stages.static_encoding import encode_static
from flexavatar_cli.stages.uv_prior import UVPrior, uv_prior

THUMBNAIL = 256
MEAN_COLOR = "mean_color.png"  # beside model.yaml: the mean head's texture, on our atlas


def best_frame(track: Track) -> int:
    """The frame to encode: confident, frontal, eyes open, mouth at rest; on FLAME, as published, the first with a face.

    Raises InputError if no frame shows a face.
    """
    if not (track.confidence > 0).any():
        raise InputError("no frame shows a face; nothing to encode")
    if track.expression_names == FLAME_NAMES:
        return int(np.flatnonzero(track.confidence > 0)[0])
    names = {name: at for at, name in enumerate(track.expression_names)}
    code = track.expression_code
    away = np.degrees(np.abs(code[:, [names["headYaw"], names["headPitch"]]])).sum(1) / 30
    blink = code[:, [names["eyeBlinkLeft"], names["eyeBlinkRight"]]].max(1)
    score = track.confidence - away - blink - 0.5 * code[:, names["jawOpen"]]
    return int(np.where(track.confidence > 0, score, -np.inf).argmax())


def load_prior(instruments: Instruments) -> UVPrior:
    """The closed-form UV prior of the instruments. Raises WeightsError if the model's mean texture is missing."""
    return prior_from(instruments.head, instruments.model.resolution, instruments.folder / MEAN_COLOR)


def prior_from(head: HeadModel, resolution: int, path: Path) -> UVPrior:
    """The prior with the mean texture of picture `path` (RGB, R x R)."""
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise WeightsError(f"{path}: the mean texture of the model is missing")
    rgb = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
    if rgb.shape[:2] != (resolution, resolution):
        rgb = cv2.resize(rgb, (resolution, resolution), interpolation=cv2.INTER_AREA)
    grid = head.texels(resolution)
    mean = torch.from_numpy(rgb.reshape(-1, 3).astype(np.float32) / 255)[grid.index.cpu()]
    return uv_prior(head, resolution, mean)


def encode(
    shot: Shot, instruments: Instruments, options: EncodeOptions = EncodeOptions(), frame: int | None = None
) -> Avatar:
    """The avatar of one frame (None = the most telling): observed in UV, completed in closed form, encoded. No fitting.

    A model with a static anchor encodes the picture alone.
    """
    if instruments.static:
        return encode_static(shot, instruments, options, best_frame(shot.track) if frame is None else frame)
    model, track = instruments.model, shot.track
    frame = best_frame(track) if frame is None else frame
    ((rgb, alpha),) = shot.read([frame])
    seen, prior = crop_observation(rgb, alpha, track, frame), load_prior(instruments)
    seen = replace(seen, identity=with_ears(seen, prior, instruments.head))
    draft = Draft(seen, prior, instruments, options.bias_sink)
    draft.meet_outline()
    draft.read_colors()
    draft.color_hair()
    draft.color_ears()
    draft.soften_unseen()
    draft.lay_strands()
    draft.lay_skin()
    draft.shade_ears()
    draft.back_project()
    draft.whiten_teeth()
    thumbnail = cv2.resize(seen.image, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    return Avatar(
        avatar_code=draft.code[0].float().cpu().numpy(),
        identity=seen.identity,
        model=model.card.name,
        model_digest=model.digest,
        head_model=instruments.head.name,
        head_digest=instruments.head.digest,
        expression_names=track.expression_names,
        bias_sink=options.bias_sink,
        camera=seen.camera,
        thumbnail=encode_png(thumbnail),
        provenance={
            "inputs": {path.name: digest_file(path) for path in shot.files[:1]},
            "frame": frame,
            "encode": asdict(options),
        },
    )
