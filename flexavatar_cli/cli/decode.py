"""`flexavatar decode`: an avatar and an expression to Gaussians."""

from pathlib import Path
from typing import Annotated

import typer

from flexavatar_cli.cli.parameters import Device, Output, Overwrite
from flexavatar_cli.cli.render import AvatarModelName
from flexavatar_cli.core.options import CommonOptions

Weights = Annotated[
    list[str] | None, typer.Option("--set", help="One weight of the expression, NAME=VALUE, e.g. jawOpen=0.5.")
]
Motion = Annotated[
    Path | None, typer.Option("--motion", help="A motion.npz or ARKit .csv to take the expression from.")
]
Frame = Annotated[int, typer.Option("--frame", min=0, help="Which frame of --motion.")]


def decode(
    avatar: Annotated[Path, typer.Argument(help="An .avatar file.")],
    weights: Weights = None,
    motion: Motion = None,
    frame: Frame = 0,
    output: Output = None,
    model: AvatarModelName = None,
    device: Device = CommonOptions.device,
    overwrite: Overwrite = False,
) -> None:
    """The Gaussians of one expression: A.avatar -> A.npz (or .ply for 3DGS viewers)."""
    from flexavatar_cli.cli.console import report, say
    from flexavatar_cli.cli.outputs import claim, name_output
    from flexavatar_cli.cli.runs import describe
    from flexavatar_cli.core.avatar import Avatar
    from flexavatar_cli.core.errors import UsageError
    from flexavatar_cli.export.gaussian_files import save_gaussians
    from flexavatar_cli.stages import animation
    from flexavatar_cli.stages.instruments import load_instruments
    from flexavatar_cli.stages.motion import load_motion, recoded

    content = Avatar.load(avatar)
    target = claim(name_output(output, avatar, ".npz"), overwrite)
    if target.suffix not in (".npz", ".ply"):
        raise UsageError(f"{target}: Gaussians are written as .npz or .ply")
    instruments = load_instruments(model or content.model, device)
    words = describe(instruments)
    say(words.line)
    figure = animation.puppet(content, instruments)
    code = figure.neutral
    if motion is not None:
        track = load_motion(motion)
        if frame >= len(track):
            raise UsageError(f"--frame {frame}: {motion} has {len(track)} frames")
        code = recoded(track.expression_code, track.expression_names, figure.expression_names)[frame].copy()
    for text in weights or []:
        name, _, value = text.partition("=")
        try:
            code[figure.expression_names.index(name)] = float(value)
        except ValueError as error:
            raise UsageError(
                f"--set {text}: not NAME=VALUE with a name such as {figure.expression_names[0]}"
            ) from error
    head = next(figure.gaussians(code[None]))
    report({"gaussians": save_gaussians(head, target), "count": len(head), **words.facts})


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(decode)
