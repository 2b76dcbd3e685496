"""How fast the CPU rasteriser is: a seeded scene, stage by stage, beside a naive variant measured in the same run.

    python benchmarks/rasterise.py [--size 512] [--count 60000] [--all] [--json]

Times are the best of many repetitions (the machine may be busy), medians beside them. The naive variant is the same
tile lists blended pixel by pixel over each splat's row spans, as one would write it first; both see the same noise.
With --json the last line is one JSON object; with --all the grid {10k, 60k, 200k} x {256, 512, 1024} comes first.
"""

import argparse
import json
import math
import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("GOMP_SPINCOUNT", "0")  # before torch: its idle threads must not spin beside Numba's

import numba
import numpy as np
import torch
from numba import njit, prange

from flexavatar_cli.core.camera import Camera, look_at
from flexavatar_cli.core.gaussians import Gaussians
from flexavatar_cli.render import cpu_backend, cpu_binning, cpu_blending, cpu_projection, render, simd
from flexavatar_cli.render.cpu_blending import MAX_ALPHA, MIN_TRANSMITTANCE
from flexavatar_cli.render.cpu_projection import TILE

STAGES = {
    "project": cpu_projection,
    "order_by_depth": cpu_binning,
    "bin_tiles": cpu_binning,
    "blend": cpu_blending,
    "blend_backward": cpu_blending,
    "project_backward": cpu_projection,
}
FLOPS_PER_PAIR = 34  # of the forward blend, a fused multiply-add counted as two


def make_scene(count: int, size: int, seed: int = 0) -> tuple[Gaussians, Camera]:
    """A closed shell the size of a head, half of it hidden, seen by a portrait lens.

    Its splats are as large as makes 60,000 of them 5.3 million Gaussian-pixel pairs at 512x512.
    """
    random = np.random.default_rng(seed)
    normal = random.normal(size=(count, 3))
    positions = normal / np.linalg.norm(normal, axis=1, keepdims=True) * (0.096, 0.132, 0.108)
    scales = 0.000916 * np.exp(0.3 * random.normal(size=(count, 3)))
    values = (positions, random.normal(size=(count, 4)), scales, random.uniform(0.1, 0.95, count))
    values = (*values, random.uniform(size=(count, 3)))
    focal = 2.9 * size
    camera = Camera(
        look_at([0, 0, 0.9], [0, 0, 0]), [[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]], size, size
    )
    return Gaussians(*(torch.tensor(value, dtype=torch.float32) for value in values)), camera


@njit(cache=True, parallel=True)
def naive_blend(pairs, starts, splats, background, tiles_x, rgb, alpha):  # type: ignore[no-untyped-def]
    """`cpu_blending.blend` one pixel at a time: row spans of the contour, math.exp, one exit per pixel."""
    height, width = alpha.shape
    for tile in prange(len(starts) - 1):
        left, top = tile % tiles_x * TILE, tile // tiles_x * TILE
        right, bottom = min(left + TILE, width), min(top + TILE, height)
        rest = np.ones((bottom - top, right - left), np.float32)
        stopped = np.zeros(rest.shape, np.bool_)
        rgb[top:bottom, left:right] = 0.0
        for i in range(starts[tile], starts[tile + 1]):
            mean_x, mean_y, l11, l21, l22, reach, _, _, opacity, red, green, blue = splats[pairs[i, 0]]
            for y in range(top, bottom):
                v = l22 * (np.float32(y + 0.5) - mean_y)
                if v * v > reach:
                    continue
                half = math.sqrt(reach - v * v) / l11
                middle = mean_x - l21 / l11 * (np.float32(y + 0.5) - mean_y)
                for x in range(max(left, math.ceil(middle - half - 0.5)), min(right, math.floor(middle + half + 0.5))):
                    if stopped[y - top, x - left]:
                        continue
                    u = l11 * (np.float32(x + 0.5) - middle)
                    a = min(MAX_ALPHA, opacity * math.exp(np.float32(-8.0) * (u * u + v * v)))
                    before = rest[y - top, x - left]
                    after = before * (np.float32(1.0) - a)
                    if after <= MIN_TRANSMITTANCE:
                        stopped[y - top, x - left] = True
                        continue
                    rest[y - top, x - left] = after
                    rgb[y, x, 0] += before * a * red
                    rgb[y, x, 1] += before * a * green
                    rgb[y, x, 2] += before * a * blue
        for y in range(top, bottom):
            for x in range(left, right):
                alpha[y, x] = np.float32(1.0) - rest[y - top, x - left]
                for channel in range(3):
                    rgb[y, x, channel] += rest[y - top, x - left] * background[y, x, channel]


