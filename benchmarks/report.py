"""All CPU benchmarks in one go: prints their tables and writes docs/performance.md with plots.

    python benchmarks/report.py [--model open-1] [--driver TRACK.npz ...] [--output docs/performance.md]

Results of `benchmarks/gpu.sh`, if docs/gpu.json is there, go into the same document; without it the table says so.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tools

HERE = Path(__file__).resolve().parent
DOCS = HERE.parent / "docs"


def run(kept: Path | None, program: str, *arguments: object) -> dict[str, Any]:
    """The JSON line that a benchmark program ends with, and when; its tables are passed on.

    With a folder `kept` the result is kept there, and one found there is used instead of measuring again.
    """
    store = kept / f"{program}.json" if kept else None
    if store and store.exists():
        return json.loads(store.read_text())
    load = [round(load, 1) for load in os.getloadavg()]
    command = [sys.executable, str(HERE / program), *map(str, arguments), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    *tables, last = done.stdout.strip().splitlines()
    print("\n".join(tables), flush=True)
    after = [round(load, 1) for load in os.getloadavg()]
    result = json.loads(last) | {"measured": f"{tools.machine()['time']}, load {load[0]} before and {after[0]} after"}
    if store:
        store.write_text(json.dumps(result))
    return result


def fit(grid: Sequence[dict[str, float]], name: str) -> tuple[np.ndarray, float]:
    """Milliseconds per million pairs, million pixels and thousand Gaussians, and how much of log time they explain."""
    columns = np.array([[row["pairs"] / 1e6, row["size"] ** 2 / 1e6, row["count"] / 1e3] for row in grid])
    times = np.array([row[name] for row in grid])
    from scipy.optimize import nnls

    slopes = nnls(columns / times[:, None], np.ones(len(times)))[0]
    logs = np.log(times) - np.log(np.maximum(columns @ slopes, 1e-9))
    return slopes, float(1 - logs.var() / np.log(times).var())


def plot_scaling(grid: Sequence[dict[str, float]], target: Path) -> None:
    """Time against pairs, and against pixels, with straight lines through what was measured."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, marker, label in (
        ("forward_cpu_ms", "o", "forward"),
        ("forward_backward_cpu_ms", "s", "forward + backward"),
    ):
        slopes, _ = fit(grid, name)
        pairs = np.array([row["pairs"] / 1e6 for row in grid])
        measured = np.array([row[name] for row in grid])
        model = np.array([np.dot(slopes, (r["pairs"] / 1e6, r["size"] ** 2 / 1e6, r["count"] / 1e3)) for r in grid])
        left.loglog(pairs, measured, marker, label=label)
        left.loglog(
            pairs, model, "+", color="black", label="linear in pairs, pixels and Gaussians" if marker == "s" else None
        )
        for count in sorted({row["count"] for row in grid}):
            rows = sorted((row for row in grid if row["count"] == count), key=lambda row: row["size"])
            pixels = [row["size"] ** 2 / 1e6 for row in rows]
            right.loglog(pixels, [row[name] for row in rows], marker + "-", label=f"{label}, {count // 1000} k")
    left.set(xlabel="Gaussian-pixel pairs, millions", ylabel="ms of CPU")
    right.set(xlabel="pixels, millions", ylabel="ms of CPU")
    left.legend(fontsize=8)
    right.legend(fontsize=6)
    for axes in (left, right):
        axes.grid(True, which="both", alpha=0.2)
    save(figure, target)


def plot_frame(playback: dict[str, Any], decode: dict[str, Any], target: Path) -> None:
    """CPU time of one frame, part by part, with the network and played back."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 2.2), layout="constrained")
    axes = figure.subplots()
    parts = playback["profile_cpu_ms"]
    decoding = next(row["cpu"] for name, row in decode["rows"].items() if name.endswith("together"))
    shared = {name: parts[name] for name in ("pose", "rasterise", "clamp", "8-bit and video")}
    bars = {"network": {"decode": decoding} | shared}
    bars["playback"] = {"decode": parts["coefficients"] + parts["basis"]} | shared
    for place, (label, values) in enumerate(bars.items()):
        start = 0.0
        for colour, (name, value) in enumerate(values.items()):
            axes.barh(place, value, left=start, color=f"C{colour}", label=name if place == 0 else None)
            start += value
        axes.text(start, place, f" {label}: {start:.0f} ms", va="center", fontsize=9)
    axes.set(yticks=[], xlabel="ms of CPU per frame, all cores together")
    axes.margins(x=0.2)
    axes.legend(fontsize=7, ncols=5, loc="upper right")
    save(figure, target)


def save(figure: Any, target: Path) -> None:
    """Write a PNG without the date in it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=110, metadata={"Software": None})


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def verdict(value: float, must: float, aim: float, more: bool = False) -> str:
    """Whether a budget is met."""
    if value >= aim if more else value <= aim:
        return "aim met"
    return "met" if (value >= must if more else value <= must) else "**missed**"


