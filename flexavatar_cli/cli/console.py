"""What a command says: results on stdout, talk and progress bars on stderr, one switch for `--json`."""

import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

OnStep = Callable[[int, int], None]  # on_step(done, total): called by a stage after each step

log = logging.getLogger("flexavatar")
LOGGERS = ("flexavatar", "flexavatar_cli")  # ours; other libraries keep their own manners


@dataclass
class Settings:
    """The common switches of the command that is running."""

    json: bool = False
    quiet: bool = False
    verbose: bool = False


settings = Settings()


def configure(json: bool, quiet: bool, verbose: bool) -> None:
    """Take over the common switches and point `logging` to stderr."""
    settings.json, settings.quiet, settings.verbose = json, quiet, verbose
    level = logging.ERROR if quiet else logging.DEBUG if verbose else logging.INFO
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)


def release() -> None:
    """Undo `configure`: the program may be called again, or from another program."""
    configure(json=False, quiet=False, verbose=False)
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
        logger.setLevel(logging.NOTSET)


@contextmanager
def progress(label: str, total: int | None = None) -> Iterator[OnStep]:
    """An `on_step(done, total)` that draws a bar on stderr; silent with `-q` or when stderr is no terminal."""
    if settings.quiet or not sys.stderr.isatty():
        yield lambda done, total: None
        return

    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description:<12}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=total)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def say(message: str) -> None:
    """One line of talk on stderr (not with `-q`)."""
    log.info(message)


def report(result: Mapping[str, object], text: str | None = None) -> None:
    """Print the command's result on stdout: with `--json` one JSON object, else `text` or `key: value` lines."""
    if settings.json:
        print(json.dumps(plain(result), allow_nan=False))
    elif text is not None:
        print(text)
    else:
        width = max((len(key) for key in result), default=0)
        for key, value in result.items():
            print(f"{key.ljust(width)}  {readable(value)}")


def plain(value: object) -> object:
    """`value` in JSON's own types: paths become strings, arrays lists, numbers that JSON lacks None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy and torch, without importing either
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and value - value != 0:  # nan, inf
        return None
    return value


def readable(value: object) -> str:
    """`value` for a person, on one line."""
    value = plain(value)
    if isinstance(value, dict):
        return ", ".join(f"{key} {readable(item)}" for key, item in value.items())
    if isinstance(value, list):
        return " ".join(readable(item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
