"""Throughput on a CUDA device: network, rasteriser and video apart, and the whole stream.

    benchmarks/gpu.sh                                        what to run on a machine with a GPU
    python benchmarks/gpu.py --device cpu --frames 2 --batch 2 --tiny     the same code, to see that it runs

Rows: open-1 (weights of --model, or untrained) and a random network of flex-1's size, each in float32, with TF32, and
with bfloat16 under autocast; `--compile` adds torch.compile. Parity: mean absolute difference of the pictures to
float32, in steps of 1/255. The stream is `stages.animation.film`, what `flexavatar render` runs: `--batch` expressions
decoded, posed and drawn per step, pictures copied to pinned memory while the next batch runs, and, for the mp4, ffmpeg
in a process of its own. GB: most GPU memory in use.
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import tools
import torch
from torch import Tensor

from flexavatar_cli.core.attributes import TexelAttributes
from flexavatar_cli.core.avatar import Avatar
from flexavatar_cli.core.errors import WeightsError
from flexavatar_cli.core.expression import EXPRESSION_NAMES
from flexavatar_cli.core.gaussians import Gaussians
from flexavatar_cli.heads import load_head, surface
from flexavatar_cli.media.video import write_video
from flexavatar_cli.model import AvatarModel, ModelConfig, Template
from flexavatar_cli.model.config import read_card
from flexavatar_cli.model.initialisation import perturb_zeros
from flexavatar_cli.render import pick_backend
from flexavatar_cli.stages import animation, motion, trajectories
from flexavatar_cli.stages.animation import Puppet, film, pictures, puppet
from flexavatar_cli.stages.instruments import Instruments, load_instruments, model_folder
from flexavatar_cli.stages.rig import settled

WHITE = (1.0, 1.0, 1.0)
PRECISIONS = ("float32", "tf32", "bfloat16")


def networks(model: str, tiny: bool) -> dict[str, AvatarModel]:
    """The networks to measure, by name."""
    if tiny:
        return {"tiny": untrained(ModelConfig.tiny(128))}
    try:
        shipped = load_instruments(model, "cpu").model
        name = f"{shipped.card.name} (trained)"
    except WeightsError:
        shipped, name = untrained(read_card(model_folder("open-1") / "model.yaml").network), "open-1 (untrained)"
    flex = read_card(model_folder("flex-1") / "model.yaml").network
    return {name: shipped, "flex-1 size (random)": AvatarModel.random(flex)}


def untrained(config: ModelConfig) -> AvatarModel:
    """Random weights on the shipped head's atlas."""
    head, resolution = load_head(), config.gaussians.resolution
    texels, tokens = head.texels(resolution), head.texels(config.grid)
    template = Template.from_texels(resolution, texels.index, config.grid, tokens.index, surface(tokens, head.template))
    generator = torch.Generator().manual_seed(0)
    model = AvatarModel(config, template, generator)
    perturb_zeros(model, generator, 0.02)
    return model


def use_precision(name: str) -> None:
    """The network's arithmetic from here on; what autocast leaves alone follows it too."""
    torch.set_float32_matmul_precision("highest" if name == "float32" else "high")
    torch.backends.cudnn.allow_tf32 = name != "float32"


def figure_of(model: AvatarModel, device: torch.device) -> Puppet:
    """A head of random code on the network, as `flexavatar render` would hold it."""
    generator = np.random.default_rng(0)
    head = load_head()
    model.to(device).eval().requires_grad_(False)
    model.file_digest = model.file_digest or "random"
    instruments = Instruments(model, head, device, pick_backend(device))
    width = model.config.decoder.expression_dim
    avatar = Avatar(
        (0.1 * generator.standard_normal(model.code_shape)).astype(np.float32),
        np.zeros(len(head.identity_basis), np.float32),
        model.card.name,
        model.digest,
        instruments.head_name,
        instruments.head_digest,
        EXPRESSION_NAMES if width == len(EXPRESSION_NAMES) else tuple(f"e{number}" for number in range(width)),
        "3d",
    )
    return puppet(avatar, instruments)


def at_precision(figure: Puppet, kind: str, compiled: bool) -> Puppet:
    """The same head with only its network at the precision `kind`; attributes are float32."""
    model, device = figure.instruments.model, figure.instruments.device
    network = torch.compile(model.decode) if compiled else model.decode

    def decode(expressions: Tensor) -> TexelAttributes:
        use_precision(kind)
        sink = torch.full((len(expressions),), figure.sink, device=device)
        with torch.autocast(device.type, torch.bfloat16, enabled=kind == "bfloat16"):
            made = network(figure.code.expand(len(expressions), -1, -1), expressions, sink)
        use_precision("float32")
        made = made.map(lambda values: values.float())
        return settled(figure.anchor, made, expressions) if figure.anchor is not None else made

    return dataclasses.replace(figure, decode=decode)


