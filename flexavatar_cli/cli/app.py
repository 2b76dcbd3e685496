"""The `flexavatar` program: one module per command, and the single place where errors become exit codes."""

import functools
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from flexavatar_cli import __version__
from flexavatar_cli.cli import console
from flexavatar_cli.core.errors import FlexAvatarError, InputError

# Modules of flexavatar_cli.cli in the order of `--help`. Each has `register(app)`.
COMMANDS = (
    "create", "fit", "matte", "track", "encode", "decode", "render", "interpolate", "export", "eval", "prepare",
    "train", "models", "info", "doctor",
)  # fmt: skip

COMMON = {
    "json": Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")],
    "quiet": Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")],
    "verbose": Annotated[bool, typer.Option("--verbose", "-v", help="Say more.")],
}


class App(typer.Typer):
    """A Typer whose every command also takes `--json`, `-q` and `-v`."""

    def command(self, name: str | None = None, **settings: Any) -> Callable[[Callable], Callable]:  # type: ignore[override]
        add = super().command(name, **settings)

        def decorate(function: Callable) -> Callable:
            add(with_common_options(function))
            return function

        return decorate


def with_common_options(function: Callable) -> Callable:
    """`function` with the COMMON options in front, handed to the console instead of to the function."""

    @functools.wraps(function)
    def wrapper(*, json: bool, quiet: bool, verbose: bool, **options: Any) -> Any:
        console.configure(json, quiet, verbose)
        return function(**options)

    kind = inspect.Parameter.KEYWORD_ONLY
    own = inspect.signature(function, eval_str=True).parameters.values()
    parameters = [parameter.replace(kind=kind) for parameter in own]
    parameters += [inspect.Parameter(key, kind, default=False, annotation=value) for key, value in COMMON.items()]
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return wrapper


def build() -> App:
    """The app with all COMMANDS; no command module imports more than typer and the standard library."""
    app = App(
        name="flexavatar",
        help="One photo to an animatable 360-degree 3D Gaussian head avatar, on a CPU.",
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
    )

    @app.callback()
    def flexavatar(
        version: Annotated[bool, typer.Option("--version", callback=show_version, is_eager=True)] = False,
    ) -> None:
        """One photo to an animatable 360-degree 3D Gaussian head avatar, on a CPU."""

    for name in COMMANDS:
        importlib.import_module(f"flexavatar_cli.cli.{name}").register(app)
    return app


def show_version(wanted: bool) -> None:
    """Print the version and leave, if wanted."""
    if wanted:
        print(f"flexavatar {__version__}")
        raise typer.Exit


def prepare_environment() -> None:
    """Defaults that native libraries read when they are loaded; the user's own settings win."""
    os.environ.setdefault("GOMP_SPINCOUNT", "0")  # spinning makes torch 10-50x slower beside busy neighbours
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GLOG_minloglevel", "3")


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return the exit code; the FlexAvatarError family becomes one stderr line."""
    prepare_environment()
    try:
        code = build()(arguments, standalone_mode=False)
    except FlexAvatarError as error:
        return complain(str(error), error.exit_code)
    except typer.TyperException as error:  # usage: unknown option, missing argument
        message = error.format_message()  # empty where the help was printed instead
        return complain(f"{message} (see `flexavatar --help`)", error.exit_code) if message else error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except BrokenPipeError:  # the reader of stdout left, e.g. `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # the machine's own refusal: disk full, no permission
        if error.strerror is None:
            raise
        return complain(f"{error.filename or 'file'}: {error.strerror}", InputError.exit_code)
    finally:
        console.release()
    if code == 130:  # what typer makes of Ctrl-C
        return complain("interrupted", 130)
    return code if isinstance(code, int) else 0


def complain(message: str, code: int) -> int:
    """Print one line on stderr."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return code


def main() -> None:
    """Entry point of the console script."""
    sys.exit(run())
