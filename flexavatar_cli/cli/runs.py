"""What runs of several steps share: what they play on, where mattes come from, and where they keep their steps."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flexavatar_cli.core.errors import InputError, UsageError
from flexavatar_cli.core.options import MatteOptions
from flexavatar_cli.stages import matting
from flexavatar_cli.stages.instruments import Instruments
from flexavatar_cli.stages.workfolder import WorkFolder, default_folder

PRESETS = ("default", "paper")
NETS = ("auto", "portrait", "selfie", "modnet", "alpha")
MATTE_SUFFIXES = (".png", ".matte")


@dataclass(frozen=True)
class Words:
    """What a run plays on, for the `--json` result and as one line of talk."""

    facts: dict[str, Any]

    @property
    def line(self) -> str:
        """All of it on one line."""
        return ", ".join(f"{name.replace('_', ' ')}: {value}" for name, value in self.facts.items())


def describe(instruments: Instruments, matte: MatteOptions | None = None, matte_file: Path | None = None) -> Words:
    """Back end, device, weights, head model and, where mattes are used, where they come from."""
    facts = instruments.describe()
    if matte_file is not None:
        facts["matting"] = f"given ({matte_file.name})"
    elif matte is not None:
        facts["matting"] = "own transparency" if matte.net == "alpha" else matting.open_net(matte.net).name
    return Words(facts)


def matte_choice(text: str) -> tuple[MatteOptions, Path | None]:
    """What `--matte` means: the name or file of a net, or a finished matte (a PNG or a folder of them).

    Raises InputError if a finished matte is not there.
    """
    path = Path(text)
    if text in NETS:
        return MatteOptions(net=text), None
    if path.is_dir() or path.suffix.lower() in MATTE_SUFFIXES:
        if not path.exists():
            raise InputError(f"{path}: no such matte")
        return MatteOptions(), path
    return MatteOptions(net=text), None


def preset_name(text: str) -> str:
    """A preset of fitting. Raises UsageError for another name."""
    if text not in PRESETS:
        raise UsageError(f"--preset {text}: not one of {', '.join(PRESETS)}")
    return text


@contextmanager
def work_folder(
    chosen: Path | None, inputs: Sequence[Path], settings: Mapping[str, Any], output: Path | None = None
) -> Iterator[WorkFolder]:
    """The folder of finished steps: `chosen` is kept; without it one in the cache, removed when the run succeeds.

    Each `output` has its own there: runs side by side would remove one another's.
    """
    if chosen is not None:
        yield WorkFolder(chosen)
        return
    place = None if output is None else str(output.resolve())
    folder = default_folder(inputs, {**settings, "output": place})
    yield WorkFolder(folder)
    shutil.rmtree(folder, ignore_errors=True)