def expressions_of(figure: Puppet, frames: int) -> np.ndarray:  # [T, E]
    """The built-in motion, or noise for networks with another layout."""
    if figure.expression_names == EXPRESSION_NAMES:
        return motion.demo_motion(frames / motion.DEMO_SECONDS).expression_code[:frames]
    noise = np.random.default_rng(1).standard_normal((frames, len(figure.expression_names)))
    return (0.3 * noise).astype(np.float32)


def seconds(job: Callable[[], object], device: torch.device, repeats: int = 5) -> float:
    """Best time of `job`, waiting for the device before and after."""
    best = float("inf")
    for _ in range(repeats + 1):
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        job()
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best


def measure(figure: Puppet, size: int, frames: int, target: Path, exact: Tensor | None) -> dict[str, Any]:
    """Milliseconds per frame of each part, and frames per second of the stream and of the stream to mp4."""
    device, batch = figure.instruments.device, figure.chunk
    codes = expressions_of(figure, max(frames, batch))
    part = torch.from_numpy(codes[:batch]).to(device)
    camera = trajectories.orbit(max(frames, batch), size)

    def draw(heads: list[Gaussians]) -> Tensor:
        return pictures(heads, camera[:batch], WHITE, figure.instruments.backend)

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with torch.inference_mode():
        made = figure.attributes(part)
        heads = figure.heads(made, part)
        views = draw(heads)
        row: dict[str, Any] = {
            "network_ms": 1e3 * seconds(lambda: figure.attributes(part), device) / batch,
            "rig_ms": 1e3 * seconds(lambda: figure.heads(made, part), device) / batch,
            "rasterise_ms": 1e3 * seconds(lambda: draw(heads), device) / batch,
        }
    row["off_255"] = 0.0 if exact is None else 255 * float((views - exact).abs().mean())
    for name, use in (("stream_fps", count), ("video_fps", lambda items: write_video(target, items, 25.0))):
        start = time.perf_counter()
        use(film(figure, codes[:frames], camera[:frames], WHITE))
        row[name] = frames / (time.perf_counter() - start)
    row["gigabytes"] = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else 0.0
    still = [views[0].cpu().numpy()] * frames
    start = time.perf_counter()
    write_video(target, iter(still), 25.0)
    row["encoder_ms"] = 1e3 * (time.perf_counter() - start) / frames
    return {name: round(value, 3) for name, value in row.items()} | {"views": views}


def count(items: Iterable[Any]) -> None:
    """Use the items up."""
    for _ in items:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="open-1")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--batch", type=int, default=animation.GPU_CHUNK)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--tiny", action="store_true", help="a tiny network, to see that this program runs")
    parser.add_argument("--save", type=Path, help="write the results to this JSON file")
    options = parser.parse_args()
    device, rows = torch.device(options.device), []
    animation.CHUNK = animation.GPU_CHUNK = options.batch
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU: not a measurement of a GPU"
    print(f"{name}, torch {torch.__version__}, {options.size} pixels, batches of {options.batch}")
    heads = ("network", "rig", "raster", "encoder", "stream/s", "to mp4/s", "off/255", "GB")
    print(f"{'ms a frame':20} precision", *(f"{head:>8}" for head in heads))
    with tools.temporary_folder() as folder:
        for label, model in networks(options.model, options.tiny).items():
            figure, exact = figure_of(model, device), None
            for kind in PRECISIONS:
                playing = at_precision(figure, kind, options.compile)
                row = measure(playing, options.size, options.frames, Path(folder) / "a.mp4", exact)
                views = row.pop("views")
                exact = views if exact is None else exact
                rows.append({"network": label, "precision": kind, **row})
                parts = (row[name] for name in ("network_ms", "rig_ms", "rasterise_ms", "encoder_ms"))
                print(f"{label:20} {kind:9}", *(f"{part:8.2f}" for part in parts), end=" ")
                print(*(f"{row[name]:9.1f}" for name in ("stream_fps", "video_fps")), end=" ")
                print(f"{row['off_255']:9.3f} {row['gigabytes']:6.2f}", flush=True)
    if options.save:
        options.save.write_text(json.dumps({"device": name, "machine": tools.machine(), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
