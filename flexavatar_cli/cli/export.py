"""`flexavatar export`: an avatar for other programs, or for any browser."""

from pathlib import Path
from typing import Annotated

import typer

from flexavatar_cli.cli.parameters import Device, Output, Overwrite
from flexavatar_cli.cli.render import AvatarModelName
from flexavatar_cli.core.options import CommonOptions

FORMATS = ("html", "ply", "splat")
Format = Annotated[
    str | None, typer.Option("--format", help="html (animated, one file), ply or splat (the resting face); else by -o.")
]


def export(
    avatar: Annotated[Path, typer.Argument(help="An .avatar file.")],
    kind: Format = None,
    output: Output = None,
    model: AvatarModelName = None,
    device: Device = CommonOptions.device,
    overwrite: Overwrite = False,
) -> None:
    """An avatar for a browser or for 3DGS viewers: A.avatar -> A.html (or .ply, .splat)."""
    from flexavatar_cli.cli.console import progress, report, say
    from flexavatar_cli.cli.outputs import claim, name_output
    from flexavatar_cli.cli.runs import describe
    from flexavatar_cli.core.avatar import Avatar
    from flexavatar_cli.core.errors import UsageError
    from flexavatar_cli.export.gaussian_files import save_gaussians
    from flexavatar_cli.export.web_viewer import save_viewer
    from flexavatar_cli.stages import animation, playback
    from flexavatar_cli.stages.instruments import load_instruments

    content = Avatar.load(avatar)
    chosen = kind or (output.suffix[1:] if output and output.suffix else FORMATS[0])
    if chosen not in FORMATS:
        raise UsageError(f"--format {chosen}: not one of {', '.join(FORMATS)}")
    target = claim(name_output(output, avatar, f".{chosen}"), overwrite)
    if target.suffix != f".{chosen}":
        raise UsageError(f"{target}: --format {chosen} is written to a name that ends in .{chosen}")
    instruments = load_instruments(model or content.model, device)
    words = describe(instruments)
    say(words.line)
    figure = animation.puppet(content, instruments)
    if chosen == "html":
        with progress("Playback") as on_step:
            basis = playback.find_or_build(content, playback.playback_file(avatar), figure, on_step=on_step)
        written = save_viewer(figure, basis, target, avatar.stem)
    else:
        written = save_gaussians(next(figure.gaussians(figure.neutral[None])), target)
    report({chosen: written, "bytes": written.stat().st_size, **words.facts})


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(export)
