"""A whole evaluation: material to rows, pictures and files."""

import json
import re
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from flexavatar_cli import __version__
from flexavatar_cli.core.errors import InputError, UsageError
from flexavatar_cli.core.files import replacing
from flexavatar_cli.evaluation import portraits, protocols, report, scenes, summary
from flexavatar_cli.evaluation.baselines import Body
from flexavatar_cli.evaluation.metrics import METRICS
from flexavatar_cli.evaluation.protocols import Bench, Row
from flexavatar_cli.evaluation.report import Strip
from flexavatar_cli.evaluation.scenes import Calibrated, Scene
from flexavatar_cli.media.images import read_photo, to_uint8, write_jpg
from flexavatar_cli.stages import pipeline
from flexavatar_cli.stages.matting import matte_picture
from flexavatar_cli.stages.matting.nets import open_net
from flexavatar_cli.stages.pipeline import Job
from flexavatar_cli.stages.shots import Shot

# of clips, but portraits is of photos; calibrated folders: novel view
PROTOCOLS = ("self", "cross", "few-shot", "monocular", "completeness", "portraits")
FILES = {
    "json": "results.json",
    "csv": "table.csv",
    "markdown": "table.md",
    "frames": "frames.csv",
    "report": "report.html",
}


@dataclass
class Findings:
    """What a run measured, and pictures of it."""

    rows: list[Row] = field(default_factory=list)
    strips: dict[tuple[str, str], list[Strip]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)  # of scenes whose numbers need one
    commit: str | None = field(default_factory=lambda: commit())  # what was loaded, even if sources change meanwhile


def evaluate(
    job: Job, bench: Bench, clips: Sequence[Path], calibrated: Sequence[Path], photos: Sequence[Path] = ()
) -> Findings:
    """All protocols of the options on all clips, portraits on all photos, novel views on all calibrated folders."""
    wanted = bench.options.protocols
    unknown = set(wanted) - set(PROTOCOLS)
    if unknown:
        raise UsageError(f"--protocol {sorted(unknown)[0]}: not one of {', '.join(PROTOCOLS)}")
    findings = Findings()
    names = unique_names(clips)
    shots = []
    for clip in clips:
        with bench.clock("track and matte"):
            shots.append(pipeline.shoot(job, clip))
    for number, (name, shot) in enumerate(zip(names, shots, strict=True)):
        if "self" in wanted:
            scene, frame = protocols.self_scene(bench, shot, name)
            run_scene(job, bench, findings, scene, bodies(job, bench, shot, frame))
        if "cross" in wanted and len(shots) > 1:
            giver = (number + 1) % len(shots)  # as published: the next clip gives the identity
            title = f"{names[giver]} driven by {name}"
            scene, frame = protocols.cross_scene(bench, shots[giver], shot, title)
            run_scene(job, bench, findings, scene, bodies(job, bench, shots[giver], frame))
        if "few-shot" in wanted:
            scene, frame, inputs = protocols.few_shot_scene(bench, shot, name)
            run_scene(job, bench, findings, scene, bodies(job, bench, shot, frame, inputs))
        if "monocular" in wanted:
            scene, frame, inputs = protocols.monocular_scene(bench, shot, name)
            run_scene(job, bench, findings, scene, bodies(job, bench, shot, frame, inputs))
        if "completeness" in wanted:
            heads = bodies(job, bench, shot, bench.source_frame(shot))
            with job.progress(f"Holes {name}") as on_step:
                findings.rows += protocols.completeness(bench, name, heads, on_step)
    for name, folder in zip(unique_names(calibrated), calibrated, strict=True):
        found = scenes.open_calibrated(folder)
        scene, shot = calibrated_scene(job, bench, found, name)
        heads = bodies(job, bench, shot, 0)
        run_scene(job, bench, findings, scene, heads)
        if "completeness" in wanted:
            findings.rows += protocols.completeness(bench, name, heads)
    run_portraits(job, bench, findings, photos)
    if not findings.rows:
        raise UsageError("nothing to measure: cross-reenactment needs two clips, and no other protocol was asked for")
    return findings


def bodies(job: Job, bench: Bench, shot: Shot, frame: int, inputs: Sequence[int] | None = None) -> list[Body]:
    """The heads of a shot, with a progress bar while they are fitted."""
    with job.progress("Fitting") as on_step:
        return bench.bodies(shot, frame, inputs, on_step)


def run_portraits(job: Job, bench: Bench, findings: Findings, photos: Sequence[Path]) -> None:
    """Photos of different people, each by itself and against the others; then the heads between pairs of them."""
    people, rows = [], []
    for name, photo in zip(unique_names(photos), photos, strict=True):
        with bench.clock("track and matte"):
            shot = pipeline.shoot(job, photo)
        scene = portraits.portrait_scene(shot, name)
        heads = bodies(job, bench, shot, 0)
        with job.progress(f"portraits {name}"[:40]) as on_step:
            person, measured, hidden = portraits.measure_person(bench, scene, heads, on_step)
        people.append(person)
        rows += measured
        findings.strips[portraits.PROTOCOL, name] = report.strips(measured, scene, heads) + hidden
    others = portraits.told_apart(people)
    findings.rows += [row | others.get((row["scene"], row["system"]), {}) for row in rows]
    for first, second in portraits.chosen_pairs(people):
        with job.progress(f"{first.name} to {second.name}"[:40]) as on_step:
            measured, strips = portraits.heads_between(bench, first, second, job.instruments, on_step)
        findings.rows += measured
        findings.strips[portraits.BETWEEN, measured[0]["scene"]] = strips


