"""Where self-reenactment loses to photos: frames binned by how far they are from the source frame.

    python benchmarks/reenactment.py CLIP... -o FOLDER --lpips FILE.onnx --landmarks FILE.onnx [--work DIR]

Each clip makes one avatar from its most frontal frame and one from its frame farthest turned from that. The frames of
the clip, the source among them, are compared as `flexavatar eval` does, for the still photo, the warped photo and the
fitted avatar, and binned by the head's turn since the source (angle between the tracked cameras) and by the change of
`jawOpen`. The squared error on white is split by silhouette and at the neck. Writes `reenactment.md` and `.json`.
"""

import argparse
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from error_split import PARTS, Split, split

from flexavatar_cli.cli import console
from flexavatar_cli.cli.runs import work_folder
from flexavatar_cli.core.expression import INDEX
from flexavatar_cli.core.options import EvalOptions, MatteOptions, TrackOptions
from flexavatar_cli.core.track import Track
from flexavatar_cli.evaluation import networks, protocols, scenes
from flexavatar_cli.evaluation.baselines import Shown, System
from flexavatar_cli.evaluation.metrics import METRICS
from flexavatar_cli.evaluation.scenes import Target
from flexavatar_cli.stages import encoding, pipeline
from flexavatar_cli.stages.instruments import load_instruments

SOURCES = ("frontal", "turned")
TURNS, JAWS = (0.0, 1.0, 2.0, 4.0, 90.0), (0.0, 0.05, 0.15, 1.0)  # edges of bins: degrees, weight of jawOpen
KEYS = ("psnr_matte", "psnr", "psnr_black", "lpips", "akd")


@dataclass
class Watched:
    """A system whose errors are split while it is measured."""

    system: System
    splits: dict[int, Split] = field(default_factory=dict)  # by frame

    @property
    def name(self) -> str:
        """Of the system."""
        return self.system.name

    def show(self, target: Target) -> Shown:
        """What the system shows."""
        rgb, alpha = self.system.show(target)
        self.splits[target.number] = split(*protocols.confined((rgb, alpha), target), target)
        return rgb, alpha


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path, nargs="+")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the folder of the results")
    parser.add_argument("--lpips", type=Path)
    parser.add_argument("--landmarks", type=Path)
    parser.add_argument("--steps", type=int, default=200, help="of fitting")
    parser.add_argument("--frames", type=int, default=24, help="of each clip")
    parser.add_argument("--model", default="open-1")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--work", type=Path, help="keeps the tracks")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    instruments = load_instruments(options.model, options.device)
    judges = networks.open_judges(options.lpips, None, options.landmarks)
    bench = protocols.Bench(instruments, judges, EvalOptions(steps=options.steps, sink="3d"))
    rows: list[dict[str, Any]] = []
    with work_folder(options.work, list(options.clips), {"command": "reenactment"}) as folder:
        job = pipeline.Job(instruments, folder, MatteOptions(), TrackOptions(), progress=console.progress)
        for clip in options.clips:
            shot = pipeline.shoot(job, clip)
            frontal = encoding.best_frame(shot.track)
            turned = int(np.where(shot.track.confidence > 0, turns(shot.track, frontal), -1).argmax())
            for rule, source in zip(SOURCES, (frontal, turned), strict=True):
                numbers = sorted({source, *scenes.spread(len(shot.track), options.frames)})
                scene = replace(scenes.clip_scene("self", clip.stem, shot, source, numbers), run=[])
                body = bench.bodies(shot, source)[-1]
                watched = [Watched(system) for system in protocols.systems(scene, [body])]
                far, opened = turns(shot.track, source), jaw(shot.track, source)
                splits = {system.name: system.splits for system in watched}
                for row in protocols.measure(bench, scene, watched):
                    number = row["frame"]
                    found = {key: row[key] for key in (*KEYS, "system") if key in row}
                    place = {"clip": clip.stem, "source": rule, "frame": number, "is_source": number == source}
                    where = {"turn": float(far[number]), "jaw": float(opened[number])}
                    rows.append(place | where | found | {"parts": splits[row["system"]][number].parts})
                logging.info("%s, %s frame %d: turned up to %.1f degrees", clip.stem, rule, source, far.max())
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "reenactment.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    text = document(rows)
    (options.output / "reenactment.md").write_text(text, encoding="utf-8")
    print(text, end="")


