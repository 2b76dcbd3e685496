"""Rows of a training set on disk: one plain array per column, or tar shards that the package webdataset reads too.

All rows of a shard take the same number of bytes, as their arrays have the same shapes, so each column of a shard is
one strided array over the mapped file: any row in any order, as from plain arrays.
"""

import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from flexavatar_cli.core.errors import InputError
from flexavatar_cli.core.files import replacing

END = 1024  # bytes of zeros that end a tar archive

Row = Mapping[str, np.ndarray]


class Sharded:
    """One column of several shards; rows are counted through."""

    def __init__(self, parts: list[np.ndarray]) -> None:
        self.parts = parts
        self.starts = np.cumsum([0, *map(len, parts)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, row: int) -> np.ndarray:
        """What stands in `row`."""
        if not 0 <= row < len(self):
            raise IndexError(row)
        part = int(np.searchsorted(self.starts, row, side="right")) - 1
        return self.parts[part][row - self.starts[part]]

    def __array__(self, dtype: np.dtype | None = None) -> np.ndarray:
        """The whole column, read into memory."""
        return np.concatenate(self.parts).astype(dtype or self.parts[0].dtype)


Column = np.ndarray | Sharded


def write_rows(folder: Path, group: str, rows: Iterable[Row], shard: int = 0) -> int:
    """Add `group` to a folder and tell how many rows it has: as `group.NAME.npy`, or `shard` rows to a `group/*.tar`.

    Shards are written as the rows come; plain arrays need memory for all of them.
    """
    count = 0
    if shard:
        from webdataset import ShardWriter

        with replacing(folder / group) as place:
            place.mkdir()
            with ShardWriter(f"{place}/%06d.tar", maxcount=shard, verbose=0, mtime=0) as sink:
                for count, row in enumerate(rows, 1):
                    arrays = {f"{name}.npy": np.asarray(value) for name, value in row.items()}
                    sink.write({"__key__": f"{count - 1:09d}", **arrays})
        return count
    made = [dict(row) for row in rows]
    for name in made[0] if made else ():
        with replacing(folder / f"{group}.{name}.npy") as temporary, open(temporary, "wb") as stream:
            np.save(stream, np.stack([row[name] for row in made]))
    return len(made)


def read_rows(folder: Path, group: str) -> dict[str, Column]:
    """The columns of a group, mapped into memory; none if there is no such group. Raises InputError."""
    shards = sorted((folder / group).glob("*.tar"))
    if not shards:
        files = sorted(folder.glob(f"{group}.*.npy"))
        return {path.name.split(".")[1]: np.load(path, mmap_mode="r") for path in files}
    parts = [_shard(path) for path in shards]
    for path, part in zip(shards, parts, strict=True):
        if part.keys() != parts[0].keys():
            raise InputError(f"{path}: not the columns of {shards[0].name}")
    return {name: Sharded([part[name] for part in parts]) for name in parts[0]}


def _shard(path: Path) -> dict[str, np.ndarray]:
    """The columns of one shard, each an array over the mapped file."""
    try:
        content = np.memmap(path, np.uint8, "r")
        with tarfile.open(path, "r:") as archive:
            after, key, heads = archive.next(), None, {}
            while after is not None and key in (None, after.name.split(".")[0]):
                key, name, _ = after.name.split(".")
                heads[name] = _head(archive, after)
                after = archive.next()
    except (OSError, ValueError, tarfile.TarError) as error:
        raise InputError(f"{path}: not a shard of a training set ({error})") from error
    stride = after.offset if after is not None else archive.offset
    starts = content[: len(content) - END : stride]  # the first letter of a row's name; zero behind the last one
    count = int((starts != 0).argmin()) or len(starts)
    if content[count * stride :][:END].any() or len(content) < count * stride + END:
        raise InputError(f"{path}: cut off, or its rows differ in size")
    columns: dict[str, np.ndarray] = {}
    for name, (offset, shape, dtype) in heads.items():
        inner = np.empty(shape, dtype).strides
        columns[name] = np.ndarray((count, *shape), dtype, content, offset, (stride, *inner))
    return columns


def _head(archive: tarfile.TarFile, member: tarfile.TarInfo) -> tuple[int, tuple[int, ...], np.dtype]:
    """Where the values of an array begin in the file, their shape and type."""
    stream = archive.extractfile(member)
    assert stream is not None
    np.lib.format.read_magic(stream)
    shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    return member.offset_data + stream.tell(), shape, dtype
