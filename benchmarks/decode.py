"""Where the time of one frame goes: encode, decode, pose, rasterise, video; by the clock and in CPU time.

    python benchmarks/decode.py [--model open-1] [--avatar FILE] [--size 512] [--json]

Every row is the best of several runs. The rows of a frame are measured one after the other; `render` lets them overlap.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import tools
import torch

from flexavatar_cli.core.avatar import Avatar
from flexavatar_cli.media.video import write_video
from flexavatar_cli.render import render
from flexavatar_cli.stages import animation, motion, trajectories
from flexavatar_cli.stages.instruments import load_instruments
from flexavatar_cli.stages.rig import rigged_gaussians

FRAMES = 24  # of the built-in motion while it speaks


def measure(model: str, avatar: Path, size: int) -> dict[str, Any]:
    """Milliseconds of each part."""
    start = time.perf_counter()
    instruments = load_instruments(model, "cpu")
    rows = {"load weights": tools.Cost(round((time.perf_counter() - start) * 1e3, 1), 0.0)}
    figure = animation.puppet(Avatar.load(avatar), instruments)
    network, config = instruments.model, instruments.model.config
    code = torch.from_numpy(motion.demo_motion().expression_code[100 : 100 + FRAMES])
    camera = trajectories.orbit(FRAMES, size)
    side = config.trunk.image_size
    image, rays = torch.rand(1, 3, side, side), torch.rand(1, 6, side, side)
    resolution, channels = config.gaussians.resolution, config.uv_features.channels if config.uv_features else 0
    uv = torch.rand(1, channels, resolution, resolution) if channels else None
    with torch.inference_mode():
        rows["encode one photo"] = tools.cost(lambda: network.encode(image, rays, uv), repeats=3)
        rows["decode, alone"] = tools.cost(lambda: figure.attributes(code[:1]), repeats=5)
        rows[f"decode, {animation.CHUNK} together"] = tools.cost(
            lambda: figure.attributes(code[: animation.CHUNK]), animation.CHUNK, repeats=5
        )
        one = figure.attributes(code[:1])
        if figure.anchor is not None:
            anchor = figure.anchor
            rows["pose, in torch"] = tools.cost(lambda: rigged_gaussians(anchor, one, figure.identity, code[0]))
        rows["pose"] = tools.cost(lambda: [figure.pose(one, row) for row in code], FRAMES)
        head = figure.pose(one, code[0])
        rows["rasterise"] = tools.cost(lambda: [render(head, camera[view]) for view in range(FRAMES)], FRAMES)
        views = [animation.picture(head, camera[view], (1.0, 1.0, 1.0), "cpu") for view in range(FRAMES)]
    with tools.temporary_folder() as folder:
        target = Path(folder) / "a.mp4"
        rows["8-bit and video"] = tools.cost(lambda: write_video(target, iter(views), 25.0), FRAMES, repeats=2)
    return {
        "gaussians": len(head),
        "size": size,
        "weights": instruments.describe()["weights"],
        "rows": {name: vars(row) for name, row in rows.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="open-1")
    parser.add_argument("--avatar", type=Path, help="default: made of the sample portrait")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--json", action="store_true", help="end with one JSON line")
    options = parser.parse_args()
    with tools.temporary_folder() as folder:
        avatar = options.avatar or tools.make_avatar(options.model, Path(folder))
        result = measure(options.model, avatar, options.size)
    print(f"{result['gaussians']} Gaussians, {options.size} pixels, {result['weights']}")
    print(f"{'ms':24} {'wall':>9} {'cpu':>9}")
    for name, row in result["rows"].items():
        print(f"{name:24} {row['wall']:9.2f} {row['cpu']:9.2f}")
    tools.finish(result, options.json)


if __name__ == "__main__":
    main()
