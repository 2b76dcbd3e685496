"""Playback beside the network: error, file size, frames per second, and whole `flexavatar render` processes.

    python benchmarks/playback.py [--model open-1] [--avatar FILE] [--driver TRACK.npz ...] [--size 512] [--json]

The error is measured on the built-in speech, which the basis was not made of, and on every --driver (a tracked video).
Frames per second are of the whole line: expression to Gaussians to picture to mp4.
"""

import argparse
import statistics
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tools
import torch

from flexavatar_cli.core.avatar import Avatar
from flexavatar_cli.core.track import Track
from flexavatar_cli.media.video import write_video
from flexavatar_cli.render import render
from flexavatar_cli.stages import animation, motion, playback, trajectories
from flexavatar_cli.stages.animation import Puppet
from flexavatar_cli.stages.instruments import load_instruments

COMPARED = 20  # frames of a driver, spread evenly


def errors(figure: Puppet, basis: playback.Playback, drivers: Sequence[Path], size: int) -> dict[str, dict[str, float]]:
    """Mean absolute difference to the network in steps of 1/255, per talking driver."""
    codes = {"built-in speech": playback.speech(COMPARED)}
    for path in drivers:
        track = Track.load(path)
        code = motion.recoded(track.expression_code, track.expression_names, figure.expression_names)
        codes[path.name.split(".")[0]] = code[:: max(1, len(code) // COMPARED)]
    quick = playback.playing(figure, basis)
    return {
        name: playback.image_error(playback.film(quick, code, size), playback.film(figure, code, size))
        for name, code in codes.items()
    }


def throughput(figure: Puppet, frames: int, size: int, target: Path) -> dict[str, float]:
    """Frames per second of the whole line to an mp4, best of three, and CPU milliseconds per frame."""
    track = motion.demo_motion(frames / motion.DEMO_SECONDS, size)
    camera = trajectories.orbit(len(track), size)
    walls, cpus = [], []
    for _ in range(3):
        wall, cpu = time.perf_counter(), tools.cpu_seconds()
        write_video(target, animation.render_video(figure, track, camera), track.fps)
        walls.append(time.perf_counter() - wall)
        cpus.append(tools.cpu_seconds() - cpu)
    return {
        "fps": round(len(track) / min(walls), 1),
        "median_fps": round(len(track) / statistics.median(walls), 1),
        "cpu_ms": round(min(cpus) / len(track) * 1e3, 1),
    }


def profile(figure: Puppet, basis: playback.Playback, frames: int, size: int, target: Path) -> dict[str, float]:
    """CPU milliseconds per frame of each part of playback."""
    code = torch.from_numpy(motion.demo_motion(frames / motion.DEMO_SECONDS).expression_code)
    camera, quick = trajectories.orbit(len(code), size), playback.playing(figure, basis)
    chunk = animation.CHUNK
    with torch.inference_mode():
        one = quick.attributes(code[:1])
        head = quick.pose(one, code[0])
        views = [animation.picture(head, camera[view], (1.0, 1.0, 1.0), "cpu") for view in range(len(code))]
        parts = {
            "coefficients": lambda: [basis.coefficients(code[i : i + chunk]) for i in range(0, len(code), chunk)],
            "basis": lambda: [quick.attributes(code[i : i + chunk]) for i in range(0, len(code), chunk)],
            "pose": lambda: [quick.pose(one, row) for row in code],
            "rasterise": lambda: [render(head, camera[view]) for view in range(len(code))],
            "clamp": lambda: [animation.picture(head, camera[i], (1.0, 1.0, 1.0), "cpu") for i in range(len(code))],
            "8-bit and video": lambda: write_video(target, iter(views), 25.0),
        }
        costs = {name: tools.cost(job, len(code), repeats=2).cpu for name, job in parts.items()}
    costs["basis"] = max(costs["basis"] - costs["coefficients"], 0.0)
    costs["clamp"] = max(costs["clamp"] - costs["rasterise"], 0.0)
    return {name: round(value, 2) for name, value in costs.items()}


def whole_process(model: str, avatar: Path, size: int, target: Path, *more: str) -> float:
    """Seconds of a `flexavatar render` process that films the six seconds of the built-in motion."""
    start = time.perf_counter()
    command = tools.flexavatar("render", avatar, "--model", model, "--size", size, "-o", target, "--overwrite", "-q")
    subprocess.run([*command, *more], check=True, stdout=subprocess.DEVNULL)
    return round(time.perf_counter() - start, 2)


def measure(model: str, avatar: Path, drivers: Sequence[Path], size: int, folder: Path) -> dict[str, Any]:
    """Everything about one avatar; its playback file is kept beside it."""
    content, target = Avatar.load(avatar), folder / "clip.mp4"
    figure = animation.puppet(content, load_instruments(model, "cpu"))
    wall, cpu = time.perf_counter(), tools.cpu_seconds()
    built = playback.build(content, figure)
    seconds, cpu = time.perf_counter() - wall, tools.cpu_seconds() - cpu
    file = built.save(playback.playback_file(avatar))
    basis = playback.Playback.load(file)
    return {
        "weights": figure.instruments.describe()["weights"],
        "gaussians": len(figure.instruments.model.texel_index),
        "size": size,
        "rank": basis.rank,
        "tried": basis.notes["tried"],
        "file_mb": round(file.stat().st_size / 1e6, 2),
        "build_seconds": round(seconds, 1),
        "build_cpu_seconds": round(cpu, 1),
        "errors": errors(figure, basis, drivers, size),
        "network": throughput(figure, 36, size, target),
        "playback": throughput(playback.playing(figure, basis), 150, size, target),
        "profile_cpu_ms": profile(figure, basis, 48, size, target),
        "process_fast_seconds": whole_process(model, avatar, size, target, "--fast"),
        "process_network_seconds": whole_process(model, avatar, size, target),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="open-1")
    parser.add_argument("--avatar", type=Path, help="default: made of the sample portrait")
    parser.add_argument("--driver", type=Path, action="append", default=[], help="a track.npz of somebody talking")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--json", action="store_true", help="end with one JSON line")
    options = parser.parse_args()
    with tools.temporary_folder() as folder:
        avatar = Path(folder) / "sample.avatar"
        if options.avatar:
            avatar.write_bytes(options.avatar.read_bytes())
        else:
            tools.make_avatar(options.model, Path(folder))
        result = measure(options.model, avatar, options.driver, options.size, Path(folder))
    print(f"{result['gaussians']} Gaussians, {options.size} pixels, {result['weights']}")
    print(f"built in {result['build_seconds']} s ({result['build_cpu_seconds']} s of CPU), {result['file_mb']} MB")
    print("rank  error on the head, 1/255")
    for row in result["tried"]:
        print(f"{row['rank']:4} {row['head']:8.3f}{'  <- chosen' if row['rank'] == result['rank'] else ''}")
    for name, row in result["errors"].items():
        print(f"error, {name}: {row['head']:.3f}/255 on the head, {row['whole']:.3f}/255 of the whole picture")
    for name in ("network", "playback"):
        row = result[name]
        print(f"{name}: {row['fps']} frames/s to mp4 (median {row['median_fps']}), {row['cpu_ms']} ms of CPU a frame")
    print("playback, ms of CPU a frame: " + ", ".join(f"{k} {v}" for k, v in result["profile_cpu_ms"].items()))
    print(
        f"flexavatar render, 6 s clip of 150 frames, whole process: {result['process_network_seconds']} s, "
        f"with --fast {result['process_fast_seconds']} s"
    )
    tools.finish(result, options.json)


if __name__ == "__main__":
    main()