@njit(cache=True, parallel=True)
def count_pairs(pairs, starts, splats, tiles_x):  # type: ignore[no-untyped-def]
    """Pixels within the 1/255 contour of each splat, hidden ones included."""
    total = 0
    for tile in prange(len(starts) - 1):
        left, top = tile % tiles_x * TILE, tile // tiles_x * TILE
        for i in range(starts[tile], starts[tile + 1]):
            mean_x, mean_y, l11, l21, l22, reach, _, _, _, _, _, _ = splats[pairs[i, 0]]
            for y in range(top, top + TILE):
                for x in range(left, left + TILE):
                    u, v = l11 * (x + 0.5 - mean_x) + l21 * (y + 0.5 - mean_y), l22 * (y + 0.5 - mean_y)
                    total += u * u + v * v <= reach
    return total


@njit(cache=True, parallel=True)
def multiply_add(rounds, threads, out):  # type: ignore[no-untyped-def]
    """16 independent chains of fused multiply-adds per thread: what the vector units can do at best."""
    for thread in prange(threads):
        x = simd.load(out, 16 * thread)
        a, b, c, d, e, f, g, h = x, x + 1, x + 2, x + 3, x + 4, x + 5, x + 6, x + 7
        i, j, k, m, n, o, p, q = x - 1, x - 2, x - 3, x - 4, x - 5, x - 6, x - 7, x - 8
        for _ in range(rounds):
            a, b, c, d = simd.fma(a, x, x), simd.fma(b, x, x), simd.fma(c, x, x), simd.fma(d, x, x)
            e, f, g, h = simd.fma(e, x, x), simd.fma(f, x, x), simd.fma(g, x, x), simd.fma(h, x, x)
            i, j, k, m = simd.fma(i, x, x), simd.fma(j, x, x), simd.fma(k, x, x), simd.fma(m, x, x)
            n, o, p, q = simd.fma(n, x, x), simd.fma(o, x, x), simd.fma(p, x, x), simd.fma(q, x, x)
        simd.store(out, 16 * thread, a + b + c + d + e + f + g + h + i + j + k + m + n + o + p + q)


