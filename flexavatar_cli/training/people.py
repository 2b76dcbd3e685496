"""The real people of a training set: portraits of the packs, and what is found below folders of one's own."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from flexavatar_cli.core.errors import InputError
from flexavatar_cli.heads import load_head
from flexavatar_cli.media.images import is_photo
from flexavatar_cli.stages.matting.nets import open_net
from flexavatar_cli.training.portraits import Row, Source, clip_rows, portraits_of
from flexavatar_cli.training.recordings import is_recording, recording_rows
from flexavatar_cli.training.rows import write_rows
from flexavatar_cli.training.split import training_ids

log = logging.getLogger(__name__)


def prepare_people(
    data: Path,  # the folder with the openly licensed packs
    portraits: int,  # how many of their portraits, evenly spread over the ids
    people: Sequence[Path],  # folders of the user's own
    frames: int,  # of each of their videos; moments of each of their calibrated recordings
    pack: Path,  # the prepared folder to add to
    shard: int = 0,  # rows of a tar shard; 0 = plain arrays
    on_step: Callable[[int, int], None] | None = None,
) -> tuple[int, int]:
    """Add real people to a prepared folder; how many pictures of portraits and clips, and of recordings, it became.

    What shows no face is named and left out.
    """
    head, net = load_head(), open_net()
    annotations = np.load(data / "portraits_ann.npz")
    names = training_ids(annotations)
    names = [names[at] for at in np.linspace(0, len(names) - 1, min(portraits, len(names))).astype(int)]
    found = [source for folder in people for source in sources_in(folder)]
    recordings = [source for source in found if is_recording(source)]
    clips = [source for source in found if not is_recording(source)]
    count = len(names) + len(found)
    portraits_and_clips = chain(
        portraits_of(data, names, annotations, head, net),
        ((str(clip), clip_rows(clip, frames, head, net)) for clip in clips),
    )
    monocular = write_rows(pack, "portraits", numbered(portraits_and_clips, count, on_step), shard)
    views = ((str(recording), recording_rows(recording, frames, head, net)) for recording in recordings)
    rows = numbered(views, count, on_step, first=count - len(recordings))
    return monocular, write_rows(pack, "recordings", rows, shard)


def sources_in(folder: Path) -> Iterator[Path]:
    """Every photo and video below `folder`, folder of pictures (the frames of one clip) and calibrated recording."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    if is_recording(folder):
        yield folder
        return
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    for entry in entries:
        if entry.is_dir() and (is_recording(entry) or not any(map(_is_picture, entry.iterdir()))):
            yield from sources_in(entry)
        else:
            yield entry


def _is_picture(path: Path) -> bool:
    return path.is_file() and is_photo(path)


def numbered(
    sources: Iterable[Source], count: int, on_step: Callable[[int, int], None] | None, first: int = 0
) -> Iterator[Row]:
    """The rows of sources, of which each is a `clip`, from `first` of `count`. What cannot be used is named."""
    for number, (name, rows) in enumerate(sources, first):
        try:
            for row in rows:
                yield row | {"clip": np.array(number, np.int32)}
        except InputError as error:
            log.info("%s left out: %s", name, error)
        if on_step:
            on_step(number + 1, count)
