"""Where the error of synthetic novel views comes from: cameras, silhouette or colour, head or clothes.

    python benchmarks/novel_views.py HEADS -o FOLDER [--steps 200] [--work DIR]

HEADS: calibrated folders of `flexavatar eval --synthetic` (`heads` in its work folder). Each head is measured with
three placements of the cameras: by the source picture's tracked camera alone, by the 3-D face landmarks (what `eval`
does), and in the head space that synthetic heads are made in, which no real material knows. The squared error on white
is then split by silhouette: what the avatar lacks, what it has too much, and what is colour inside both; and at the
neck into head and clothes. Writes `novel_views.md` and `novel_views.jpg`.
"""

import argparse
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from error_split import PARTS, Split, regions, split

from flexavatar_cli.cli import console
from flexavatar_cli.cli.runs import work_folder
from flexavatar_cli.core.camera import Camera, Crop
from flexavatar_cli.core.options import EvalOptions, MatteOptions, TrackOptions
from flexavatar_cli.evaluation import networks, protocols, quality, runner, scenes
from flexavatar_cli.evaluation.baselines import Body, Shown
from flexavatar_cli.evaluation.scenes import SIDE, Scene, Target
from flexavatar_cli.media.images import sheet, write_jpg
from flexavatar_cli.stages import pipeline
from flexavatar_cli.stages.instruments import load_instruments
from flexavatar_cli.stages.registration import chosen

GROUPS = ("front", "side", "back")
PLACEMENTS = ("source camera", "landmarks", "own head space")
PICTURED = (2, 6, 12)  # a front, a side and a back view of the synthetic heads: what the sheet shows


@dataclass(frozen=True)
class View:
    """What was found in one view."""

    error: Split
    measures: dict[str, float]  # psnr, psnr_black, iou


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("heads", type=Path, help="a folder of calibrated folders")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the folder of the results")
    parser.add_argument("--steps", type=int, default=0, help="of fitting")
    parser.add_argument("--model", default="open-1")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--work", type=Path, help="keeps the tracks")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    instruments = load_instruments(options.model, options.device)
    bench = protocols.Bench(instruments, networks.Judges(), EvalOptions(steps=options.steps, sink="3d"))
    views: dict[tuple[str, str], list[View]] = {(name, group): [] for name in PLACEMENTS for group in GROUPS}
    rows = []
    with work_folder(options.work, [], {"command": "novel_views"}) as folder:
        job = pipeline.Job(instruments, folder, MatteOptions(), TrackOptions(), progress=console.progress)
        for place in sorted(entry for entry in options.heads.iterdir() if entry.is_dir()):
            found = scenes.open_calibrated(place)
            scene, shot = runner.calibrated_scene(job, bench, found, place.name)
            logging.info("%s: %s", place.name, scene.note)
            body = bench.bodies(shot, 0)[-1]
            window = Crop.square((found.camera.width / 2, found.camera.height / 2), found.camera.width, SIDE)
            cameras = {
                "source camera": scenes.aligned(found.camera, found.source, shot.track).cropped(window),
                "own head space": found.camera.cropped(window),
            }
            for name, target, shown in placed(scene, cameras, body):
                assert scene.groups is not None
                views[name, scene.groups[target.number]].append(examined(target, *shown))
                if name == "landmarks" and target.number in PICTURED:
                    rows.append(pictured(target, *shown))
    text = f"{table(views)}\n"
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "novel_views.md").write_text(text, encoding="utf-8")
    labels = ["truth", "ours", "red: lacking, blue: surplus", "error, white = 0.4"]
    wide = [[picture for row in rows[at : at + 3] for picture in row] for at in range(0, len(rows), 3)]
    write_jpg(options.output / "novel_views.jpg", sheet(wide, labels * 3, 192), quality=85)
    print(text, end="")


def placed(scene: Scene, cameras: dict[str, Camera], body: Body) -> Iterator[tuple[str, Target, Shown]]:
    """Every view but the input, and the avatar there, with each placement of the cameras; the scene's: "landmarks"."""
    assert scene.groups is not None
    targets = list(scene.targets([number for number in scene.numbers if scene.groups[number] != "input"]))
    numbers = [target.number for target in targets]
    matrices, insides = (
        np.concatenate([getattr(target.camera, name) for target in targets]) for name in ("cam2world", "intrinsics")
    )
    placements = {name: chosen(camera, numbers) for name, camera in cameras.items()}
    placements["landmarks"] = Camera(matrices, insides, targets[0].camera.width, targets[0].camera.height)
    for name, camera in placements.items():
        for target, shown in zip(targets, body.pose(targets[0].expression, camera), strict=True):
            yield name, target, protocols.confined(shown, target)


def examined(target: Target, rgb: np.ndarray, alpha: np.ndarray) -> View:
    """What one view of the avatar, on white, is worth."""
    black = np.clip(rgb - (1 - alpha[..., None]), 0, 1)
    where = regions(alpha, target)
    union = (where["lacking"] | where["surplus"] | (alpha > quality.INSIDE)).sum()
    both = (where["colour"] & (alpha > quality.INSIDE)).sum()
    measures = {"psnr": quality.psnr(rgb, target.shown()), "psnr_black": quality.psnr(black, target.shown(0.0))}
    return View(split(rgb, alpha, target), measures | {"iou": float(both / max(union, 1))})


def pictured(target: Target, rgb: np.ndarray, alpha: np.ndarray) -> list[np.ndarray]:
    """Truth, ours, silhouettes and error."""
    where = regions(alpha, target)
    outline = np.full((*alpha.shape, 3), 1.0, np.float32)
    outline[where["colour"] & (alpha > quality.INSIDE)] = 0.8
    outline[where["lacking"]] = (0.8, 0.1, 0.1)
    outline[where["surplus"]] = (0.1, 0.2, 0.8)
    return [target.shown(), rgb, outline, protocols.difference(rgb, target.shown())]


def table(views: dict[tuple[str, str], list[View]]) -> str:
    """A line per placement and side: measures, then shares of the squared error."""
    columns = [f"{where} {part}" for where in ("head", "clothes") for part in PARTS]
    lines = [["cameras", "side", "PSNR", "PSNR blk", "IoU", *columns, "PSNR, silhouette true"]]
    lines.append(["---"] * 2 + ["---:"] * (len(lines[0]) - 2))
    for (name, group), found in views.items():
        if not found:
            continue
        means = {key: float(np.mean([view.measures[key] for view in found])) for key in found[0].measures}
        parts = np.array([view.error.parts for view in found]).sum(0)
        shares = parts / parts.sum()
        colour = float(np.mean([view.error.colour_psnr for view in found]))
        values = [f"{means['psnr']:.2f}", f"{means['psnr_black']:.2f}", f"{means['iou']:.3f}"]
        lines.append([name, group, *values, *(f"{100 * share:.0f} %" for share in shares), f"{colour:.2f}"])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main()