def document(machine: dict[str, Any], raster: dict[str, Any], decode: dict[str, Any], play: dict[str, Any]) -> str:
    """docs/performance.md."""
    rows = decode["rows"]
    decodes = [row for name, row in rows.items() if name.startswith("decode")]
    decoding, thinking = (min(row[kind] for row in decodes) for kind in ("wall", "cpu"))
    worst = max(play["errors"].values(), key=lambda row: row["head"])
    forward, both = raster["forward_ms"], raster["forward_backward_ms"]
    budgets = [
        [
            "rasterise 60 k Gaussians, 512x512, forward",
            f"{forward} ms ({raster['forward_cpu_ms']} of CPU)",
            "25 / 10 ms",
            verdict(forward, 25, 10),
        ],
        [
            "the same, forward and backward",
            f"{both} ms ({raster['forward_backward_cpu_ms']} of CPU)",
            "80 / 35 ms",
            verdict(both, 80, 35),
        ],
        [
            "decode one expression, open-1",
            f"{decoding} ms ({thinking} of CPU)",
            "130 / 50 ms",
            verdict(decoding, 130, 50),
        ],
        [
            "playback, expression to mp4, 512x512",
            f"{play['playback']['fps']} frames/s",
            "15 / 30 frames/s",
            verdict(play["playback"]["fps"], 15, 30, more=True),
        ],
        [
            "playback against the network, talking driver",
            f"{worst['head']:.2f}/255 on the head, {worst['whole']:.2f}/255 of the picture",
            "0.5/255",
            verdict(worst["head"], 0.5, 0.0),
        ],
    ]
    grid = raster["grid"]
    slopes = {name: fit(grid, name) for name in ("forward_cpu_ms", "forward_backward_cpu_ms")}
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    text = f"""# Performance

Written by `make bench` (`benchmarks/report.py`), {machine["time"]}.

Times are the best of several repetitions unless they say median. "CPU" is
the time of all cores together, which other programs on the machine disturb less than the clock; above a load of
{machine["cores"]}, wall times are longer than on a quiet machine.

* {machine["cpu"]}, {machine["cores"]} cores, {machine["memory_gb"]} GB, {machine["system"]}
* {versions}
* rasteriser measured at {raster["measured"]}
* one frame at {decode["measured"]}; weights {decode["weights"]}, {decode["gaussians"]} Gaussians
* playback at {play["measured"]}; weights {play["weights"]}

## Budgets

{table(["what", "measured", "must / aim", ""], budgets)}

## Rasteriser (`benchmarks/rasterise.py`)

Seeded scene of 60,000 Gaussians at 512x512: {raster["pairs"] / 1e6:.2f} million Gaussian-pixel pairs inside the 1/255
contour. The blend does {raster["pairs_per_second"] / 1e6:.0f} million pairs a second,
{100 * raster["fma_share"]:.0f} % of the multiply-add peak measured beside it ({raster["fma_peak_gflops"]} GFLOP/s), and
takes {raster["naive_ratio"]} times less CPU time than the same tile lists blended pixel by pixel over row spans.

{raster_table([raster, *grid])}

Kernels of the base scene, ms: {stages(raster)}.

![Cost against pairs and pixels](images/rasterise_scaling.png)

A model linear in all three, of CPU time, which a busy machine disturbs less than the clock:
{linear(slopes["forward_cpu_ms"])} (forward), and {linear(slopes["forward_backward_cpu_ms"])}
(forward and backward).

## One frame (`benchmarks/decode.py`)

{table(["part", "wall ms", "CPU ms"], [[name, row["wall"], row["cpu"]] for name, row in rows.items()])}

## Playback (`benchmarks/playback.py`, `flexavatar render --fast`)

The basis was built in {play["build_seconds"]} s ({play["build_cpu_seconds"]} s of CPU) and is a file of
{play["file_mb"]} MB, rank {play["rank"]}. Error of the ranks tried on held-out built-in speech, on the head:
{", ".join(f"rank {row['rank']}: {row['head']:.2f}/255" for row in play["tried"])}.

{table(["driver", "mean error on the head", "of the whole picture"], errors(play))}

{table(["", "frames/s to mp4", "median", "CPU ms a frame"], speeds(play))}

Six seconds, 150 frames of 512x512, whole `flexavatar render` process: {play["process_network_seconds"]} s with the
network, {play["process_fast_seconds"]} s with `--fast` (start of Python, loading of weights and kernels included).

![CPU time of a frame](images/frame_time.png)

Where the rest goes, CPU ms a frame: {", ".join(f"{name} {value}" for name, value in play["profile_cpu_ms"].items())}.

## CUDA (`benchmarks/gpu.sh`)

{gpu()}
"""
    return text


