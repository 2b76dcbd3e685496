"""Real people as monocular training data: photos, videos and folders of frames, matted, tracked and examined."""

import io
import logging
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from flexavatar_cli.core.options import TrackOptions
from flexavatar_cli.core.track import Track
from flexavatar_cli.heads import HeadModel
from flexavatar_cli.media.frames import open_frames
from flexavatar_cli.stages.matting import matte_picture
from flexavatar_cli.stages.matting.nets import Net
from flexavatar_cli.stages.observation import crop_observation, examine
from flexavatar_cli.stages.tracking import track
from flexavatar_cli.training.synthetic.pack import RESOLUTION
from flexavatar_cli.training.synthetic.views import IMAGE_SIZE

log = logging.getLogger(__name__)

CROP = 512

Row = dict[str, np.ndarray]
Source = tuple[str, Iterable[Row]]  # its name, and the pictures it gives


def portraits_of(
    data: Path, names: Sequence[str], annotations: np.lib.npyio.NpzFile, head: HeadModel, net: Net
) -> Iterator[Source]:
    """Portraits of the packs."""
    ids = [str(name) for name in annotations["id"]]
    boxes = dict(zip(ids, annotations["valid_box"], strict=True))
    natives = dict(zip(ids, annotations["native_px"].astype(float), strict=True))
    with tarfile.open(data / "portraits_256.tar") as small, tarfile.open(data / "portraits_512.tar") as large:
        sharp = set(large.getnames())
        for name in names:
            member = f"portraits_512/{name}.jpg"
            rgb = _picture(large, member) if member in sharp else _picture(small, f"portraits_256/{name}.jpg")
            yield name, portrait_rows(rgb, boxes[name], natives[name], head, net)


def _picture(archive: tarfile.TarFile, member: str) -> np.ndarray:  # [H, W, 3] float32 in 0..1
    stream = archive.extractfile(member)
    assert stream is not None
    return np.asarray(Image.open(io.BytesIO(stream.read())).convert("RGB"), np.float32) / 255


def portrait_rows(
    rgb: np.ndarray,  # [H, W, 3]
    box: np.ndarray,  # [4] x0 y0 x1 y1 in 0..1: outside is padding
    native: float,  # pixels across, as it was taken
    head: HeadModel,
    net: Net,
) -> Iterator[Row]:
    """The row of one portrait. Raises InputError where no face is found."""
    found = track([rgb], head=head)
    height, width = rgb.shape[:2]
    x0, y0, x1, y1 = (np.asarray(box, np.float64) * [width, height, width, height]).astype(int)
    inside = np.zeros((height, width), np.float32)
    inside[y0:y1, x0:x1] = 1
    yield one_row(rgb, matte_picture(rgb, net) * inside, found, 0, head, min(1.0, native / width))


def clip_rows(source: Path, count: int, head: HeadModel, net: Net) -> Iterator[Row]:
    """Up to `count` frames, evenly spread, of a photo, a video or a folder of frames. Raises InputError."""
    frames = open_frames(source)
    numbers = [int(number) for number in np.unique(np.linspace(0, len(frames) - 1, count).astype(int))]
    pictures = list(frames.read(numbers))
    # frames so far apart have nothing to smooth
    found = track(pictures, TrackOptions(smoothing=0.0), focal_px=frames.focal_px, fps=frames.fps, head=head)
    for place, (number, rgb) in enumerate(zip(numbers, pictures, strict=True)):
        if found.confidence[place] > 0:
            own = None if frames.film is not None else frames.still(number).alpha
            yield one_row(rgb, matte_picture(rgb, net) if own is None else own, found, place, head)


def one_row(
    rgb: np.ndarray,  # [H, W, 3]
    alpha: np.ndarray,  # [H, W]
    found: Track,
    frame: int,
    head: HeadModel,
    enlarged: float = 1.0,  # real pixels per pixel of `rgb` and axis
) -> Row:
    """The arrays of one picture, as `Batcher.portrait` reads them.

    `image` [S, S, 3] is on white; `alpha` and `inside` (0 where the photo ends) belong to it; `native` is how many real
    pixels are behind each side of them.
    """
    seen = crop_observation(rgb, alpha, found, frame, CROP)
    evidence = examine(seen, head, RESOLUTION)
    scale = IMAGE_SIZE / CROP
    side = CROP * float(found.camera().intrinsics[frame, 0, 0] / seen.camera.intrinsics[0, 0, 0])
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
        "native": np.float32(side * enlarged),
        "centre": (seen.camera.intrinsics[0, :2, 2] * scale).astype(np.float32),
    }
