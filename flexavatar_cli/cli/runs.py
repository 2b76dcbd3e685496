"""What runs of several steps share: what they play on, and where they keep their steps."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flexavatar_cli.core.options import MatteOptions
from flexavatar_cli.stages import matting
from flexavatar_cli.stages.instruments import Instruments
from flexavatar_cli.stages.workfolder import WorkFolder, default_folder


def describe(instruments: Instruments, matte: MatteOptions | None = None) -> str:
    """One line: back end, weights, head model and, where one is used, the matting net."""
    words = instruments.describe()
    if matte is not None:
        words["matting"] = "own transparency" if matte.net == "alpha" else matting.open_net(matte.net).name
    return ", ".join(f"{name.replace('_', ' ')}: {value}" for name, value in words.items())


@contextmanager
def work_folder(chosen: Path | None, inputs: Sequence[Path], settings: Mapping[str, Any]) -> Iterator[WorkFolder]:
    """The folder of finished steps: `chosen` is kept; without it one in the cache, removed when the run succeeds."""
    if chosen is not None:
        yield WorkFolder(chosen)
        return
    folder = default_folder(inputs, settings)
    yield WorkFolder(folder)
    shutil.rmtree(folder, ignore_errors=True)