def raster_table(rows: Sequence[dict[str, float]]) -> str:
    """Every scene measured."""
    names = ["forward_ms", "forward_cpu_ms", "forward_backward_ms", "forward_backward_cpu_ms"]
    names += ["blend_ms", "naive_blend_ms", "naive_ratio"]
    head = [
        "Gaussians",
        "pixels",
        "pairs, M",
        "forward ms",
        "CPU ms",
        "+ backward ms",
        "CPU ms",
        "blend",
        "naive",
        "ratio",
    ]
    body = [
        [f"{row['count']:,}", f"{row['size']}²", f"{row['pairs'] / 1e6:.2f}", *(row.get(n, "") for n in names)]
        for row in rows
    ]
    return table(head, body)


def stages(raster: dict[str, Any]) -> str:
    """The kernels' times."""
    return ", ".join(f"`{name[6:-3]}` {value}" for name, value in raster.items() if name.startswith("stage_"))


def linear(found: tuple[np.ndarray, float]) -> str:
    """The fitted slopes in words."""
    (pairs, pixels, gaussians), share = found
    return (
        f"{pairs:.2f} ms per million pairs, {pixels:.1f} ms per million pixels and {gaussians:.3f} ms per thousand "
        f"Gaussians; it explains {100 * share:.1f} % of the variance of log time over the grid"
    )


def errors(play: dict[str, Any]) -> list[list[str]]:
    """Errors by driver."""
    return [[name, f"{row['head']:.3f}/255", f"{row['whole']:.3f}/255"] for name, row in play["errors"].items()]


def speeds(play: dict[str, Any]) -> list[list[object]]:
    """Network and playback."""
    return [[name, *(play[name][key] for key in ("fps", "median_fps", "cpu_ms"))] for name in ("network", "playback")]


def gpu() -> str:
    """The table of docs/gpu.json, or that there is none."""
    source = DOCS / "gpu.json"
    if not source.exists():
        return (
            "| what | must / aim | measured |\n| --- | --- | --- |\n"
            "| stream, flex-1 size, 512x512, one H200 | 100 / 300 frames/s | **not measured: no GPU could be had** |\n"
            "| stream, open-1, 512x512, one H200 | 500 frames/s | **not measured: no GPU could be had** |\n"
            "| parity of gsplat with the CPU twin | tests/render | **not run: no GPU could be had** |\n\n"
            "The script is ready, no GPU was to be had: the rows above are unmeasured. `benchmarks/gpu.sh` is one\n"
            "command that checks parity and reports network, rig, rasteriser and video encoder separately, and the\n"
            "stream with and without encoding, for open-1 and flex-1 size. Its program has only been run on a CPU,\n"
            "to see that it works."
        )
    found = json.loads(source.read_text())
    names = ["network", "precision", "network_ms", "rig_ms", "rasterise_ms", "encoder_ms", "stream_fps", "video_fps"]
    names += ["off_255", "gigabytes"]
    rows = [[row[name] for name in names] for row in found["rows"]]
    return f"{found['device']}, {found['machine']['time']}\n\n" + table(names, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="open-1")
    parser.add_argument("--driver", type=Path, action="append", default=[], help="a track.npz of somebody talking")
    parser.add_argument("--output", type=Path, default=DOCS / "performance.md")
    parser.add_argument("--keep", type=Path, help="a folder of results: those in it are used, new ones are kept")
    options = parser.parse_args()
    start, machine = time.monotonic(), tools.machine()
    raster = run(options.keep, "rasterise.py", "--all")
    with tools.temporary_folder() as folder:
        known = options.keep and all((options.keep / f"{name}.py.json").exists() for name in ("decode", "playback"))
        avatar = Path(folder) / "unused" if known else tools.make_avatar(options.model, Path(folder))
        common = ("--model", options.model, "--avatar", avatar)
        decode = run(options.keep, "decode.py", *common)
        drivers = [part for path in options.driver for part in ("--driver", path)]
        play = run(options.keep, "playback.py", *common, *drivers)
    images = options.output.parent / "images"
    plot_scaling(raster["grid"], images / "rasterise_scaling.png")
    plot_frame(play, decode, images / "frame_time.png")
    options.output.write_text(document(machine, raster, decode, play), encoding="utf-8")
    print(f"{options.output}, all in {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
