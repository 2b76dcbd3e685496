"""Weights that do not come with the package: fetched, verified, located.

`models/registry.yaml` says what there is. Files lie in `<cache>/models/NAME/`; what was fetched without a stated sha256
is recorded there in `recorded.json` on first use, and held to it ever after.
"""

import json
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import yaml

from flexavatar_cli.core.errors import InputError, UsageError, WeightsError
from flexavatar_cli.core.files import digest_file, replacing
from flexavatar_cli.core.paths import models_dir

log = logging.getLogger(__name__)

FORMAT = "flexavatar-registry/1"
FLAME_FILE = "flame.safetensors"  # in the cache folder `flame`: the user's head with its landmarks
RECORD = "recorded.json"  # in an entry's folder: name -> {sha256, size, from}
TIMEOUT = (15, 60)  # seconds to connect, and between two pieces
PIECE = 1 << 20  # bytes

OnBytes = Callable[[int, int], None]  # done, total; total 0 = unknown


@dataclass(frozen=True)
class RemoteFile:
    """One file of an entry; an empty `sha256` and a `size` of 0 are not stated, an empty `url` is not known."""

    file: str
    url: str = ""
    sha256: str = ""
    size: int = 0  # bytes


@dataclass(frozen=True)
class Entry:
    """Something that can be fetched."""

    name: str
    title: str
    licence: str
    allows: str
    origin: str
    files: tuple[RemoteFile, ...]

    @property
    def folder(self) -> Path:
        """Where its files lie."""
        return model_cache() / self.name

    def paths(self) -> list[Path]:
        """Its files in the cache, there or not."""
        return [self.folder / remote.file for remote in self.files]

    def missing(self) -> list[RemoteFile]:
        """Files that are not in the cache."""
        return [remote for remote in self.files if not (self.folder / remote.file).is_file()]


def model_cache() -> Path:
    """The folder of fetched and added models: $FLEXAVATAR_CACHE, else `flexavatar/models` in the XDG cache folder."""
    chosen = os.environ.get("FLEXAVATAR_CACHE")
    if chosen:
        return Path(chosen) / "models"
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "flexavatar" / "models"


def registry(path: Path | None = None) -> dict[str, Entry]:
    """The entries of `models/registry.yaml`. Raises WeightsError naming what is wrong in it."""
    path = path or models_dir() / "registry.yaml"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise WeightsError(f"{path}: no readable registry ({str(error).splitlines()[0]})") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise WeightsError(f"{path}: not a registry of format {FORMAT}")
    entries = {}
    try:
        for name, fields in content["entries"].items():
            files = tuple(RemoteFile(**remote) for remote in fields.pop("files"))
            if any(Path(part).name != part or part.startswith(".") for part in (name, *(f.file for f in files))):
                raise WeightsError(f"{path}: {name}: a file name with a folder in it")
            entries[name] = Entry(name=name, files=files, **fields)
    except (KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path}: malformed entry ({error})") from error
    return entries


def entry(name: str) -> Entry:
    """The entry called `name`. Raises UsageError naming those there are."""
    known = registry()
    if name not in known:
        raise UsageError(f"models: no entry {name!r}; there are {', '.join(known)}, and flame to add")
    return known[name]


def locate(name: str) -> Path | None:
    """The folder of an entry whose files are all there, else None. Contents are not looked at: see `verify`."""
    found = entry(name)
    return None if found.missing() else found.folder


def how_to_get(name: str) -> str:
    """The command that fetches an entry, or, where no address is known, adds it."""
    found = entry(name)
    if all(remote.url for remote in found.files):
        return f"flexavatar models pull {name} --accept-licence"
    return f"flexavatar models add {name} FOLDER (with {', '.join(remote.file for remote in found.files)})"


def pull(
    name: str,
    accept_licence: bool = False,
    mirror: str = "",  # base address: files are asked for as MIRROR/NAME/FILE
    offline: bool = False,
    on_bytes: OnBytes | None = None,
) -> Path:
    """The folder of an entry, its missing files fetched (interrupted ones from where they stopped) and verified.

    Raises UsageError if the licence is not accepted, WeightsError if a file cannot be had or is not what is stated.
    """
    found = entry(name)
    missing = found.missing()
    if missing and not accept_licence:
        raise UsageError(
            f"{name} is under {found.licence} ({found.allows}); read it, then pass --accept-licence to fetch it"
        )
    for remote in missing:
        source = f"{mirror.rstrip('/')}/{name}/{remote.file}" if mirror else remote.url
        if offline:
            raise WeightsError(f"{found.folder / remote.file}: not in the cache, and --offline forbids to fetch it")
        if not source:
            raise WeightsError(
                f"{name}: no address is known for {remote.file}: get it from {found.origin}; then "
                f"`{how_to_get(name)}`, or pass --mirror"
            )
        fetch(source, found, remote, on_bytes)
    verify(name)
    return found.folder


def fetch(source: str, found: Entry, remote: RemoteFile, on_bytes: OnBytes | None = None) -> Path:
    """One file from `source` into its entry's folder, through pooch. Raises WeightsError."""
    import pooch
    import requests

    expected = remote.sha256 or _record(found).get(remote.file, {}).get("sha256", "")
    found.folder.mkdir(parents=True, exist_ok=True)
    loader = ResumingDownload(found.folder / f"{remote.file}.part", remote.size, on_bytes)
    pooch.get_logger().setLevel(logging.WARNING)
    try:
        known = f"sha256:{expected}" if expected else None
        path = Path(pooch.retrieve(source, known, fname=remote.file, path=found.folder, downloader=loader))
    except (requests.RequestException, OSError) as error:
        hint = "the same command goes on where it stopped; or give --mirror"
        raise WeightsError(f"{source}: cannot be fetched ({_short(error)}); {hint}") from error
    except ValueError as error:  # pooch: another hash
        loader.part.unlink(missing_ok=True)
        raise WeightsError(f"{source}: its sha256 is not the stated {expected[:12]}...; not kept") from error
    loader.part.unlink(missing_ok=True)
    record(found, path, source)
    return path


