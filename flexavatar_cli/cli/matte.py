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
    from flexavatar_cli.media.images import resize
    from flexavatar_cli.media.video import write_video
    from flexavatar_cli.stages import matting

    frames = open_frames(source)
    target = output_path(output, source, ".matte.png" if frames.kind == "photo" else ".matte", overwrite)
    options = MatteOptions(net=matte)
    own = matting.has_own_matte(frames, options)
    net = None if own else matting.open_net(matte)
    with progress("Matting", len(frames)) as on_step:
        alphas = matting.matte(frames, options, on_step, net)
        written = write_video(target, (resize(alpha, frames.source_size) for alpha in alphas), frames.fps)
    report(
        {
            "matte": written,
            "frames": len(frames),
            "size": list(frames.source_size),
            "net": "the picture's own transparency" if net is None else net.name,
        }
    )
