"""Photos in, pictures out. Here alone live uint8, EXIF and colour profiles; the rest sees RGB float in [0, 1]."""

import io
import logging
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError

from flexavatar_cli.core.errors import InputError
from flexavatar_cli.core.files import replacing

log = logging.getLogger(__name__)

# What cameras, phones, scanners and painting programs write; the rest is not worth its attack surface.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "PPM", "AVIF", "JPEG2000", "TGA")
LARGEST_PIXELS = 64_000_000  # refused above, before decoding: 64 MP are 190 MB as RGB bytes
LONGEST_SIDE = 4096  # shrunk to this; the head is seen at 512 pixels
FILM_DIAGONAL_MM = 43.267  # of 36 x 24 mm, which "35 mm equivalent" refers to
ORIENTATION, EXIF_IFD, FOCAL_35MM = 0x0112, 0x8769, 0xA405
BROKEN_EXIF = (ValueError, TypeError, OSError, SyntaxError, KeyError, ZeroDivisionError)  # what Pillow says about one


@dataclass(frozen=True)
class Photo:
    """A decoded photo, upright, at most LONGEST_SIDE pixels long."""

    rgb: np.ndarray  # [H, W, 3] float32 in 0..1, straight (not premultiplied)
    alpha: np.ndarray | None = None  # [H, W] float32 in 0..1, if the file has transparency
    focal_35mm: float | None = None  # 35 mm equivalent focal length of the EXIF, millimetres
    source_size: tuple[int, int] = (0, 0)  # width, height before shrinking, upright

    @property
    def focal_px(self) -> float | None:
        """The EXIF's focal length in pixels of `rgb`; wrong if the photo was cropped after it was taken."""
        if self.focal_35mm is None:
            return None
        height, width = self.rgb.shape[:2]
        return self.focal_35mm / FILM_DIAGONAL_MM * math.hypot(width, height)


def is_photo(path: Path) -> bool:
    """Whether the content of `path` starts like one of FORMATS. Raises InputError if it is missing or empty."""
    require_content(path)
    try:
        with quiet_open(path):
            return True
    except (UnidentifiedImageError, SyntaxError, ValueError, OSError):
        return False


def require_content(path: Path) -> None:
    """Raises InputError unless `path` is a readable file with something in it."""
    try:
        with open(path, "rb") as stream:
            if not stream.read(1):
                raise InputError(f"{path}: the file is empty")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def quiet_open(path: Path) -> Image.Image:
    """Pillow's lazily decoded image: only the header is read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own size warning; read_photo has a stricter limit
        Image.init()
        known = [name for name in FORMATS if name in Image.OPEN]
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(path, formats=known)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def read_photo(path: Path) -> Photo:
    """The photo at `path`, upright, in sRGB, shrunk to LONGEST_SIDE.

    Raises InputError if it is missing, empty, no photo, damaged, or over LARGEST_PIXELS.
    """
    require_content(path)
    try:
        with quiet_open(path) as image:
            width, height = image.size
            if width * height > LARGEST_PIXELS:
                raise InputError(
                    f"{path}: {width} x {height} pixels are over the limit of {LARGEST_PIXELS // 10**6} megapixels; "
                    f"shrink it to {LONGEST_SIDE} pixels first"
                )
            focal = focal_35mm(image)
            image.load()
            image = ImageOps.exif_transpose(image)
            source_size = image.size
            rgb, alpha = split_alpha(image)
    except UnidentifiedImageError as error:
        raise InputError(f"{path}: not a photo that can be read (JPEG, PNG, WebP, TIFF, BMP, AVIF)") from error
    except (OSError, SyntaxError, ValueError, EOFError, IndexError) as error:
        raise InputError(f"{path}: damaged photo ({' '.join(str(error).split())})") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"{path}: too large to decode") from error
    return Photo(to_float(rgb), None if alpha is None else to_float(alpha), focal, source_size)


def focal_35mm(image: Image.Image) -> float | None:
    """The EXIF's 35 mm equivalent focal length, if it states a plausible one."""
    try:
        value = float(image.getexif().get_ifd(EXIF_IFD).get(FOCAL_35MM, 0))
    except BROKEN_EXIF:
        return None  # a broken EXIF says nothing
    return value if 8 <= value <= 1200 else None


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of a photo as it is shown, which its EXIF may have turned; without decoding it."""
    try:
        # not `image.getexif()`: of a PNG without an EXIF it decodes everything, to look for one at the end
        turned = Image.Image.getexif(image).get(ORIENTATION) in (5, 6, 7, 8)
    except BROKEN_EXIF:
        turned = False
    return image.size[::-1] if turned else image.size


def split_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """An 8-bit sRGB image and its alpha ("L"), from any of Pillow's modes, both shrunk to LONGEST_SIDE."""
    alpha = None
    if image.mode in ("LA", "PA", "La", "RGBa", "RGBA") or "transparency" in image.info:
        whole = image.convert("RGBA")
        alpha = whole.getchannel("A")
        image = image.convert("L") if image.mode in ("L", "LA") else whole  # a grey picture's profile is one of greys
        if alpha.getextrema()[0] == 255:
            alpha = None
    if image.mode.startswith(("I", "F")):  # 16 bit, 32 bit and float grey
        grey = np.asarray(image).astype(np.float32)
        if image.mode != "F" or grey.max(initial=0) > 1:
            grey = grey / (65535 if grey.max(initial=0) > 255 or image.mode.startswith("I;16") else 255)
        image = Image.fromarray((grey.clip(0, 1) * 255 + 0.5).astype(np.uint8))
    rgb = to_srgb(image)
    if max(rgb.size) > LONGEST_SIDE:
        log.info("shrunk from %d x %d to a longest side of %d pixels", *rgb.size, LONGEST_SIDE)
        rgb.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
        if alpha is not None:
            alpha = alpha.resize(rgb.size, Image.Resampling.BOX)
    return rgb, alpha


