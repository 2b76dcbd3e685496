"""`flexavatar create`: photo to avatar and preview, all steps in order."""

from pathlib import Path
from typing import Annotated, Any

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
    Preset,
    Seed,
    Size,
    Work,
)
from flexavatar_cli.core.options import (
    CommonOptions,
    CreateOptions,
    EncodeOptions,
    FitOptions,
    MatteOptions,
    RenderOptions,
    TrackOptions,
)

Steps = Annotated[int, typer.Option("--steps", min=0, help="Steps of fitting.")]
Preview = Annotated[bool, typer.Option("--preview/--no-preview", help="Film the mp4.")]
Sheet = Annotated[
    Path | None,
    typer.Option("--sheet", help="Write a contact sheet (.png, .jpg) and measure; a folder for many photos."),
]


def create(
    photos: Annotated[list[Path], typer.Argument(help="Portrait photos; each becomes an avatar.")],
    steps: Steps = CreateOptions.steps,
    preview: Preview = CreateOptions.preview,
    sheet: Sheet = None,
    preset: Preset = FitOptions.preset,
    image_features: ImageFeatures = None,
    matte: Matting = MatteOptions.net,
    output: Output = None,
    model: Model = CommonOptions.model,
    device: Device = CommonOptions.device,
    seed: Seed = CommonOptions.seed,
    size: Size = CommonOptions.size,
    face: Face = CommonOptions.face,
    fov: Fov = None,
    work: Work = None,
    overwrite: Overwrite = False,
) -> None:
    """Make an avatar from a photo: PHOTO -> PHOTO.avatar and a turntable PHOTO.mp4."""
    from flexavatar_cli.cli import console
    from flexavatar_cli.cli.outputs import avatar_path, claim
    from flexavatar_cli.cli.runs import describe, matte_choice, preset_name, work_folder
    from flexavatar_cli.core.errors import UsageError
    from flexavatar_cli.media.frames import open_frames
    from flexavatar_cli.stages import pipeline
    from flexavatar_cli.stages.instruments import load_instruments

    single = len(photos) == 1
    fitting = FitOptions(steps=steps, preset=preset_name(preset))
    if image_features is not None and not single:
        raise UsageError("--image-features goes with one photo")
    encoding = EncodeOptions(image_features=str(image_features or ""))
    if not single and output is not None and output.suffix:
        raise UsageError(f"-o {output}: a folder is needed for {len(photos)} photos")
    if not single and sheet is not None and sheet.suffix:
        raise UsageError(f"--sheet {sheet}: a folder is needed for {len(photos)} photos")
    targets = []
    for photo in photos:
        folder_name = output / photo.with_suffix(".avatar").name if output and not single else output
        avatar = avatar_path(folder_name, photo, overwrite)
        page = None if sheet is None else claim(sheet if sheet.suffix else sheet / f"{photo.stem}.png", overwrite)
        targets.append((photo, avatar, claim(avatar.with_suffix(".mp4"), overwrite) if preview else None, page))
    if len({avatar for _, avatar, _, _ in targets}) < len(targets):
        raise UsageError("two of the photos have the same name; give them one by one with -o")
    for photo in photos:
        if open_frames(photo).kind != "photo":
            raise UsageError(f"{photo}: not a photo; use `flexavatar fit` for videos and folders")

    options, matte_file = matte_choice(matte)
    if matte_file and not single:
        raise UsageError("a finished matte goes with one photo")
    instruments = load_instruments(model, device)
    words = describe(instruments, options, matte_file)
    console.say(words.line)
    settings = {"command": "create", "face": face, "fov": fov, "matte": matte, "model": model}
    results = []
    for photo, avatar, video, page in targets:
        with work_folder(work, [photo], settings, avatar) as folder:
            tracking = TrackOptions(face=face)
            job = pipeline.Job(instruments, folder, options, tracking, encoding, fov, seed, console.progress)
            shot = pipeline.shoot(job, photo, matte_file)
            film = RenderOptions() if preview else None
            made = pipeline.fit_shots(job, [shot], fitting, film, size)
            results.append(deliver(made, avatar, video, page, job))
    console.report({**results[0], **words.facts} if single else {"avatars": results, **words.facts})


def deliver(made: Any, avatar: Path, video: Path | None, page: Path | None, job: Any) -> dict[str, object]:
    """Put the finished files in place, measure if there is a sheet or a JSON result to fill, and say what was made."""
    from flexavatar_cli.cli import console
    from flexavatar_cli.cli.outputs import put
    from flexavatar_cli.evaluation.sheet import examine
    from flexavatar_cli.media.images import write_image

    result: dict[str, object] = {"avatar": put(made.fitted, avatar)}
    if video is not None and made.video is not None:
        result["video"] = put(made.video, video)
    if page is not None or console.settings.json:
        with console.progress("Measuring") as on_step:
            numbers, picture = examine(made, job.instruments, on_step)
        result["quality"] = numbers
        if page is not None:
            result["sheet"] = write_image(page, picture)
    return result | {"made": job.work.made, "reused": job.work.reused, "seconds": job.work.seconds}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(create)
