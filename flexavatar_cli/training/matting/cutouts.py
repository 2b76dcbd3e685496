"""Real people cut out or half labelled: studio portraits keyed by colour, others where two segmenters agree."""

import io
import logging
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from flexavatar_cli.media.images import to_float, to_uint8
from flexavatar_cli.stages.matting import matte_picture
from flexavatar_cli.stages.matting.figures import attached, distance, whole
from flexavatar_cli.stages.matting.nets import Net
from flexavatar_cli.stages.matting.unmixing import foreground

log = logging.getLogger(__name__)

HELD_OUT_EVERY = 8  # identities
UNKNOWN = 128  # label of pixels without a loss
KEYED = "lon_"  # the London set stands before an even grey ground
SHIRT = 0.78  # of the picture's height: below are the white shirts of the London set
SINET_MEAN, SINET_STD = (102.890434, 111.25247, 126.91212), (62.93292, 62.82138, 66.355705)


def portraits(data: Path, side: int) -> Iterator[tuple[str, np.ndarray]]:
    """Ids and pictures [side, side, 3] float32 of the portrait pack of 256 or 512 pixels, in order of id."""
    with tarfile.open(data / f"portraits_{side}.tar") as archive:
        for member in sorted(archive.getmembers(), key=lambda member: member.name):
            stream = archive.extractfile(member) if member.name.endswith(".jpg") else None
            if stream is not None:
                yield Path(member.name).stem, to_float(Image.open(io.BytesIO(stream.read())).convert("RGB"))


def is_held_out(name: str) -> bool:
    """Whether a portrait is kept from training, all pictures of an identity alike."""
    source, number = name.split("_")[:2]
    return zlib.crc32(f"{source}_{number}".encode()) % HELD_OUT_EVERY == 0


def even_ground(rgb: np.ndarray, sure: np.ndarray) -> np.ndarray:
    """The studio ground [H, W, 3]: a cubic surface through the pixels `sure` [H, W] bool, outliers left out."""
    height, width = sure.shape
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    terms = np.stack([x**i * y**j for i in range(4) for j in range(4 - i)], -1).astype(np.float32)
    rows = np.flatnonzero(sure)[::7]
    basis, colour = terms.reshape(-1, terms.shape[-1])[rows], rgb.reshape(-1, 3)[rows]
    keep = np.ones(len(rows), bool)
    for _ in range(3):
        weights = np.linalg.lstsq(basis[keep], colour[keep], rcond=None)[0]
        residual = np.abs(basis @ weights - colour).max(-1)
        keep = residual < max(0.02, 2.5 * float(np.median(residual)))
    return terms @ weights


def key(
    rgb: np.ndarray,  # [H, W, 3]
    probability: np.ndarray,  # [H, W], a segmentation
    fallback: np.ndarray,  # [H, W], its refinement
    face: np.ndarray,  # [N, 2] landmarks, pixels
) -> np.ndarray:
    """The alpha [H, W] of a person before an even ground, by difference of colour; `fallback` where alike."""
    scale = rgb.shape[0] / 512
    solid = whole((probability > 0.5).astype(np.float32)) > 0.5
    depth = distance(~solid)
    sure = (probability < 0.02) & (distance(solid) > 24 * scale)
    ground = even_ground(rgb, sure)
    # Gaps between locks beside the jaw: patches of the ground's own pale grey, which skin and hair lack.
    soft = cv2.GaussianBlur(rgb, (0, 0), scale)
    hull = cv2.fillConvexPoly(np.zeros(rgb.shape[:2], np.uint8), cv2.convexHull(face.astype(np.int32)), (1.0,)) > 0
    gap = (np.linalg.norm(soft - ground, axis=-1) < 0.16) & (np.ptp(soft, axis=-1) < 0.05)
    rows = np.arange(len(rgb))[:, None]
    gap &= (distance(hull) > 8 * scale) & (rows > face[:, 1].mean()) & (rows < SHIRT * len(rgb))
    gap = cv2.morphologyEx(gap.astype(np.uint8), cv2.MORPH_OPEN, np.ones((round(5 * scale),) * 2, np.uint8)) > 0
    open_air = distance(gap) if gap.any() else np.full(gap.shape, 1e6)
    inner = ((depth > 8 * scale) & (probability > 0.9) & (open_air > 8 * scale)).astype(np.float32)
    size = round(40 * scale) | 1
    weight = cv2.GaussianBlur(inner, (0, 0), size / 3)
    person = cv2.GaussianBlur(rgb * inner[..., None], (0, 0), size / 3) / np.maximum(weight, 1e-6)[..., None]
    contrast = person - ground
    strength = np.linalg.norm(contrast, axis=-1)
    share = ((rgb - ground) * contrast).sum(-1) / np.maximum((contrast**2).sum(-1), 1e-4)
    apart = np.linalg.norm(rgb - ground, axis=-1) / np.maximum(strength, 1e-3)
    # Inside, colours vary: a difference of half the mean one is already the person.
    gain = 1 + np.clip((probability - 0.4) / 0.5, 0, 1) * np.clip(depth / (6 * scale), 0, 1)
    keyed = np.clip((np.maximum(share, apart * (probability > 0.6)) * gain - 0.05) / 0.9, 0, 1)
    trust = np.clip((strength - 0.12) / 0.12, 0, 1) * (weight > 1e-4)
    alpha = trust * keyed + (1 - trust) * fallback
    closed = (depth > 14 * scale) & (open_air > 8 * scale)
    alpha = np.where(closed, 1, np.where(gap, 0, alpha))
    return attached(alpha * (distance(solid) < 90 * scale))