def to_srgb(image: Image.Image) -> Image.Image:
    """The image in mode RGB, through its colour profile if it carries a usable one (phones write Display P3)."""
    if image.mode not in ("RGB", "CMYK", "L"):
        image = image.convert("RGB")
    profile = image.info.get("icc_profile")
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            if converted is not None:
                return converted
        except (ImageCms.PyCMSError, OSError, ValueError) as error:
            log.debug("colour profile ignored: %s", error)
    return image.convert("RGB")


def to_float(image: Image.Image | np.ndarray) -> np.ndarray:
    """uint8 pixels as float32 in 0..1, shape kept."""
    return np.asarray(image, np.uint8).astype(np.float32) * np.float32(1 / 255)


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Float pixels, clipped to 0..1 (NaN to 0) and rounded, as uint8, shape kept."""
    return (np.fmin(np.fmax(image, 0), 1) * 255 + 0.5).astype(np.uint8)


def encode_png(image: np.ndarray) -> bytes:
    """PNG of a float image [H, W], [H, W, 3] or [H, W, 4]; equal pixels give equal bytes."""
    stream = io.BytesIO()
    Image.fromarray(to_uint8(image)).save(stream, "PNG", compress_level=4)
    return stream.getvalue()


def write_png(path: Path, image: np.ndarray) -> Path:
    """Write a float image [H, W], [H, W, 3] or [H, W, 4] as 8-bit PNG, beside and renamed."""
    return write_bytes(path, encode_png(image))


def write_jpg(path: Path, image: np.ndarray, quality: int = 92) -> Path:
    """Write a float image [H, W] or [H, W, 3] as JPEG, beside and renamed."""
    stream = io.BytesIO()
    Image.fromarray(to_uint8(image)).save(stream, "JPEG", quality=quality, subsampling=0)
    return write_bytes(path, stream.getvalue())


def write_image(path: Path, image: np.ndarray) -> Path:
    """Write as JPEG if the name ends so, else as PNG."""
    return (write_jpg if Path(path).suffix.lower() in (".jpg", ".jpeg") else write_png)(path, image)


def write_bytes(path: Path, content: bytes) -> Path:
    """Write a file beside and rename it."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return Path(path)


def read_matte(path: Path, size: tuple[int, int]) -> np.ndarray:
    """The alpha [H, W] float32 of an 8-bit alpha PNG that must be of `size` (width, height). Raises InputError."""
    photo = read_photo(path)
    if photo.source_size != size:
        raise InputError(f"{path}: the matte is {photo.source_size}, the picture is {size} (width, height)")
    return photo.rgb[..., 0] if photo.alpha is None else photo.alpha


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A float image [H, W] or [H, W, C] at `size` (width, height); areas averaged when it shrinks."""
    import cv2

    if image.shape[1::-1] == size:
        return image
    shrinks = image.shape[1] > size[0]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def composite(rgb: np.ndarray, alpha: np.ndarray, background: float | Sequence[float] = 1.0) -> np.ndarray:
    """`rgb` [..., H, W, 3] with `alpha` [..., H, W] over one background colour, white unless asked otherwise."""
    weight = alpha[..., None]
    return (rgb * weight + np.asarray(background, np.float32) * (1 - weight)).astype(np.float32)


def sheet(rows: Sequence[Sequence[np.ndarray]], labels: Sequence[str] = (), side: int = 256) -> np.ndarray:
    """A contact sheet [H, W, 3]: each picture ([h, w] or [h, w, 3] float) fitted into a square, one label per column.

    Rows may differ in length. With as many labels as rows and not as columns, they stand in front of the rows.
    """
    columns = max(len(row) for row in rows)
    by_row = len(labels) == len(rows) != columns
    top = 20 if labels and not by_row else 0
    page = Image.new("RGB", (columns * side, len(rows) * (side + (20 if by_row else 0)) + top), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(13)
    for index, label in enumerate(labels):
        at = (4, index * (side + 20) + 3) if by_row else (index * side + 4, 3)
        pen.text(at, label, fill="black", font=font)
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            tile = Image.fromarray(to_uint8(picture)).convert("RGB")
            tile = ImageOps.contain(tile, (side, side), Image.Resampling.LANCZOS)
            left = x * side + (side - tile.width) // 2
            page.paste(tile, (left, top + y * side + (20 * (y + 1) if by_row else 0) + (side - tile.height) // 2))
    return to_float(page)
