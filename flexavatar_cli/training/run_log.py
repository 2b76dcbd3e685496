"""The record of a run: one line of JSON per step, TensorBoard where it is installed, and a live table."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from flexavatar_cli.core.files import replacing

SAID_EVERY = 30.0  # seconds between lines of talk


class RunLog:
    """Call it with each step's number and terms. Lines after `step` are dropped: a resumed run writes them again."""

    def __init__(self, folder: Path, step: int, say: Callable[[str], None]) -> None:
        self.path, self.say, self.said = folder / "log.jsonl", say, 0.0
        if self.path.exists():
            lines = self.path.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if json.loads(line)["step"] <= step]
            with replacing(self.path) as temporary:
                temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        self.stream = open(self.path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 - closed by __exit__

    def __call__(self, step: int, terms: dict[str, float]) -> None:
        """Write down one step."""
        rounded = {name: round(value, 7) for name, value in terms.items()}
        self.stream.write(json.dumps({"step": step} | rounded) + "\n")
        if time.monotonic() - self.said > SAID_EVERY:
            self.said = time.monotonic()
            shown = ", ".join(f"{name} {value:.4f}" for name, value in terms.items() if name != "rate")
            self.say(f"step {step}: {shown}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stream.close()
