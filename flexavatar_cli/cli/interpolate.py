"""`flexavatar interpolate`: the heads between two people."""

from pathlib import Path
from typing import Annotated

import typer

from flexavatar_cli.cli.parameters import Device, Output, Overwrite, Size
from flexavatar_cli.cli.render import AvatarModelName, Background, Fps
from flexavatar_cli.core.options import CommonOptions, RenderOptions

At = Annotated[
    float | None, typer.Option("--at", min=0, max=1, help="Write one avatar this far from A to B, in place of a film.")
]


def interpolate(
    first: Annotated[Path, typer.Argument(metavar="A", help="An .avatar file.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another one, of the same model.")],
    at: At = None,
    background: Background = RenderOptions.background,
    fps: Fps = RenderOptions.fps,
    output: Output = None,
    model: AvatarModelName = None,
    device: Device = CommonOptions.device,
    size: Size = CommonOptions.size,
    overwrite: Overwrite = False,
) -> None:
    """One head into another: A.avatar B.avatar -> A-B.mp4, there and back (or with --at 0.5 -> A-B.avatar)."""
    from flexavatar_cli.cli.console import progress, report, say
    from flexavatar_cli.cli.outputs import claim, claim_film, name_output
    from flexavatar_cli.cli.runs import describe
    from flexavatar_cli.core.avatar import Avatar
    from flexavatar_cli.core.errors import UsageError
    from flexavatar_cli.media.video import write_video
    from flexavatar_cli.stages import interpolation
    from flexavatar_cli.stages.animation import parse_background
    from flexavatar_cli.stages.instruments import load_instruments

    one, other = Avatar.load(first), Avatar.load(second)
    interpolation.check_alike(one, other)
    suffix = ".mp4" if at is None else ".avatar"
    target = name_output(output, Path(f"{first.stem}-{second.stem}{suffix}"), suffix)
    if at is not None:
        if target.suffix not in (".avatar", ".pt"):
            raise UsageError(f"{target}: --at writes an .avatar (or .pt)")
        claim(target, overwrite)
        report({"avatar": interpolation.interpolated(one, other, at).save(target), "share": at})
        return
    claim_film(target, overwrite)
    backdrop = parse_background(background)
    if backdrop is None and target.suffix == ".mp4":
        raise UsageError(f"{target}: mp4 holds no transparency; write .webm, .png or a folder")
    instruments = load_instruments(model or one.model, device)
    words = describe(instruments)
    say(words.line)
    frames = interpolation.morph(one, other, instruments, fps, size, backdrop)
    with progress("Rendering") as on_step:
        written = write_video(target, frames, fps, on_step, interpolation.morph_frames(fps))
    report({"video": written, **words.facts})


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(interpolate)
