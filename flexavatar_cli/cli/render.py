"""`flexavatar render`: an avatar moved and filmed."""

from pathlib import Path
from typing import Annotated

import typer

from flexavatar_cli.cli.parameters import Device, Face, Fov, Output, Overwrite, Seed, Size, Work
from flexavatar_cli.core.options import CommonOptions, RenderOptions, TrackOptions

AvatarModelName = Annotated[
    str | None, typer.Option("--model", help="Name or folder of the model the avatar was made with; told by the file.")
]
Driver = Annotated[
    Path | None,
    typer.Option(
        "--driver", help="Video, photo, motion.npz, ARKit .csv or folder of .frame files; else a built-in one."
    ),
]
CameraName = Annotated[
    str, typer.Option("--camera", help="orbit, front, circle, paper-circle, paper-turn, driver, or a cameras.json.")
]
Background = Annotated[str, typer.Option("--background", help="white, black, transparent or #rrggbb.")]
Relative = Annotated[
    bool, typer.Option("--relative", help="Count the driver's first frame as its resting face; pass on the rest.")
]
Fast = Annotated[bool, typer.Option("--fast", help="Play from a low-rank basis, made once and kept beside the avatar.")]
Fps = Annotated[float, typer.Option("--fps", min=1, max=240, help="Rate of the built-in motion.")]


def render(
    avatar: Annotated[Path, typer.Argument(help="An .avatar file.")],
    driver: Driver = None,
    camera: CameraName = RenderOptions.camera,
    background: Background = RenderOptions.background,
    relative: Relative = RenderOptions.relative,
    fps: Fps = RenderOptions.fps,
    fast: Fast = RenderOptions.fast,
    output: Output = None,
    model: AvatarModelName = None,
    device: Device = CommonOptions.device,
    seed: Seed = CommonOptions.seed,
    size: Size = CommonOptions.size,
    face: Face = CommonOptions.face,
    fov: Fov = None,
    work: Work = None,
    overwrite: Overwrite = False,
) -> None:
    """Film an avatar: A.avatar -> A.mp4 (or .webm, .png, a folder)."""
    from flexavatar_cli.cli.console import progress, report, say
    from flexavatar_cli.cli.outputs import claim_film, name_output
    from flexavatar_cli.cli.runs import describe, work_folder
    from flexavatar_cli.core.avatar import Avatar
    from flexavatar_cli.stages import pipeline
    from flexavatar_cli.stages.instruments import load_instruments

    content = Avatar.load(avatar)
    target = claim_film(output or name_output(None, avatar, ".mp4"), overwrite)
    options = RenderOptions(camera=camera, background=background, relative=relative, fps=fps, fast=fast)
    instruments = load_instruments(model or content.model, device)
    words = describe(instruments)
    say(words.line)
    inputs = [avatar, *([driver] if driver else [])]
    settings = {"command": "render", "face": face, "fov": fov}
    with work_folder(work, inputs, settings, target) as folder:
        job = pipeline.Job(instruments, folder, track=TrackOptions(face=face), fov=fov, seed=seed, progress=progress)
        motion = pipeline.driver_file(job, driver)
        basis = pipeline.playback_basis(job, avatar) if fast else None
        with progress("Rendering") as on_step:
            written = pipeline.write_render(avatar, target, instruments, options, size, motion, on_step, basis)
    if basis is not None:
        words.facts["playback"] = {name: basis.notes[name] for name in ("rank", "mean_abs_255")}
    report({"video": written, **words.facts})


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(render)
