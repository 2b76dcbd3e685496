"""`flexavatar matte`: photo or film to mattes, or to the person before another background."""

from pathlib import Path
from typing import Annotated

import typer

from flexavatar_cli.cli.parameters import Matting, Output, Overwrite
from flexavatar_cli.core.options import MatteOptions

Background = Annotated[
    str | None,
    typer.Option("--background", help="Write the person before white, black, #rrggbb or transparent, not the matte."),
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(matte)


def matte(
    source: Path,
    output: Output = None,
    matte: Matting = MatteOptions.net,
    background: Background = None,
    overwrite: Overwrite = False,
) -> None:
    """Find the person: an 8-bit alpha PNG of the photo's size, or a folder of them (or .mp4, .webm, .mov) for a video.

    With --background, the person before it instead. A folder of photos that differ in size becomes as many results.
    """
    from flexavatar_cli.cli.console import progress, report
    from flexavatar_cli.cli.outputs import output_path
    from flexavatar_cli.cli.runs import matte_choice
    from flexavatar_cli.core.errors import InputError, UsageError
    from flexavatar_cli.media.frames import open_inputs
    from flexavatar_cli.stages import matting
    from flexavatar_cli.stages.animation import parse_background

    inputs = open_inputs([source])
    names = [frames.path.stem for frames in inputs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{source}: several photos are named {twice}, as their mattes would be; rename all but one")
    colour = None if background is None else parse_background(background)
    options, given = matte_choice(matte)
    if given is not None and len(inputs) > 1:
        raise UsageError(f"{source}: photos of different sizes; pass them one by one with their mattes")
    suffix = ".matte" if background is None else ".cutout"
    many = len(inputs) > 1 or inputs[0].kind != "photo"
    target = output_path(output, source, suffix if many else f"{suffix}.png", overwrite)
    for frames in inputs:
        with progress("Matting", len(frames)) as on_step:
            if given is not None:
                net, alphas = f"given ({given.name})", matting.given_mattes(frames, given, on_step)
            else:
                own = matting.has_own_matte(frames, options)
                net = "the picture's own transparency" if own else matting.open_net(options.net).name
                alphas = matting.matte(frames, options, on_step)
            place = target / f"{frames.path.stem}.png" if len(inputs) > 1 else target
            if background is None:
                written = matting.write_mattes(frames, alphas, place)
            else:
                written = matting.write_cut_outs(frames, alphas, place, colour)
    if len(inputs) > 1:
        report({"matte": target, "photos": len(inputs), "net": net})
    else:
        report({"matte": written, "frames": len(frames), "size": list(frames.source_size), "net": net})
