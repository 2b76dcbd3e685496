"""A tracked photo to an avatar code in one forward pass."""

from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import torch

from flexavatar_cli.core.attributes import TexelAttributes
from flexavatar_cli.core.avatar import Avatar
from flexavatar_cli.core.camera import Camera
from flexavatar_cli.core.errors import InputError, WeightsError
from flexavatar_cli.core.files import digest_file
from flexavatar_cli.core.flame import FLAME_NAMES
from flexavatar_cli.core.options import EncodeOptions
from flexavatar_cli.core.track import Track
from flexavatar_cli.heads import HeadModel
from flexavatar_cli.media.images import encode_png
from flexavatar_cli.model import plucker_map
from flexavatar_cli.stages.back_projection import back_projected
from flexavatar_cli.stages.hair_detail import FLOOR, hair_detail
from flexavatar_cli.stages.instruments import SINKS, Instruments
from flexavatar_cli.stages.observation import (
    SOLID,
    Evidence,
    Observation,
    crop_observation,
    examine,
    outline_correction,
)
from flexavatar_cli.stages.rig import expressed, rig_anchor, rigged_gaussians
from flexavatar_cli.stages.shots import Shot
from flexavatar_cli.stages.static_encoding import encode_static
from flexavatar_cli.stages.uv_prior import DISPLACEMENT_UNIT, UVPrior, hairiness, low_frequencies, uv_features, uv_prior

THUMBNAIL = 256
CORRECTIONS = 2  # rounds of putting back, through the skip path, what the network smoothed away
PROJECTIONS = 8  # rounds of back-projection
RELAXATION = 1.6  # of each round's correction: neighbours blend, so that the plain one falls short
SHOWN = (0.04, 0.14)  # share of its footprint from which on, and with which fully, a texel takes part; 0.28 is frontal
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
    seen = crop_observation(rgb, alpha, track, frame)
    code = encode_observation(seen, load_prior(instruments), instruments, options)
    thumbnail = cv2.resize(seen.image, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    return Avatar(
        avatar_code=code,
        identity=np.asarray(track.identity, np.float32),
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


def encode_observation(
    seen: Observation, prior: UVPrior, instruments: Instruments, options: EncodeOptions = EncodeOptions()
) -> np.ndarray:  # [L, D] float32
    """The avatar code of one observation."""
    model, device = instruments.model, instruments.device
    size = model.config.trunk.image_size
    small = cv2.resize(seen.image, (size, size), interpolation=cv2.INTER_AREA)
    found = examine(seen, instruments.head, model.resolution)
    with torch.no_grad():
        features = uv_features(prior, found.color[None], found.seen[None], found.facing[None], found.displacement[None])
        image = torch.from_numpy(small).permute(2, 0, 1)[None].float() / 255
        rays = plucker_map(*camera_tensors(seen.camera), size, size)
        code = model.encode(image.to(device), rays.to(device), features.to(device))
        expression = torch.from_numpy(seen.expression)[None].to(device)
        sink = torch.tensor([SINKS[options.bias_sink]], device=device)
        anchor = rig_anchor(instruments.head, model.resolution)

        def decode(code: torch.Tensor) -> TexelAttributes:
            return expressed(anchor, model.decode(code, expression, sink).map(torch.Tensor.cpu), expression.cpu())

        # the network completes; where matte and photo speak, they have the last word: first on the outline ...
        lifted = (decode(code).offset[0, :, 2] * anchor.reach[:, 0]).numpy()
        change = torch.from_numpy(outline_correction(seen, instruments.head, model.resolution, lifted)).float()
        code = model.corrected(code, _maps(prior, displacement=change).to(device))
        # ... then on the colours, read again where the surface now is
        lifted = (decode(code).offset[0, :, 2] * anchor.reach[:, 0]).numpy()
        found = examine(seen, instruments.head, model.resolution, lifted)
        for _ in range(CORRECTIONS):
            missing = found.seen[:, None] * (found.color - decode(code).color[0])
            code = model.corrected(code, _maps(prior, color=missing).to(device))
        # ... then seen through the blending of neighbours ...
        identity = torch.from_numpy(seen.identity)
        picture, alpha, inside = (
            torch.from_numpy(array).float() / 255 for array in (seen.image, seen.alpha, seen.inside)
        )
        solid = (alpha > SOLID).float() * inside
        plain = torch.from_numpy(_uncovered(instruments.head, model.resolution, found.seen.numpy())).float()
        for _ in range(PROJECTIONS):
            gaussians = rigged_gaussians(anchor, decode(code), identity, expression[0].cpu())
            error, share = back_projected(gaussians, seen.camera, picture, solid, instruments.backend)
            shown = ((share - SHOWN[0]) / (SHOWN[1] - SHOWN[0])).clamp(0, 1) * plain
            code = model.corrected(code, _maps(prior, color=RELAXATION * shown[:, None] * error).to(device))
        # ... and on what no photo shows
        color = decode(code).color[0]
        strands = _strands(seen, found, prior, instruments.head, color)
        code = model.corrected(code, _maps(prior, color=strands).to(device))
    return code[0].float().cpu().numpy()


def _strands(
    seen: Observation,
    found: Evidence,
    prior: UVPrior,
    head: HeadModel,
    color: torch.Tensor,  # [N, 3] decoded
) -> torch.Tensor:  # [N, 3]
    """What must be added to the colours of unseen hair so that it has the texture of the hair seen."""
    hair = torch.maximum(hairiness(prior, found.displacement[None])[0], prior.on_scalp)
    weight = hair[None] + 1e-6
    low = low_frequencies(prior, color[None], weight, prior.hair_kernel)[0]
    detail = hair_detail(seen, found, hair.numpy(), low.numpy(), head, prior.resolution)
    wanted = (low + FLOOR) * torch.from_numpy(detail).exp()[:, None] - FLOOR
    return (hair * (1 - found.seen))[:, None] * (wanted.clamp(0, 1) - color)


def _uncovered(head: HeadModel, resolution: int, seen: np.ndarray) -> np.ndarray:  # [N]
    """1 but where the face is not surely seen: hair before it, or the ground beside it, would be painted on."""
    on_face = head.texels(resolution).part.numpy() == head.part_names.index("face")
    return np.where(on_face, seen, 1.0)


def _maps(
    prior: UVPrior,
    color: torch.Tensor | None = None,  # [N, 3]
    displacement: torch.Tensor | None = None,  # [N] metres
) -> torch.Tensor:  # [1, 4, R, R]
    """Additions to the base maps of the skip path."""
    size = prior.resolution
    maps = torch.zeros(4, size * size)
    if color is not None:
        maps[:3, prior.index] = color.T
    if displacement is not None:
        maps[3, prior.index] = displacement / DISPLACEMENT_UNIT
    return maps.reshape(1, 4, size, size)


def camera_tensors(camera: Camera) -> tuple[torch.Tensor, torch.Tensor]:
    """cam2world [V, 4, 4] and intrinsics [V, 3, 3] divided by the picture size (SPEC 1), float32."""
    scale = np.array([[camera.width], [camera.height], [1.0]])
    return torch.from_numpy(camera.cam2world).float(), torch.from_numpy(camera.intrinsics / scale).float()