class ResumingDownload:
    """A downloader for pooch that keeps what it got in a `.part` file and asks only for the rest the next time."""

    def __init__(self, part: Path, size: int, on_bytes: OnBytes | None) -> None:
        self.part, self.size, self.on_bytes = part, size, on_bytes

    def __call__(self, url: str, output: str | IO[Any], _pooch: object, check_only: bool = False) -> None:
        """Fetch `url` into the part file, then copy it to `output`."""
        import requests

        done = self.part.stat().st_size if self.part.is_file() else 0
        if self.size and done > self.size:
            self.part.unlink()
            done = 0
        if not (self.size and done == self.size):
            headers = {"Range": f"bytes={done}-"} if done else {}
            with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
                if answer.status_code != 416:  # nothing beyond what is there: it is whole
                    answer.raise_for_status()
                    self._write(answer, done if answer.status_code == 206 else 0)
        with open(self.part, "rb") as stream:
            if isinstance(output, str | os.PathLike):
                with open(output, "wb") as target:
                    shutil.copyfileobj(stream, target, PIECE)
            else:
                shutil.copyfileobj(stream, output, PIECE)

    def _write(self, answer: Any, done: int) -> None:
        """Append the body of `answer` to the part file from byte `done` on. Raises OSError if it ends early."""
        length = int(answer.headers.get("Content-Length", 0))
        total = done + length if length else self.size
        with open(self.part, "ab" if done else "wb") as stream:
            for piece in answer.iter_content(PIECE):
                stream.write(piece)
                done += len(piece)
                if self.on_bytes is not None:
                    self.on_bytes(done, total)
        if total and done < total:
            raise OSError(f"ended after {done} of {total} bytes")


def add(name: str, source: Path) -> Path:
    """Copy an entry's files from folder `source` (or its only missing one from a file) into the cache; its folder.

    Raises InputError if a file is not there, WeightsError if it is not the stated one.
    """
    found = entry(name)
    if source.is_dir():
        pairs = [(remote, source / remote.file) for remote in found.files]
        if len(found.files) > 1 and all(not path.is_file() for _, path in pairs):
            pairs = [(remote, path) for remote in found.files for path in sorted(source.rglob(remote.file))[:1]]
    else:
        pairs = [(remote, source) for remote in found.files if remote.file == source.name or len(found.files) == 1]
    if not pairs:
        raise InputError(f"{source}: none of {', '.join(remote.file for remote in found.files)}")
    for remote, path in pairs:
        if not path.is_file():
            raise InputError(f"{path}: not there; {name} needs {', '.join(remote.file for remote in found.files)}")
        if remote.sha256 and digest_file(path) != remote.sha256:
            raise WeightsError(f"{path}: its sha256 is not the stated {remote.sha256[:12]}...; not added")
        with replacing(found.folder / remote.file) as temporary:
            shutil.copyfile(path, temporary)
        record(found, found.folder / remote.file, f"added: {path.name}", renew=True)
    return found.folder


@dataclass(frozen=True)
class Verdict:
    """What was found about one file."""

    path: Path
    good: bool
    detail: str
    sha256: str = ""


def check(found: Entry) -> list[Verdict]:
    """Each file of an entry against the stated or recorded sha256 and size."""
    verdicts = []
    notes = _record(found)
    for remote in found.files:
        path = found.folder / remote.file
        if not path.is_file():
            verdicts.append(Verdict(path, False, "not there"))
            continue
        digest = digest_file(path)
        stated = remote.sha256 or notes.get(remote.file, {}).get("sha256", "")
        if stated and digest != stated:
            kind = "stated" if remote.sha256 else "recorded"
            verdicts.append(Verdict(path, False, f"sha256 {digest[:12]}..., {kind} {stated[:12]}...", digest))
        else:
            kind = "as stated" if remote.sha256 else "as recorded" if stated else "recorded now"
            verdicts.append(Verdict(path, True, kind, digest))
            if not stated:
                record(found, path, "found in the cache")
    return verdicts


def verify(name: str) -> list[Verdict]:
    """`check`, raising WeightsError at the first file that is missing or damaged."""
    verdicts = check(entry(name))
    for verdict in verdicts:
        if not verdict.good:
            raise WeightsError(f"{verdict.path}: {verdict.detail}; remove it and `{how_to_get(name)}`")
    return verdicts


def record(found: Entry, path: Path, source: str, renew: bool = False) -> None:
    """Note sha256, size and source of a file; a note that is there stays unless `renew`."""
    notes = _record(found)
    if path.name in notes and not renew:
        return
    notes[path.name] = {"sha256": digest_file(path), "size": path.stat().st_size, "from": source}
    with replacing(found.folder / RECORD) as temporary:
        temporary.write_text(json.dumps(notes, indent=1, sort_keys=True), encoding="utf-8")


def source_of(found: Entry, file: str) -> str:
    """Where a file of the cache came from, as recorded."""
    return str(_record(found).get(file, {}).get("from", ""))


def _record(found: Entry) -> dict[str, dict[str, Any]]:
    try:
        content = json.loads((found.folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _short(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]