def timings(jobs: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Milliseconds of each job, the jobs taking turns; under NAME_cpu the CPU time of all threads together."""
    for job in jobs.values():
        job()
    times: dict[str, list[float]] = {name + kind: [] for name in jobs for kind in ("", "_cpu")}
    for _ in range(repeats):
        for name, job in jobs.items():
            start, cpu = time.perf_counter(), time.process_time()
            job()
            times[name + "_cpu"].append((time.process_time() - cpu) * 1e3)
            times[name].append((time.perf_counter() - start) * 1e3)
    return times


def stage_timings(job: Callable[[], object], repeats: int) -> dict[str, list[float]]:
    """Milliseconds of each kernel while `job` runs."""
    times: dict[str, list[float]] = {name: [] for name in STAGES}
    originals = {name: getattr(module, name) for name, module in STAGES.items()}

    def timed(name: str) -> Callable:
        def call(*args: object) -> object:
            start = time.perf_counter()
            result = originals[name](*args)
            times[name].append((time.perf_counter() - start) * 1e3)
            return result

        return call

    for name, module in STAGES.items():
        setattr(module, name, timed(name))
    for _ in range(repeats):
        job()
    for name, original in originals.items():
        setattr(STAGES[name], name, original)
    return times


def fma_peak() -> float:
    """Measured float32 GFLOP/s of all threads."""
    threads, rounds = numba.get_num_threads(), 500_000
    out = np.zeros(16 * threads, np.float32)
    best = min(timings({"peak": lambda: multiply_add(rounds, threads, out)}, 8)["peak"])
    return threads * rounds * 16 * 16 * 2 / best / 1e6


def measure(count: int, size: int, repeats: int, whole: bool = True) -> dict[str, float]:
    """One scene: best and median times and pairs; with `whole` also how much slower the naive blend is, and stages."""
    scene, camera = make_scene(count, size)
    leaves = Gaussians(**{name: value.clone().requires_grad_() for name, value in vars(scene).items()})

    def forward_backward() -> None:
        rgb, _ = render(leaves, camera, backend="cpu")
        rgb.sum().backward()

    pixels = np.ones((size, size, 3), np.float32)
    ours, naive, alpha = np.empty_like(pixels), np.empty_like(pixels), np.empty((size, size), np.float32)
    arrays = tuple(value.numpy() for value in vars(scene).values())
    view = cpu_backend._forward(arrays, camera, 0, pixels, ours, alpha)
    tiles_x = -(-size // TILE)
    tile_lists = (view.pairs, view.starts, view.splats, pixels, tiles_x)
    jobs: dict[str, Callable[[], object]] = {
        "forward": lambda: render(scene, camera, backend="cpu"),
        "forward_backward": forward_backward,
        "blend": lambda: cpu_blending.blend(*tile_lists, ours, alpha, view.touched, view.finals),
    }
    if whole:
        jobs["naive_blend"] = lambda: naive_blend(*tile_lists, naive, alpha)
    times = timings(jobs, repeats)
    assert (
        not whole or np.abs(ours - naive).max() < 0.01
    )  # a threshold may fall otherwise in a pixel; the pictures are the same
    result: dict[str, float] = {"count": count, "size": size, "pairs": count_pairs(*tile_lists[:3], tiles_x)}
    result["tile_pairs"] = len(view.pairs)
    for name, values in times.items():
        result[f"{name}_ms"] = round(min(values), 2)
        if not name.endswith("_cpu"):
            result[f"{name}_median_ms"] = round(statistics.median(values), 2)
    if not whole:
        return result
    result["naive_ratio"] = round(
        result["naive_blend_cpu_ms"] / result["blend_cpu_ms"], 2
    )  # a busy machine cannot bend it
    for name, values in stage_timings(forward_backward, repeats).items():
        result[f"stage_{name}_ms"] = round(min(values), 2)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--count", type=int, default=60_000)
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--all", action="store_true", help="also the grid of counts and sizes")
    parser.add_argument("--json", action="store_true", help="end with one JSON line")
    options = parser.parse_args()

    print(f"{numba.get_num_threads()} threads, Numba {numba.__version__}, torch {torch.__version__}")
    print("   count   size  pairs (M)  forward ms  forward+backward ms  blend ms  naive blend ms  ratio")
    grid = []
    for count in (10_000, 60_000, 200_000) if options.all else ():
        for size in (256, 512, 1024):
            grid.append(measure(count, size, 4, whole=False))
            print_row(grid[-1])
    base = measure(options.count, options.size, options.repeats)
    print_row(base)
    peak = fma_peak()
    base["pairs_per_second"] = round(base["pairs"] / base["blend_ms"] * 1e3)
    base["fma_peak_gflops"] = round(peak, 1)
    base["fma_share"] = round(base["pairs_per_second"] * FLOPS_PER_PAIR / peak / 1e9, 3)
    print("stages, ms: " + ", ".join(f"{name} {base[f'stage_{name}_ms']}" for name in STAGES))
    print(
        f"blend: {base['pairs_per_second'] / 1e6:.0f} M pairs/s, {100 * base['fma_share']:.0f} % "
        f"of the measured multiply-add peak ({peak:.0f} GFLOP/s)"
    )
    if options.json:
        print(json.dumps(base | {"grid": grid} if grid else base))


def print_row(row: dict[str, float]) -> None:
    text = f"{row['count']:8} {row['size']:6} {row['pairs'] / 1e6:10.2f} {row['forward_ms']:11.2f}"
    text += f" {row['forward_backward_ms']:20.2f} {row['blend_ms']:9.2f}"
    if "naive_ratio" in row:
        text += f" {row['naive_blend_ms']:15.2f} {row['naive_ratio']:6.2f}"
    print(text, flush=True)


if __name__ == "__main__":
    main()
