"""The record of a run: one line of JSON per step, and TensorBoard's where that is installed."""

import importlib.util
import json
from pathlib import Path
from types import TracebackType
from typing import Self

from flexavatar_cli.core.files import replacing


class RunLog:
    """Call it with each step's number and terms. What stands after `step` goes: a resumed run writes it again."""

    def __init__(self, folder: Path, step: int) -> None:
        path = folder / "log.jsonl"
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if json.loads(line)["step"] <= step]
            with replacing(path) as temporary:
                temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        self.stream = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 - closed by __exit__
        self.board = None
        if importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def __call__(self, step: int, terms: dict[str, float]) -> None:
        """Write down one step."""
        rounded = {name: round(value, 7) for name, value in terms.items()}
        self.stream.write(json.dumps({"step": step} | rounded) + "\n")
        if self.board is not None:
            for name, value in terms.items():
                self.board.add_scalar(name, value, step)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stream.close()
        if self.board is not None:
            self.board.close()
