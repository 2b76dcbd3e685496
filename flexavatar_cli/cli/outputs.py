"""Where results go: names made from inputs, nothing replaced unasked, files put in place whole."""

import os
import shutil
from pathlib import Path

from flexavatar_cli.core.avatar import Avatar
from flexavatar_cli.core.errors import InputError, UsageError
from flexavatar_cli.core.files import replacing

AVATARS = (".avatar", ".pt", ".npy", "")


def name_output(output: Path | None, source: Path, suffix: str) -> Path:
    """`output`, or the source's name with `suffix` in the current folder, or in `output` if that is a folder."""
    name = f"{source.resolve().name if source.is_dir() else source.stem}{suffix}"
    if output is None:
        return Path(name)
    return output / name if output.is_dir() or str(output).endswith(os.sep) else output


def claim(path: Path, overwrite: bool) -> Path:
    """`path`, if it may be written. Raises UsageError if it exists already, InputError if its folder is no place."""
    empty = path.is_dir() and not any(path.iterdir())
    if path.exists() and not overwrite and not empty:
        raise UsageError(f"{path}: exists already; pass --overwrite to replace it, or -o for another name")
    folder = path.absolute().parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise InputError(f"{path}: cannot be written ({folder} is no folder that can be written to)")
    return path


def output_path(output: Path | None, source: Path, suffix: str, overwrite: bool) -> Path:
    """Where the result for `source` goes, by `name_output`, if it may be written. Raises UsageError or InputError."""
    return claim(name_output(output, source, suffix), overwrite)


def claim_film(path: Path, overwrite: bool, single: bool = False) -> Path:
    """`path`, if a film, or a `single` picture, may be written to it. Raises UsageError or InputError.

    More than one picture under a `.png` name goes to the folder without the suffix.
    """
    if path.suffix.lower() == ".png" and not single and not path.is_dir():
        claim(path.with_suffix(""), overwrite)
    return claim(path, overwrite)


def avatar_path(output: Path | None, source: Path, overwrite: bool) -> Path:
    """`output_path` of an avatar. Raises UsageError also for a suffix that says it is something else."""
    target = name_output(output, source, ".avatar")
    if target.suffix not in AVATARS:
        raise UsageError(f"{target}: an avatar is written as .avatar, .pt or .npy")
    return claim(target, overwrite)


def put(made: Path, target: Path) -> Path:
    """A copy of a finished file at `target`; an avatar becomes a torch archive as `.pt`, a published code as `.npy`."""
    if made.suffix == ".avatar" and target.suffix == ".pt":
        return Avatar.load(made).save(target)
    if made.suffix == ".avatar" and target.suffix == ".npy":
        from flexavatar_cli.stages.published import write_code

        return write_code(Avatar.load(made), target)
    with replacing(target) as temporary:
        shutil.copyfile(made, temporary)
    return target
