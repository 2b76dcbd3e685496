"""`flexavatar eval`: what users see, measured beside simple baselines; and two such runs compared."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from flexavatar_cli.cli.parameters import Device, Face, Fov, Matting, Model, Overwrite, Seed, Work
from flexavatar_cli.core.options import CommonOptions, EvalOptions, MatteOptions, TrackOptions

Protocols = Annotated[
    list[str] | None,
    typer.Option(
        "--protocol",
        help="Of clips: self, cross, few-shot, monocular, completeness; repeatable; default self, cross, completeness. "
        "Or portraits: of photos of different people.",
    ),
]
Network = Annotated[Path | None, typer.Option(help="An ONNX file; without it the measure is n/a.")]

Folder = Annotated[Path | None, typer.Option("--output", "-o", help="The folder of the results.")]

MATERIAL = ("ict_hair.npz", "ict_textures.tar", "mh_assets.tar")  # of the training packs, for synthetic heads


def evaluate(
    sources: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Videos, folders of frames, folders of pictures with cameras.json, folders of these; or photos."
        ),
    ] = None,
    protocol: Protocols = None,
    frames: Annotated[int, typer.Option(min=2, help="Frames compared per clip.")] = EvalOptions.frames,
    steps: Annotated[int, typer.Option(min=0, help="Steps of fitting; 0 = none.")] = EvalOptions.steps,
    shots: Annotated[int, typer.Option(min=1, help="Input frames of the few-shot protocol.")] = EvalOptions.shots,
    source: Annotated[str, typer.Option(help="Frame the avatar is made of: frontal or first.")] = EvalOptions.source,
    sink: Annotated[str, typer.Option(help="Bias sinks in the table: both, 3d or 2d.")] = EvalOptions.sink,
    lpips: Network = None,
    landmarks: Annotated[
        Path | None, typer.Option(help="An OpenSeeFace ONNX file for AKD; without it MediaPipe's, which we track by.")
    ] = None,
    face_embedding: Network = None,
    synthetic: Annotated[int, typer.Option(min=0, help="Also this many synthetic heads from all sides.")] = 0,
    data: Annotated[Path | None, typer.Option(help="The folder of material for --synthetic.")] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Compare two results.json instead: A B.")] = False,
    matte: Matting = MatteOptions.net,
    output: Folder = None,
    model: Model = CommonOptions.model,
    device: Device = CommonOptions.device,
    seed: Seed = CommonOptions.seed,
    face: Face = CommonOptions.face,
    fov: Fov = None,
    work: Work = None,
    overwrite: Overwrite = False,
) -> None:
    """Measure avatars of clips beside baselines: VIDEO... or DIR -> a folder with report.html, JSON and CSV.

    With --protocol portraits: photos (or folders of photos), each of another person. Measured are the likeness to the
    photo, what fitting does to hidden views, whether a face network tells the people apart, and the heads between them.
    """
    from flexavatar_cli.core.errors import InputError, UsageError

    given = sources or []
    if compare:
        compare_results(given, seed)
        return
    for name, value, allowed in (("source", source, ("frontal", "first")), ("sink", sink, ("both", "3d", "2d"))):
        if value not in allowed:
            raise UsageError(f"--{name} {value}: not one of {', '.join(allowed)}")
    if not given and not synthetic:
        raise UsageError("give videos or folders, or --synthetic N")
    if synthetic and data is None:
        raise UsageError("--synthetic makes heads from the training material: give its folder with --data")
    for name in MATERIAL if synthetic else ():
        if data is not None and not (data / name).is_file():
            raise InputError(f"{data}: not the folder with the training packs ({name} is missing)")

    import torch

    from flexavatar_cli.cli import console
    from flexavatar_cli.cli.outputs import claim, name_output
    from flexavatar_cli.cli.runs import describe, matte_choice, work_folder
    from flexavatar_cli.evaluation import networks, protocols, runner, scenes
    from flexavatar_cli.stages import pipeline
    from flexavatar_cli.stages.instruments import load_instruments

    target = output or name_output(None, given[0] if given else Path("synthetic"), ".eval")
    for name in runner.FILES.values():
        claim(target / name, overwrite)
    options = EvalOptions(tuple(protocol or EvalOptions.protocols), frames, steps, source, shots, sink)
    of_photos = "portraits" in options.protocols
    if of_photos and len(options.protocols) > 1:
        raise UsageError("--protocol portraits stands alone: it takes photos, the others take clips")
    photos = scenes.find_photos(given) if of_photos else []
    clips, calibrated = ([], []) if of_photos else scenes.find_material(given)
    judges = networks.open_judges(lpips, face_embedding, landmarks, torch.get_num_threads())
    matting_options, matte_file = matte_choice(matte)
    if matte_file:
        raise UsageError("--matte: evaluation takes the name or file of a net, or pictures with transparency")
    instruments = load_instruments(model, device)
    words = describe(instruments, matting_options)
    console.say(words.line)
    settings = {"command": "eval", "face": face, "fov": fov, "matte": matte, "model": model, "synthetic": synthetic}
    with work_folder(work, [*clips, *photos, *calibrated], settings, target) as folder:
        job = pipeline.Job(
            instruments, folder, matting_options, TrackOptions(face=face), fov=fov, seed=seed, progress=console.progress
        )
        if data is not None and synthetic:
            calibrated += synthetic_heads(folder, data, synthetic, seed)
        bench = protocols.Bench(instruments, judges, options, seed)
        findings = runner.evaluate(job, bench, clips, calibrated, photos)
    inputs = [path.name for path in (*clips, *photos, *calibrated)]
    result = runner.result_of(findings, bench, dict(words.facts), inputs)
    files = runner.write(result, findings, target)
    console.report({**result, "files": files}, tables(result) + "\n" + str(files["report"]))


def synthetic_heads(folder: Any, data: Path, count: int, seed: int) -> list[Path]:
    """Calibrated folders of synthetic heads, made once per seed and material."""
    from flexavatar_cli.cli.console import progress
    from flexavatar_cli.training.synthetic.calibrated import write_heads

    files = [data / name for name in MATERIAL]
    with progress("Synthetic") as on_step:
        heads = folder.step(
            "heads", "", files, {"count": count, "seed": seed}, lambda at: write_heads(data, at, count, seed, on_step)
        )
    return sorted(entry for entry in heads.iterdir() if entry.is_dir())


def compare_results(paths: Sequence[Path], seed: int) -> None:
    """Print what changed from one result to the other."""
    from dataclasses import asdict

    from flexavatar_cli.cli import console
    from flexavatar_cli.core.errors import UsageError
    from flexavatar_cli.evaluation import summary
    from flexavatar_cli.evaluation.metrics import METRICS

    if len(paths) != 2:
        raise UsageError("--compare needs two files: the results.json before and after")
    before, after = (summary.read_result(path) for path in paths)
    changes = summary.compare(before, after, seed)
    result = {"before": paths[0], "after": paths[1], "changes": [asdict(c) | {"verdict": c.verdict} for c in changes]}
    with sheet("Mean change, 95 % paired bootstrap over frames") as (page, lines):
        for name in ("protocol", "system", "metric"):
            page.add_column(name, no_wrap=True)
        for name in ("before", "after", "change", "95 %", "frames", ""):
            page.add_column(name, justify="right", no_wrap=True)
        for change in changes:
            digits = METRICS[change.metric].digits
            values = [f"{value:.{digits}f}" for value in (change.before, change.after)]
            span = f"[{change.low:+.{digits}f}, {change.high:+.{digits}f}]".replace("[", "(").replace("]", ")")
            moved = f"{change.after - change.before:+.{digits}f}"
            block = f"{change.protocol} {change.group}".strip()
            label = METRICS[change.metric].label
            page.add_row(block, change.system, label, *values, moved, span, str(change.frames), change.verdict)
    console.report(result, lines[0])


@contextmanager
def sheet(title: str) -> Iterator[tuple[Any, list[str]]]:
    """A rich table to fill, and a list that holds its text afterwards."""
    import io
    import sys

    from rich.console import Console
    from rich.table import Table

    page = Table(title=title, title_justify="left", box=None, pad_edge=False)
    text: list[str] = []
    yield page, text
    stream = io.StringIO()
    Console(file=stream, width=200, force_terminal=sys.stdout.isatty()).print(page)
    text.append("\n".join(line.rstrip() for line in stream.getvalue().splitlines()))


def tables(result: Mapping[str, Any]) -> str:
    """The tables of a result for the terminal: one per protocol and group, the best of each column in bold."""
    from flexavatar_cli.evaluation import summary
    from flexavatar_cli.evaluation.metrics import METRICS

    texts = []
    for (protocol, group), block in summary.blocks(summary.table(result["rows"])).items():
        keys = [key for key in METRICS if any(key in line["cells"] for line in block)]
        top = {key: summary.best(block, key) for key in keys}
        with sheet(f"{protocol} {group}".strip()) as (page, lines):
            page.add_column("", no_wrap=True)
            for key in keys:
                page.add_column(METRICS[key].label, justify="right", no_wrap=True)
            for line in block:
                cells = []
                for key in keys:
                    cell = line["cells"].get(key)
                    text = summary.shown(cell, METRICS[key].digits)
                    cells.append(f"[bold]{text}[/bold]" if cell is not None and cell.mean == top[key] else text)
                page.add_row(line["system"], *cells)
        texts.append(lines[0])
    lost = [
        f"{loss.protocol} {loss.group}".strip() + f" {METRICS[loss.metric].label} ({loss.winner})"
        for loss in summary.losses(summary.table(result["rows"]))
    ]
    texts.append("A baseline wins: " + (", ".join(lost) or "nowhere"))
    missing = [f"{METRICS[key].label} {text}" for key, text in result["networks"].items() if text.startswith("n/a")]
    stages = [
        f"{name}: {stage['times']} x {stage['seconds'] / max(stage['times'], 1):.2f} s, "
        f"{stage['cpu_seconds']:.0f} s of CPU in all, peak {stage['peak_mb']:.0f} MB"
        for name, stage in result["stages"].items()
    ]
    return "\n\n".join([*texts, "\n".join([*missing, *stages])]) + "\n"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("eval")(evaluate)
