"""`flexavatar fit`: many pictures of one person to an avatar."""

from pathlib import Path
from typing import Annotated

import typer

from flexavatar_cli.cli.encode import TrackFile
from flexavatar_cli.cli.parameters import (
    Device,
    Face,
    Fov,
    ImageFeatures,
    Matting,
    Model,
    Output,
    Overwrite,
    Preset,
    Seed,
    Work,
)
from flexavatar_cli.core.options import CommonOptions, EncodeOptions, FitOptions, MatteOptions, TrackOptions

Steps = Annotated[int, typer.Option("--steps", min=0, help="Steps of fitting.")]
Frames = Annotated[int, typer.Option("--frames", min=1, help="Thin the pictures evenly to this many.")]
Init = Annotated[Path | None, typer.Option("--init", help="The .avatar to start from; without it, the encoder's.")]
HoldOut = Annotated[
    int, typer.Option("--hold-out", min=0, help="Keep every N-th frame of a video or folder to measure on; 0 = none.")
]


def fit(
    sources: Annotated[list[Path], typer.Argument(help="A video, photos, or folders of photos of one person.")],
    steps: Steps = FitOptions.steps,
    frames: Frames = FitOptions.frames,
    init: Init = None,
    hold_out: HoldOut = FitOptions.hold_out,
    preset: Preset = FitOptions.preset,
    image_features: ImageFeatures = None,
    matte: Matting = MatteOptions.net,
    track: TrackFile = None,
    output: Output = None,
    model: Model = CommonOptions.model,
    device: Device = CommonOptions.device,
    seed: Seed = CommonOptions.seed,
    face: Face = CommonOptions.face,
    fov: Fov = None,
    work: Work = None,
    overwrite: Overwrite = False,
) -> None:
    """Fit one avatar to many pictures: VIDEO, PHOTO... or DIR -> .avatar. `--matte` also takes finished mattes."""
    from flexavatar_cli.cli.console import progress, report, say
    from flexavatar_cli.cli.outputs import avatar_path, put
    from flexavatar_cli.cli.runs import describe, matte_choice, preset_name, work_folder
    from flexavatar_cli.core.errors import UsageError
    from flexavatar_cli.evaluation.held_out import held_out_psnr
    from flexavatar_cli.media.frames import open_inputs
    from flexavatar_cli.stages import pipeline
    from flexavatar_cli.stages.instruments import load_instruments

    target = avatar_path(output, sources[0], overwrite)
    opened = open_inputs(sources)
    if hold_out == 1:
        raise UsageError("--hold-out 1: leaves nothing to fit; 2 or more, or 0 for none")
    if hold_out > max(len(frames) for frames in opened):
        raise UsageError(f"--hold-out {hold_out}: holds nothing out, as no video or folder has so many frames")
    inputs = [frames.path for frames in opened]
    options, matte_file = matte_choice(matte)
    if len(inputs) > 1 and (matte_file or track):
        raise UsageError("a finished matte or track goes with one input; with several use --work")
    instruments = load_instruments(model, device)
    words = describe(instruments, options, matte_file)
    say(words.line)
    fitting = FitOptions(steps=steps, frames=frames, hold_out=hold_out, preset=preset_name(preset))
    encoding = EncodeOptions(image_features=str(image_features or ""))
    settings = {"command": "fit", "face": face, "fov": fov, "matte": matte, "model": model}
    with work_folder(work, inputs, settings, target) as folder:
        job = pipeline.Job(instruments, folder, options, TrackOptions(face=face), encoding, fov, seed, progress)
        shots = [pipeline.shoot(job, path, matte_file, track) for path in inputs]
        made = pipeline.fit_shots(job, shots, fitting, init=init)
        put(made.fitted, target)
        result = {"avatar": target, "steps": steps, "inputs": len(inputs), **words.facts}
        if hold_out:
            with progress("Measuring") as on_step:
                result |= held_out_psnr(made.fitted, shots, hold_out, instruments, on_step)
        result |= {"made": folder.made, "reused": folder.reused, "seconds": folder.seconds}
    report(result)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(fit)