def turns(track: Track, source: int) -> np.ndarray:  # [T] degrees
    """Angle between the camera of each frame and that of the source."""
    cosine = (np.einsum("tij,ij->t", track.cam2world[:, :3, :3], track.cam2world[source, :3, :3]) - 1) / 2
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def jaw(track: Track, source: int) -> np.ndarray:  # [T]
    """Change of jawOpen since the source."""
    opened = track.expression_code[:, INDEX["jawOpen"]]
    return np.abs(opened - opened[source])


def document(rows: Sequence[dict[str, Any]]) -> str:
    """The tables: by turn, by jaw, and the error's shares."""
    parts = []
    for rule in SOURCES:
        own = [row for row in rows if row["source"] == rule]
        bins = [("the source frame itself", [row for row in own if row["is_source"]])]
        rest = [row for row in own if not row["is_source"]]
        bins += binned(rest, TURNS, "turn", lambda low, high: f"turned {low:g} to {high:g} degrees")
        bins += binned(rest, JAWS, "jaw", lambda low, high: f"jawOpen changed by {low:g} to {high:g}")
        bins.append(("all others", rest))
        parts.append(f"Source: the {'most frontal' if rule == 'frontal' else 'most turned'} frame of each clip.\n")
        parts.append(table(bins))
    parts.append("Shares of the squared error on white, source frontal, all other frames:\n")
    parts.append(shares([row for row in rows if row["source"] == "frontal" and not row["is_source"]]))
    return "\n".join(parts)


def binned(
    rows: Sequence[dict[str, Any]], edges: Sequence[float], key: str, name: Callable[[float, float], str]
) -> list[tuple[str, list[dict[str, Any]]]]:
    """Rows by which pair of edges `key` lies between."""
    return [(name(low, high), [row for row in rows if low <= row[key] < high]) for low, high in pairwise(edges)]


def table(bins: Sequence[tuple[str, list[dict[str, Any]]]]) -> str:
    """A line per bin; in a cell the means of all systems, the best bold."""
    systems = list(dict.fromkeys(row["system"] for _, rows in bins for row in rows))
    keys = [key for key in KEYS if any(key in row for _, rows in bins for row in rows)]
    lines = [["frames", "n", *(f"{METRICS[key].label} {' / '.join(systems)}" for key in keys)]]
    lines.append(["---", "---:", *["---:"] * len(keys)])
    for name, rows in bins:
        if not rows:
            continue
        cells = []
        for key in keys:
            means = {s: np.nanmean([row[key] for row in rows if row["system"] == s]) for s in systems}
            best = (max if METRICS[key].better == "high" else min)(means.values())
            texts = [f"{mean:.{METRICS[key].digits}f}" for mean in means.values()]
            marked = [f"**{t}**" if mean == best else t for t, mean in zip(texts, means.values(), strict=True)]
            cells.append(" / ".join(marked))
        lines.append([name, str(len(rows) // len(systems)), *cells])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def shares(rows: Sequence[dict[str, Any]]) -> str:
    """Mean squared error of each system, and how it is made up."""
    columns = [f"{where} {part}" for where in ("head", "clothes") for part in PARTS]
    lines = [["", "squared error x 1000", *columns], ["---", *["---:"] * (len(columns) + 1)]]
    for system in dict.fromkeys(row["system"] for row in rows):
        parts = np.array([row["parts"] for row in rows if row["system"] == system]).mean(0)
        lines.append([system, f"{1000 * parts.sum():.2f}", *(f"{1000 * part:.2f}" for part in parts)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


if __name__ == "__main__":
    main()
