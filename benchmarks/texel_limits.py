"""What limits a fitted front view: its error by part of the head, beside the size that texels have there.

    python benchmarks/texel_limits.py PHOTO... [--steps 200] [--work DIR]

Each photo is fitted; every pixel of the matte belongs to the part that contributes most to it. Spacing is the distance
between neighbouring texels of that part in pixels of the 512-pixel crop, sigma the radius of a Gaussian blur of the
photo that costs as much over the whole matte. Rim: within 8 pixels of the matte's edge.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch

from flexavatar_cli.cli import console
from flexavatar_cli.cli.runs import work_folder
from flexavatar_cli.core.camera import Camera
from flexavatar_cli.core.gaussians import Gaussians
from flexavatar_cli.core.options import FitOptions, MatteOptions, TrackOptions
from flexavatar_cli.render import render
from flexavatar_cli.stages import animation, encoding, fitting, pipeline
from flexavatar_cli.stages.instruments import Instruments, load_instruments
from flexavatar_cli.stages.rig import rig_anchor

PARTS = {"face": ("face",), "scalp": ("scalp",), "neck": ("neck",), "bust": ("bust",)}
RIM = 8  # pixels
BLURS = np.arange(0.5, 4.01, 0.1)  # pixels
SHOWN = 0.5  # share of a part in a pixel, and alpha of a matte, from which on it counts


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, nargs="+")
    parser.add_argument("--steps", type=int, default=FitOptions.steps)
    parser.add_argument("--work", type=Path, help="keeps mattes and tracks")
    options = parser.parse_args()
    instruments = load_instruments("open-1", "cpu")
    names = [*PARTS, "rim", "all"]
    print(f"| photo | {' | '.join(f'{name}: dB, share' for name in names)} | sigma px |")
    print("| --- |" + " ---: |" * (len(names) + 1))
    spacings = []
    with work_folder(options.work, [], {"command": "texel_limits"}) as folder:
        job = pipeline.Job(instruments, folder, MatteOptions(), TrackOptions(), progress=console.progress)
        for photo in options.photos:
            row, sigma, spacing = measured(job, photo, FitOptions(steps=options.steps))
            spacings.append(spacing)
            print(f"| {photo.stem} | {' | '.join(row[name] for name in names)} | {sigma:.1f} |", flush=True)
    median = {name: float(np.median([spacing[name] for spacing in spacings])) for name in PARTS}
    print("\nTexel spacing, px: " + ", ".join(f"{name} {pixels:.1f}" for name, pixels in median.items()))


def measured(job: pipeline.Job, photo: Path, options: FitOptions) -> tuple[dict[str, str], float, dict[str, float]]:
    """The row of a photo, the blur that looks like it, and the texel spacing of each part."""
    instruments = job.instruments
    shot = pipeline.shoot(job, photo)
    avatar = fitting.fit(encoding.encode(shot, instruments), [shot], instruments, options)
    (seen,) = fitting.observations_of(shot, instruments, options)
    (head,) = animation.puppet(avatar, instruments).gaussians(seen.expression[None])
    picture = render(head, seen.camera)[0][0].numpy()
    photo_rgb = seen.image.astype(np.float32) / 255
    inside = (seen.alpha > 255 * SHOWN) & (seen.inside > 255 * SHOWN)
    squared = ((picture - photo_rgb) ** 2).mean(-1)
    near = cv2.distanceTransform(inside.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) < RIM
    masks = {name: mask & inside & ~near for name, mask in part_masks(head, seen.camera, instruments).items()}
    masks |= {"rim": inside & near, "all": inside}
    row = {
        name: f"{decibel(squared[mask]):.1f}, {100 * mask.sum() / inside.sum():.0f} %" for name, mask in masks.items()
    }
    blurred = [decibel(((cv2.GaussianBlur(photo_rgb, (0, 0), s) - photo_rgb) ** 2).mean(-1)[inside]) for s in BLURS]
    sigma = float(np.interp(-decibel(squared[inside]), -np.array(blurred), BLURS))
    return row, sigma, spacing_of(head.positions.numpy(), seen.camera, instruments)


def part_masks(head: Gaussians, camera: Camera, instruments: Instruments) -> dict[str, np.ndarray]:
    """For each of PARTS the pixels [H, W] to which it contributes most."""
    part = np.array(instruments.head.part_names)[instruments.head.texels(instruments.model.resolution).part.numpy()]
    masks = {}
    for name, members in PARTS.items():
        own = torch.from_numpy(np.isin(part, members).astype(np.float32))[:, None].expand(-1, 3)
        share = render(replace(head, colors=own.contiguous()), camera, background=torch.zeros(3))[0][0, ..., 0]
        masks[name] = share.numpy() > SHOWN
    return masks


def spacing_of(positions: np.ndarray, camera: Camera, instruments: Instruments) -> dict[str, float]:
    """Median distance of neighbouring texels of each part, in pixels at their depth."""
    grid = instruments.head.texels(instruments.model.resolution)
    part = np.array(instruments.head.part_names)[grid.part.numpy()]
    neighbours = rig_anchor(instruments.head, instruments.model.resolution).neighbours.numpy()
    steps = np.linalg.norm(positions[neighbours] - positions[None], axis=-1)
    steps[neighbours == np.arange(len(positions))] = np.nan
    pixels = np.nanmean(steps, 0) * camera.intrinsics[0, 0, 0] / camera.project(positions)[1][0]
    return {name: float(np.nanmedian(pixels[np.isin(part, members)])) for name, members in PARTS.items()}


def decibel(squared: np.ndarray) -> float:
    """PSNR of squared errors; nan of none."""
    return float(-10 * np.log10(max(float(squared.mean()), 1e-12))) if squared.size else float("nan")


if __name__ == "__main__":
    main()
