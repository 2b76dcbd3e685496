"""Files written beside their target and renamed, and digests that name content."""

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flexavatar_cli.core.errors import InputError


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A temporary path beside `target` (same suffix) that becomes `target` when the block succeeds.

    The block may create a file or a folder there. On any error the target is untouched and the
    temporary path is removed. Raises InputError if the target's folder cannot be written.
    """
    target = Path(target)
    temporary = target.with_name(f".{target.stem}.{uuid.uuid4().hex[:8]}{target.suffix}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        os.replace(temporary, target)
    except (PermissionError, NotADirectoryError, FileExistsError, IsADirectoryError) as error:
        raise InputError(f"{target}: cannot be written ({error.strerror})") from error
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def digest_bytes(*parts: bytes) -> str:
    """sha256 (hex) of the parts, each prefixed by its length so that boundaries count."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(len(part).to_bytes(8, "little"))
        sha.update(part)
    return sha.hexdigest()


def digest_file(path: Path, deep: bool = False) -> str:
    """sha256 (hex) of a file, or of the names and contents of a folder's files, `deep`: of those in subfolders too.

    A folder of pictures is read without its subfolders, where the run's own work may be. Raises InputError.
    """
    path = Path(path)
    try:
        if path.is_dir():
            files = sorted(p for p in (path.rglob("*") if deep else path.iterdir()) if p.is_file())
            return digest_bytes(*(s.encode() for p in files for s in (str(p.relative_to(path)), digest_file(p))))
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