def run_scene(job: Job, bench: Bench, findings: Findings, scene: Scene, heads: Sequence[Body]) -> None:
    """Measure and picture one scene."""
    systems = protocols.systems(scene, heads)
    with job.progress(f"{scene.protocol} {scene.name}"[:40]) as on_step:
        rows = protocols.measure(bench, scene, systems, on_step)
    findings.rows += rows
    if scene.note:
        findings.notes[scene.name] = scene.note
    findings.strips[scene.protocol, scene.name] = report.strips(rows, scene, systems)


def calibrated_scene(job: Job, bench: Bench, found: Calibrated, name: str) -> tuple[Scene, Shot]:
    """The novel-view scene of a calibrated folder, and the shot of its source picture."""
    camera = found.camera
    fov = float(np.degrees(2 * np.arctan(camera.height / 2 / camera.intrinsics[found.source, 1, 1])))
    with bench.clock("track and matte"):
        shot = pipeline.shoot(replace(job, fov=fov), found.pictures[found.source])
    if not shot.track.confidence[0] > 0:
        raise InputError(f"{found.pictures[found.source]}: no face in the source picture")

    def matte_of(number: int) -> np.ndarray:
        return matte_picture(read_photo(found.pictures[number]).rgb, open_net(job.matte.net))

    def face_of(rgb: np.ndarray) -> np.ndarray | None:
        picture = to_uint8(rgb)
        face = bench.judges.face(picture, None)
        return None if face is None else bench.judges.face(picture, face)

    return scenes.calibrated_scene(found, shot, job.instruments.head, matte_of, face_of, name), shot


def unique_names(paths: Sequence[Path]) -> list[str]:
    """Short names that differ: the file's, with as many of its folders as it takes."""
    for depth in range(1, 10):
        names = ["/".join([*path.resolve().parts[-depth:-1], path.stem]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def result_of(findings: Findings, bench: Bench, run: dict[str, Any], inputs: Sequence[str]) -> dict[str, Any]:
    """Everything a run found, in JSON's own types; `stages` and `date` are all that differs between equal runs."""
    rows = [{key: blank(value) for key, value in row.items()} for row in findings.rows]
    lines = summary.table(rows)
    table = [
        {key: {k: blank(v) for k, v in cell.items()} if isinstance(cell, dict) else cell for key, cell in line.items()}
        for line in summary.as_json(lines)
    ]
    return {
        "format": summary.FORMAT,
        "version": __version__,
        "commit": findings.commit,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "inputs": list(inputs),
        "run": {**run, "seed": bench.seed, **asdict(bench.options)},
        "networks": bench.judges.describe(),
        "metrics": {key: asdict(metric) for key, metric in METRICS.items()},
        "table": table,
        "rows": rows,
        "notes": findings.notes,
        "stages": bench.clock.stages,
    }


def blank(value: Any) -> Any:
    """None for NaN and infinity, which JSON lacks."""
    return None if isinstance(value, float) and not np.isfinite(value) else value


def commit() -> str | None:
    """The program's git commit, with "+" if the sources were changed since; None outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        head = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=root, capture_output=True, text=True, timeout=9
        )
        state = ["git", "status", "--porcelain", "--untracked-files=no", "flexavatar_cli", "models"]
        changed = subprocess.run(state, cwd=root, capture_output=True, text=True, timeout=9).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return None
    return head.stdout.strip() + ("+" if changed else "") or None


def write(result: dict[str, Any], findings: Findings, folder: Path) -> dict[str, Path]:
    """FILES in `folder`, each written beside and renamed, and contact sheets of each scene in `folder`/pictures."""
    lines = summary.table(result["rows"])
    contents = {
        "json": json.dumps(result, indent=1, allow_nan=False),
        "csv": summary.as_csv(lines),
        "markdown": summary.as_markdown(lines),
        "frames": summary.frames_csv(result["rows"]),
        "report": report.page(result, findings.strips),
    }
    for kind, content in contents.items():
        with replacing(folder / FILES[kind]) as target:
            target.write_text(content, encoding="utf-8")
    for (protocol, scene), strips in findings.strips.items():
        name = re.sub(r"[^\w.-]+", "-", f"{protocol}-{scene}")
        for number, picture in enumerate(report.contact_sheets(strips)):
            write_jpg(folder / "pictures" / f"{name}{f'-{number + 1}' if number else ''}.jpg", picture, quality=85)
    return {kind: folder / name for kind, name in FILES.items()}
