"""One interface to everything that shows a person: a photo is a video of one frame, so is each picture of a folder."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from flexavatar_cli.core.errors import InputError
from flexavatar_cli.media import video
from flexavatar_cli.media.images import Photo, is_photo, quiet_open, read_photo, upright_size

STILL_FPS = 25.0  # of photos and folders, which have no rate of their own


@dataclass(frozen=True)
class Frames:
    """T upright RGB pictures of one size that can be read again and again."""

    path: Path
    kind: str  # photo, video or folder
    width: int
    height: int
    fps: float
    focal_px: float | None = None  # what the file's EXIF says, pixels of these frames
    source_size: tuple[int, int] = (0, 0)  # width, height of the file's own picture; larger if it was shrunk
    film: video.Film | None = field(default=None, repr=False)
    photo: Photo | None = field(default=None, repr=False)
    pictures: tuple[Path, ...] = field(default=(), repr=False)

    def __len__(self) -> int:
        if self.film is not None:
            return len(self.film)
        return len(self.pictures) or 1

    def __iter__(self) -> Iterator[np.ndarray]:
        """Every frame [H, W, 3] float32 in 0..1, in order."""
        return self.read(range(len(self)))

    def read(self, wanted: Iterable[int]) -> Iterator[np.ndarray]:
        """The frames [H, W, 3] of the numbers `wanted`, which must ascend."""
        if self.film is not None:
            yield from video.read(self.film, wanted)
            return
        for number in wanted:
            yield self.still(number).rgb

    def alphas(self) -> Iterator[np.ndarray | None]:
        """Each frame's own transparency [H, W], None where it has none (video: always)."""
        for number in range(len(self)):
            yield None if self.film is not None else self.still(number).alpha

    def still(self, number: int) -> Photo:
        """Frame `number` of a photo or folder as a Photo. Raises InputError if its size differs from the first's."""
        if self.photo is not None:
            return self.photo
        photo = read_photo(self.pictures[number])
        if photo.rgb.shape[:2] != (self.height, self.width):
            raise InputError(f"{self.pictures[number]}: not the size of {self.pictures[0].name}, as frames must be")
        return photo


def open_frames(path: Path | str) -> Frames:
    """The frames of a photo, a video or a folder of equal pictures, told apart by content. Raises InputError."""
    path = Path(path)
    if path.is_dir():
        pictures = pictures_in(path)
        first = read_photo(pictures[0])
        height, width = first.rgb.shape[:2]
        size = first.source_size
        return Frames(path, "folder", width, height, STILL_FPS, first.focal_px, size, pictures=tuple(pictures))
    if is_photo(path):
        photo = read_photo(path)
        height, width = photo.rgb.shape[:2]
        return Frames(path, "photo", width, height, STILL_FPS, photo.focal_px, photo.source_size, photo=photo)
    film = video.probe(path)
    return Frames(path, "video", film.width, film.height, film.fps, None, (film.width, film.height), film=film)


def open_inputs(paths: Iterable[Path | str]) -> list[Frames]:
    """Each input by itself; a folder whose pictures differ in size (photos, not frames) opens as one input each."""
    opened = []
    for path in map(Path, paths):
        if path.is_dir():
            pictures = pictures_in(path)
            sizes = set()
            for picture in pictures:
                with quiet_open(picture) as image:
                    sizes.add(upright_size(image))
            if len(sizes) > 1:
                opened += [open_frames(picture) for picture in pictures]
                continue
        opened.append(open_frames(path))
    return opened


def pictures_in(folder: Path) -> list[Path]:
    """The photos of a folder by name, hidden and other files left out. Raises InputError if there are none."""
    try:
        files = sorted(entry for entry in folder.iterdir() if entry.is_file() and not entry.name.startswith("."))
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror})") from error
    pictures = [entry for entry in files if entry.stat().st_size and is_photo(entry)]
    if not pictures:
        raise InputError(f"{folder}: no pictures in this folder")
    return pictures
