"""`flexavatar matte`: photo or film to mattes."""

from pathlib import Path

import typer

from flexavatar_cli.cli.parameters import Matting, Output, Overwrite
from flexavatar_cli.core.options import MatteOptions


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(matte)


def matte(source: Path, output: Output = None, matte: Matting = MatteOptions.net, overwrite: Overwrite = False) -> None:
    """Find the person: an 8-bit alpha PNG of the photo's size, or a folder of them (or .mp4, .webm) for a video."""
    from flexavatar_cli.cli.console import progress, report
    from flexavatar_cli.cli.outputs import output_path
    from flexavatar_cli.media.frames import open_frames
    from flexavatar_cli.stages import matting
    from flexavatar_cli.stages.shots import write_matte

    frames = open_frames(source)
    target = output_path(output, source, ".matte.png" if frames.kind == "photo" else ".matte", overwrite)
    options = MatteOptions(net=matte)
    own = matting.has_own_matte(frames, options)
    net = "the picture's own transparency" if own else matting.open_net(matte).name
    with progress("Matting", len(frames)) as on_step:
        written = write_matte(source, target, options, on_step)
    report({"matte": written, "frames": len(frames), "size": list(frames.source_size), "net": net})
