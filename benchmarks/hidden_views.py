"""What fitting changes in views that the photo does not show: the outline, or colours inside it.

    python benchmarks/hidden_views.py PHOTO... [--steps 200] [--outline 8 0] [--work DIR]

Each photo is fitted once with each weight of the outline's term, and seen from the sides of `eval` before and after.
In a cell: agreement over all that either head covers, as `eval` counts it; the share of its squared error where only
one of the two heads is; agreement where both are. Of left and right the one that agrees less.
"""

import argparse
from pathlib import Path

import numpy as np

from flexavatar_cli.cli import console
from flexavatar_cli.cli.runs import work_folder
from flexavatar_cli.core.avatar import Avatar
from flexavatar_cli.core.options import FitOptions, MatteOptions, TrackOptions
from flexavatar_cli.evaluation import quality, sheet, views
from flexavatar_cli.stages import encoding, fitting, pipeline
from flexavatar_cli.stages.animation import puppet
from flexavatar_cli.stages.instruments import Instruments, load_instruments

YAWS = (90, 135, 180)
Picture = tuple[np.ndarray, np.ndarray]  # RGB [H, W, 3] on white, alpha [H, W]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, nargs="+")
    parser.add_argument("--steps", type=int, default=FitOptions.steps)
    parser.add_argument("--outline", type=float, nargs="+", default=[fitting.ALPHA_WEIGHT], help="weights of its term")
    parser.add_argument("--work", type=Path, help="keeps mattes and tracks")
    options = parser.parse_args()
    instruments = load_instruments("open-1", "cpu")
    print(f"| photo | outline | front dB | {' | '.join(f'{yaw}: dB, one head, both dB' for yaw in YAWS)} |")
    print("| --- | ---: | ---: |" + " ---: |" * len(YAWS))
    with work_folder(options.work, [], {"command": "hidden_views"}) as folder:
        job = pipeline.Job(instruments, folder, MatteOptions(), TrackOptions(), progress=console.progress)
        for photo in options.photos:
            shot = pipeline.shoot(job, photo)
            before = encoding.encode(shot, instruments)
            sides = pictures(before, instruments)
            (view,) = views.views(shot, [encoding.best_frame(shot.track)])
            for weight in options.outline:
                fitting.ALPHA_WEIGHT = weight
                after = fitting.fit(before, [shot], instruments, FitOptions(steps=options.steps))
                rgb, _ = views.rendered(puppet(after, instruments), shot.track, view)
                front = quality.psnr(rgb, view.image, view.matte * view.inside)
                cells = [compared(sides[yaw], found) for yaw, found in pictures(after, instruments).items()]
                print(f"| {photo.stem} | {weight:g} | {front:.1f} | {' | '.join(cells)} |", flush=True)


def pictures(avatar: Avatar, instruments: Instruments) -> dict[int, list[Picture]]:
    """The resting head from both sides at each of YAWS."""
    found: dict[int, list[Picture]] = {yaw: [] for yaw in YAWS}
    for azimuth, picture in zip(sheet.HIDDEN, sheet.hidden_pictures(puppet(avatar, instruments)), strict=True):
        found[min(azimuth, 360 - azimuth)].append(picture)
    return found


def compared(before: list[Picture], after: list[Picture]) -> str:
    """The cell of one yaw."""
    agreement, one, other = min(
        ((quality.agreement(*pair), *pair) for pair in zip(before, after, strict=True)), key=lambda found: found[0]
    )
    squared = ((one[0] - other[0]).astype(np.float64) ** 2).mean(-1)
    either = np.maximum(one[1], other[1]) > quality.INSIDE
    both = np.minimum(one[1], other[1]) > quality.INSIDE
    share = squared[either & ~both].sum() / squared[either].sum()
    return f"{agreement:.1f}, {100 * share:.0f} %, {quality.psnr(one[0], other[0], both.astype(np.float32)):.1f}"


if __name__ == "__main__":
    main()
