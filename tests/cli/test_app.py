import json

import pytest
import typer

from flexavatar_cli.cli import app as program
from flexavatar_cli.cli import console
from flexavatar_cli.cli.app import App, run
from flexavatar_cli.core.errors import BackendError, InputError, UsageError, WeightsError


def with_command(monkeypatch, command):
    """Make `run` know one command, `go`, besides nothing."""

    def build():
        app = App(pretty_exceptions_enable=False)
        app.callback()(lambda: None)
        app.command("go")(command)
        return app

    monkeypatch.setattr(program, "build", build)


@pytest.mark.parametrize(
    ("error", "code"),
    [(UsageError, 2), (InputError, 3), (WeightsError, 4), (BackendError, 5), (KeyboardInterrupt, 130)],
)
def test_the_family_of_errors_becomes_one_line_and_a_code(monkeypatch, capsys, error, code):
    def go() -> None:
        raise error("what\nwhere")

    with_command(monkeypatch, go)
    assert run(["go"]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("error: ")


def test_a_full_disk_is_no_bug_of_ours(monkeypatch, capsys):
    def go() -> None:
        raise OSError(28, "No space left on device", "a.mp4")

    with_command(monkeypatch, go)
    assert run(["go"]) == 3
    assert capsys.readouterr().err == "error: a.mp4: No space left on device\n"


def test_our_own_bugs_stay_tracebacks(monkeypatch):
    def go() -> None:
        raise ZeroDivisionError

    with_command(monkeypatch, go)
    with pytest.raises(ZeroDivisionError):
        run(["go"])


def test_common_options_reach_the_console_and_not_the_command(monkeypatch, capsys):
    def go(number: int, twice: bool = False) -> None:
        console.report({"number": number * (2 if twice else 1), "quiet": console.settings.quiet})

    with_command(monkeypatch, go)
    assert run(["go", "3"]) == 0
    assert capsys.readouterr().out == "number  3\nquiet   no\n"
    assert run(["go", "3", "--twice", "--json", "-q"]) == 0
    assert json.loads(capsys.readouterr().out) == {"number": 6, "quiet": True}
    assert not console.settings.quiet


@pytest.mark.parametrize("arguments", [["go"], ["go", "x"], ["go", "1", "--unknown"], ["nothing"]])
def test_wrong_usage_is_one_line_and_2(monkeypatch, capsys, arguments):
    def go(number: int) -> None:
        pass

    with_command(monkeypatch, go)
    assert run(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_help_and_version(capsys):
    assert run(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in program.COMMANDS)
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("flexavatar 0.")
    assert run([]) == 2


def test_every_command_has_help(capsys):
    verbs = {"models": ("list", "pull", "add", "verify")}
    for name in program.COMMANDS:
        for verb in verbs.get(name, ("",)):
            assert run([name, *([verb] if verb else []), "--help"]) == 0
            text = capsys.readouterr().out
            assert "--json" in text, name


def test_exit_codes_of_typer_pass(monkeypatch):
    def go() -> None:
        raise typer.Exit(7)

    with_command(monkeypatch, go)
    assert run(["go"]) == 7
