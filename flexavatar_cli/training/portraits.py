"""Real portraits as monocular training data: matted, tracked and examined once."""

import io
import logging
import tarfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from flexavatar_cli.core.errors import InputError
from flexavatar_cli.core.files import replacing
from flexavatar_cli.heads import HeadModel, load_head
from flexavatar_cli.stages.matting import matte_picture, open_net
from flexavatar_cli.stages.observation import crop_observation, examine
from flexavatar_cli.stages.tracking import track
from flexavatar_cli.training.synthetic.pack import RESOLUTION
from flexavatar_cli.training.synthetic.views import IMAGE_SIZE

log = logging.getLogger(__name__)

HELD_OUT_EVERY = 10  # of the sorted ids: kept from training, for `eval`
CROP = 512


def training_ids(annotations: np.lib.npyio.NpzFile) -> list[str]:
    """Ids that training may use: native sharpness, a stated free licence, not held out."""
    order = np.argsort(annotations["id"])
    held = set(annotations["id"][order][::HELD_OUT_EVERY])
    good = (annotations["tier"] == "A") & (annotations["upstream"] != "wiki")
    return [str(name) for name in annotations["id"][order] if name not in held and good[annotations["id"] == name][0]]


def prepare_portraits(data: Path, pack: Path, limit: int, on_step: Callable[[int, int], None] | None = None) -> int:
    """Add up to `limit` portraits, evenly spread over the ids, to the prepared folder `pack`; how many it became."""
    annotations = np.load(data / "portraits_ann.npz")
    names = training_ids(annotations)
    names = [names[at] for at in np.linspace(0, len(names) - 1, min(limit, len(names))).astype(int)]
    boxes = {str(name): box for name, box in zip(annotations["id"], annotations["valid_box"], strict=True)}
    head, net = load_head(), open_net()
    rows: list[dict[str, np.ndarray]] = []
    with tarfile.open(data / "portraits_256.tar") as small, tarfile.open(data / "portraits_512.tar") as large:
        sharp = set(large.getnames())
        for done, name in enumerate(names):
            member = f"portraits_512/{name}.jpg"
            rgb = _picture(large, member) if member in sharp else _picture(small, f"portraits_256/{name}.jpg")
            try:
                rows.append(one_portrait(rgb, boxes[name], head, matte_picture(rgb, net)))
            except InputError as error:
                log.info("%s left out: %s", name, error)
            if on_step:
                on_step(done + 1, len(names))
    for key in rows[0]:
        with replacing(pack / f"portraits.{key}.npy") as temporary, open(temporary, "wb") as stream_out:
            np.save(stream_out, np.stack([row[key] for row in rows]))
    return len(rows)


def _picture(archive: tarfile.TarFile, member: str) -> np.ndarray:  # [H, W, 3] float32 in 0..1
    stream = archive.extractfile(member)
    assert stream is not None
    return np.asarray(Image.open(io.BytesIO(stream.read())).convert("RGB"), np.float32) / 255


def one_portrait(
    rgb: np.ndarray,  # [H, W, 3]
    box: np.ndarray,  # [4] x0 y0 x1 y1 in 0..1: outside is padding
    head: HeadModel,
    alpha: np.ndarray,  # [H, W]
) -> dict[str, np.ndarray]:
    """The arrays of one portrait, as `Batcher.portrait` reads them. Raises InputError where no face is found.

    `image` [S, S, 3] is on white; `alpha` and `inside` (0 where the photo ends) belong to it.
    """
    found = track([rgb], head=head)
    height, width = rgb.shape[:2]
    x0, y0, x1, y1 = (np.asarray(box, np.float64) * [width, height, width, height]).astype(int)
    inside = np.zeros((height, width), np.float32)
    inside[y0:y1, x0:x1] = 1
    seen = crop_observation(rgb, alpha * inside, found, 0, CROP)
    evidence = examine(seen, head, RESOLUTION)
    scale = IMAGE_SIZE / CROP
    pictures = {name: getattr(seen, name) for name in ("image", "alpha", "inside")}
    small = {
        name: cv2.resize(picture, (IMAGE_SIZE, IMAGE_SIZE), interpolation=cv2.INTER_AREA)
        for name, picture in pictures.items()
    }
    return small | {
        "color": (evidence.color.numpy() * 255).round().astype(np.uint8),
        "seen": (evidence.seen.numpy() * 255).astype(np.uint8),
        "facing": (evidence.facing.numpy() * 255).astype(np.uint8),
        "hull": evidence.displacement.numpy().astype(np.float16),
        "identity": seen.identity,
        "expression": seen.expression,
        "cam2world": seen.camera.cam2world[0].astype(np.float32),
        "focal": np.float32(seen.camera.intrinsics[0, 0, 0] * scale),
        "centre": (seen.camera.intrinsics[0, :2, 2] * scale).astype(np.float32),
    }
