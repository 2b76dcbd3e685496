"""A folder of finished steps: each file is known by the digest of all that went into it, and never made twice."""

import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import flexavatar_cli
from flexavatar_cli.core.errors import InputError
from flexavatar_cli.core.files import digest_bytes, digest_file, replacing

log = logging.getLogger("flexavatar")


@dataclass
class WorkFolder:
    """Steps that are done, in one folder, each with a note `NAME.json` of what went in and what came out."""

    folder: Path
    made: list[str] = field(default_factory=list)  # names of steps that ran
    seconds: dict[str, float] = field(default_factory=dict)  # wall time of each step that ran
    reused: list[str] = field(default_factory=list)  # names of steps found done

    def step(
        self,
        name: str,
        suffix: str,
        inputs: Sequence[Path],
        settings: Mapping[str, Any],  # options and weights digests, JSON values
        make: Callable[[Path], object],
    ) -> Path:
        """The file (or folder) that `make(path)` writes, made now unless the same step was done before.

        The same means: equal contents of `inputs`, equal `settings`, equal program; and the file is as it was left.
        """
        digests = [digest_file(path) for path in inputs]
        recipe = {"step": name, "inputs": digests, "settings": dict(settings), "program": program_digest()}
        key = digest_bytes(json.dumps(recipe, sort_keys=True).encode())
        target = self.folder / f"{name}-{key[:16]}{suffix}"
        note = target.with_name(f"{target.name}.json")
        if is_done(target, note, key):
            log.debug("%s: reusing %s", name, target)
            self.reused.append(name)
            return target
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.folder}: cannot be written ({error.strerror})") from error
        note.unlink(missing_ok=True)
        start = time.monotonic()
        with replacing(target) as temporary:
            make(temporary)
        with replacing(note) as temporary:
            content = {**recipe, "key": key, "sha256": digest_file(target, deep=True)}
            temporary.write_text(json.dumps(content, indent=1, sort_keys=True))
        self.made.append(name)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - start
        return target


def is_done(target: Path, note: Path, key: str) -> bool:
    """Whether `target` is the untouched result that `note` records for `key`."""
    try:
        content = json.loads(note.read_text())
        return content["key"] == key and target.exists() and content["sha256"] == digest_file(target, deep=True)
    except (OSError, ValueError, KeyError, TypeError, InputError):  # no note, or not one of ours: do it again
        return False


@cache
def program_digest() -> str:
    """sha256 of the version and of the program's own source files."""
    root = Path(flexavatar_cli.__file__).parent
    sources = sorted(root.rglob("*.py"))
    parts = [part for path in sources for part in (str(path.relative_to(root)).encode(), path.read_bytes())]
    return digest_bytes(flexavatar_cli.__version__.encode(), *parts)


def default_folder(inputs: Sequence[Path], settings: Mapping[str, Any]) -> Path:
    """Where a run without `--work` keeps its steps, by content, so that a killed run continues."""
    key = digest_bytes(*(digest_file(path).encode() for path in inputs), json.dumps(settings, sort_keys=True).encode())
    cache_root = os.environ.get("XDG_CACHE_HOME")
    try:
        root = Path(cache_root) if cache_root else Path.home() / ".cache"
        folder = root / "flexavatar" / "work" / key[:24]
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # no home, or it cannot be written
        folder = Path(tempfile.gettempdir()) / f"flexavatar-{os.getuid()}" / key[:24]
    return folder
