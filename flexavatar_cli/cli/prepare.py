"""`flexavatar prepare`: raw material to a training set."""

from pathlib import Path
from typing import Annotated

import typer

from flexavatar_cli.cli.parameters import Overwrite, Seed
from flexavatar_cli.core.options import CommonOptions, PrepareOptions


def prepare(
    data: Annotated[Path, typer.Argument(help="The folder with the openly licensed packs.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The training folder to write.")],
    views: Annotated[int, typer.Option(min=8, help="Synthetic pictures.")] = PrepareOptions.views,
    held_views: Annotated[
        int, typer.Option(min=1, help="Synthetic pictures for evaluation.")
    ] = PrepareOptions.held_views,
    portraits: Annotated[int, typer.Option(min=0, help="Real portraits of the packs.")] = PrepareOptions.portraits,
    people: Annotated[
        list[Path] | None, typer.Option(help="A folder of your own photos, videos, frames or calibrated recordings.")
    ] = None,
    frames: Annotated[
        int, typer.Option(min=1, help="Frames of each of your videos, moments of each recording.")
    ] = PrepareOptions.frames,
    shard: Annotated[
        int, typer.Option("--shard", min=0, help="Rows of each .tar (WebDataset); 0 = plain arrays.")
    ] = PrepareOptions.shard,
    seed: Seed = CommonOptions.seed,
    overwrite: Overwrite = False,
) -> None:
    """Turn raw material into a training set: DATA -> a folder of arrays or shards."""
    from flexavatar_cli.cli.console import progress, report
    from flexavatar_cli.cli.outputs import claim
    from flexavatar_cli.core.errors import InputError, UsageError
    from flexavatar_cli.training.people import prepare_people
    from flexavatar_cli.training.synthetic.pack import prepare_pack

    claim(output, overwrite)
    if any(folder.resolve().is_relative_to(output.resolve()) for folder in (data, *(people or []))):
        raise UsageError(f"{output}: the raw material is in it and would be removed; choose another folder")
    if output.exists() and not is_replaceable(output):
        raise UsageError(f"{output}: not a training folder, so it is not replaced; choose another name")
    if not (data / "ict_hair.npz").is_file():
        raise InputError(f"{data}: not the folder with the training packs (ict_hair.npz is missing)")
    with progress("Synthetic") as on_step:
        prepare_pack(data, output, views, held_views, seed, shard, on_step=on_step)
    with progress("People") as on_step:
        made, recorded = prepare_people(data, portraits, people or [], frames, output, shard, on_step)
    report({"folder": output, "views": views, "held_views": held_views, "people": made, "recorded": recorded})


def is_replaceable(folder: Path) -> bool:
    """Whether a folder is empty or a training folder, so that nothing else is lost with it."""
    return folder.is_dir() and ((folder / "pack.json").is_file() or not any(folder.iterdir()))


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(prepare)