def sinet(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """The second segmenter: SINet portrait segmentation (MIT), rgb [H, W, 3] to probability [H, W]."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def probability(rgb: np.ndarray) -> np.ndarray:
        small = cv2.resize(rgb, (320, 320), interpolation=cv2.INTER_AREA)[..., ::-1] * 255
        tensor = (small - np.array(SINET_MEAN, np.float32)) / np.array(SINET_STD, np.float32) / 255
        found = session.run(None, {"data": tensor.transpose(2, 0, 1)[None].astype(np.float32)})[0][0, 1]
        return cv2.resize(found, rgb.shape[1::-1], interpolation=cv2.INTER_LINEAR)

    return probability


def agreement(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Labels [H, W] uint8 of two segmentations [H, W]: 255 person, 0 ground, UNKNOWN at edges and where they differ."""
    scale = first.shape[0] / 256
    person, ground = (first > 0.85) & (second > 0.7), (first < 0.08) & (second < 0.3)
    labels = np.full(first.shape, UNKNOWN, np.uint8)
    if person.any() and ground.any():
        labels[distance(~person) > 3 * scale] = 255
        labels[distance(~ground) > 7 * scale] = 0  # strands of hair that no segmenter sees
    return labels


def write_rgba(path: Path, rgb: np.ndarray, alpha: np.ndarray) -> None:
    """An RGBA PNG of colours [H, W, 3] and alpha or labels [H, W] float."""
    cv2.imwrite(str(path), cv2.cvtColor(to_uint8(np.dstack([rgb, alpha])), cv2.COLOR_RGBA2BGRA))


def prepare_people(data: Path, segmenter: Path, output: Path, net: Net) -> None:
    """Write `cutout/` (exact alpha, own colours) and `portrait/` (labels) below `output`; `net` segments first."""
    second = sinet(segmenter)
    annotations = np.load(data / "portraits_ann.npz")
    boxes = {str(name): box for name, box in zip(annotations["id"], annotations["valid_box"])}
    faces = {
        str(name): points[:, :2].astype(np.float32) for name, points in zip(annotations["id"], annotations["landmarks"])
    }
    (output / "cutout").mkdir(parents=True, exist_ok=True)
    (output / "portrait").mkdir(parents=True, exist_ok=True)
    sharp = set()
    for side in (512, 256):
        for name, rgb in portraits(data, side):
            if name in sharp:
                continue
            if side == 512:
                sharp.add(name)
            probability = net.probability(rgb)
            if name.startswith(KEYED):
                alpha = key(rgb, probability, matte_picture(rgb, net), faces[name] * side)
                write_rgba(output / "cutout" / f"{name}.png", foreground(rgb, alpha), alpha)
                continue
            labels = agreement(probability, second(rgb))
            x0, y0, x1, y1 = (boxes[name] * side).round().astype(int)
            outside = np.ones_like(labels, bool)
            outside[y0:y1, x0:x1] = False
            labels[outside] = UNKNOWN
            if 0.15 < (labels == 255).mean() < 0.9 and (labels == UNKNOWN).mean() < 0.45:
                write_rgba(output / "portrait" / f"{name}.png", rgb, to_float(labels))
