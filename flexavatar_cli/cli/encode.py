"""`flexavatar encode`: photo, matte and track to an avatar, in one pass of the network."""

from pathlib import Path
from typing import Annotated

import typer

from flexavatar_cli.cli.parameters import (
    Device,
    Face,
    Fov,
    ImageFeatures,
    Matting,
    Model,
    Output,
    Overwrite,
    Work,
)
from flexavatar_cli.core.options import CommonOptions, EncodeOptions, MatteOptions, TrackOptions

TrackFile = Annotated[
    Path | None,
    typer.Option(
        "--track", help="A .track.npz of the picture; flex-1: or its folder of .frame files; else it is tracked."
    ),
]
Sink = Annotated[str, typer.Option("--bias-sink", help="3d: behave like multi-view training data; 2d: like monocular.")]


def encode(
    photo: Annotated[
        Path, typer.Argument(help="A photo, a video whose most telling frame is taken, or a published code .npy.")
    ],
    matte: Matting = MatteOptions.net,
    track: TrackFile = None,
    bias_sink: Sink = EncodeOptions.bias_sink,
    image_features: ImageFeatures = None,
    output: Output = None,
    model: Model = CommonOptions.model,
    device: Device = CommonOptions.device,
    face: Face = CommonOptions.face,
    fov: Fov = None,
    work: Work = None,
    overwrite: Overwrite = False,
) -> None:
    """Photo to avatar without fitting: PHOTO -> PHOTO.avatar. `--matte` also takes a finished matte.

    flex-1: avatar_code_NAME.npy -> .avatar, and `-o NAME.npy` writes such a file; an .avatar is converted.
    """
    from flexavatar_cli.cli.console import progress, report, say
    from flexavatar_cli.cli.outputs import avatar_path
    from flexavatar_cli.cli.runs import describe, matte_choice, work_folder
    from flexavatar_cli.core.avatar import Avatar
    from flexavatar_cli.core.errors import UsageError
    from flexavatar_cli.stages import pipeline, published
    from flexavatar_cli.stages.instruments import load_instruments

    if bias_sink not in ("2d", "3d"):
        raise UsageError(f"--bias-sink {bias_sink}: 2d or 3d")
    target = avatar_path(output, photo, overwrite)
    options, matte_file = matte_choice(matte)
    instruments = load_instruments(model, device)
    known = photo.suffix in (".npy", ".avatar", ".pt")
    words = describe(instruments) if known else describe(instruments, options, matte_file)
    say(words.line)
    if known:
        avatar = published.read_code(photo, instruments, bias_sink) if photo.suffix == ".npy" else Avatar.load(photo)
        published.save_avatar(avatar, target)
        report({"avatar": target, **words.facts})
        return
    encoding = EncodeOptions(bias_sink, str(image_features or ""))
    settings = {"command": "encode", "face": face, "fov": fov, "matte": matte}
    with work_folder(work, [photo], settings, target) as folder:
        job = pipeline.Job(instruments, folder, options, TrackOptions(face=face), encoding, fov, progress=progress)
        shot = pipeline.shoot(job, photo, matte_file, track)
        published.save_avatar(Avatar.load(pipeline.encode_step(job, shot)), target)
    report({"avatar": target, **words.facts})


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(encode)
