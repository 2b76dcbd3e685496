"""Throughput on a CUDA device: network, rasteriser and video apart, and the whole stream.

    benchmarks/gpu.sh                                        what to run on a machine with a GPU
    python benchmarks/gpu.py --device cpu --frames 2 --batch 2 --tiny     the same code, to see that it runs

Rows: open-1 (weights of --model, or untrained) and a random network of flex-1's size, each in float32, with TF32, and
with bfloat16 under autocast; `--compile` adds torch.compile. Parity: mean absolute difference of the pictures to
float32, in steps of 1/255. The stream decodes and draws `--batch` expressions per step and copies 8-bit pictures to
pinned memory while the next batch runs; ffmpeg takes them in a process of its own.
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import tools
import torch
from torch import Tensor

from flexavatar_cli.core.ahead import ahead
from flexavatar_cli.core.attributes import TexelAttributes
from flexavatar_cli.core.errors import WeightsError
from flexavatar_cli.core.gaussians import Gaussians
from flexavatar_cli.heads import load_head, surface
from flexavatar_cli.media.video import write_video
from flexavatar_cli.model import AvatarModel, ModelConfig, Template
from flexavatar_cli.model.config import read_card
from flexavatar_cli.model.initialisation import perturb_zeros
from flexavatar_cli.render import render_frames
from flexavatar_cli.stages import motion, trajectories
from flexavatar_cli.stages.instruments import load_instruments, model_folder
from flexavatar_cli.stages.rig import rig_anchor, rigged_gaussians, settled

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


class Stage:
    """One network on a device, with what turns its attributes into Gaussians."""

    def __init__(self, model: AvatarModel, device: torch.device, size: int, compiled: bool) -> None:
        self.model = model.to(device).eval().requires_grad_(False)
        self.device, self.size = device, size
        generator = torch.Generator().manual_seed(0)
        self.code = (0.1 * torch.randn(model.code_shape, generator=generator)).to(device)
        self.rigged = model.config.anchor == "rigged" and model.config.decoder.expression_dim == 59
        self.anchor = rig_anchor(load_head().to(device), model.resolution) if self.rigged else None
        self.identity = torch.zeros(64, device=device)
        self.decode = torch.compile(self.model.decode) if compiled else self.model.decode

    def expressions(self, frames: int) -> Tensor:  # [T, E]
        """The built-in motion, or noise for networks with another layout."""
        if self.rigged:
            return torch.from_numpy(motion.demo_motion(frames / motion.DEMO_SECONDS).expression_code).to(self.device)
        width = self.model.config.decoder.expression_dim
        return (0.3 * torch.randn(frames, width, generator=torch.Generator().manual_seed(1))).to(self.device)

    def attributes(self, expressions: Tensor, kind: str) -> TexelAttributes:
        """Float32 attributes of a batch; only the network runs at the precision `kind`."""
        use_precision(kind)
        sink = torch.ones(len(expressions), dtype=torch.int64, device=self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=kind == "bfloat16"):
            made = self.decode(self.code.expand(len(expressions), -1, -1), expressions, sink)
        use_precision("float32")
        made = made.map(lambda values: values.float())
        return settled(self.anchor, made) if self.anchor is not None else made

    def heads(self, attributes: TexelAttributes, expressions: Tensor) -> list[Gaussians]:
        """Gaussians of a batch."""
        if self.anchor is not None:
            each = [attributes.map(lambda values, at=at: values[at : at + 1]) for at in range(len(expressions))]
            return [
                rigged_gaussians(self.anchor, one, self.identity, row)
                for one, row in zip(each, expressions, strict=True)
            ]
        base = self.model.base_positions
        made = attributes if base is None else dataclasses.replace(attributes, offset=attributes.offset + base)
        fields = (made.offset, made.rotation, made.scale, made.opacity, made.color)
        return [Gaussians(*row) for row in zip(*fields, strict=True)]

    def pictures(self, heads: list[Gaussians], first: int) -> Tensor:  # [T, H, W, 3]
        """A batch on its way around the head."""
        camera = trajectories.orbit(150, self.size)[first : first + len(heads)]
        return render_frames(heads, camera)[0]


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


def stream(stage: Stage, kind: str, frames: int, batch: int) -> Generator[Any, None, None]:
    """8-bit pictures as float arrays, each batch copied to pinned memory while the next one is made."""
    code, waiting = stage.expressions(frames), []
    with torch.inference_mode():
        for start in range(0, len(code), batch):
            part = code[start : start + batch]
            views = stage.pictures(stage.heads(stage.attributes(part, kind), part), start % 100)
            bytes_ = (views.clamp(0, 1) * 255).round().to(torch.uint8)
            if stage.device.type == "cuda":
                held = torch.empty(bytes_.shape, dtype=torch.uint8, pin_memory=True)
                held.copy_(bytes_, non_blocking=True)
                done = torch.cuda.Event()
                done.record()
            else:
                held, done = bytes_, None
            waiting.append((held, done))
            if len(waiting) > 1:
                yield from ready(*waiting.pop(0))
        for held, done in waiting:
            yield from ready(held, done)


def ready(held: Tensor, done: Any) -> Generator[Any, None, None]:
    """The pictures of a batch once they have arrived."""
    if done is not None:
        done.synchronize()
    yield from held.numpy().astype("float32") / 255


def measure(stage: Stage, kind: str, frames: int, batch: int, target: Path, exact: Tensor | None) -> dict[str, Any]:
    """Milliseconds per frame of each part at one precision, and frames per second of the stream."""
    code = stage.expressions(max(frames, batch))[:batch]
    with torch.inference_mode():
        made = stage.attributes(code, kind)
        heads = stage.heads(made, code)
        views = stage.pictures(heads, 0)
        row: dict[str, Any] = {
            "network_ms": 1e3 * seconds(lambda: stage.attributes(code, kind), stage.device) / batch,
            "rig_ms": 1e3 * seconds(lambda: stage.heads(made, code), stage.device) / batch,
            "rasterise_ms": 1e3 * seconds(lambda: stage.pictures(heads, 0), stage.device) / batch,
        }
    row["off_255"] = 0.0 if exact is None else 255 * float((views - exact).abs().mean())
    for _ in stream(stage, kind, batch, batch):
        pass
    for name, use in (("stream_fps", count), ("video_fps", lambda items: write_video(target, ahead(items), 25.0))):
        start = time.perf_counter()
        use(stream(stage, kind, frames, batch))
        row[name] = frames / (time.perf_counter() - start)
    pictures = [views[0].clamp(0, 1).cpu().numpy()] * frames
    start = time.perf_counter()
    write_video(target, iter(pictures), 25.0)
    row["encoder_ms"] = 1e3 * (time.perf_counter() - start) / frames
    return {name: round(value, 3) for name, value in row.items()} | {"views": views}


def count(items: Generator[Any, None, None]) -> None:
    """Use the items up."""
    for _ in items:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="open-1")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--tiny", action="store_true", help="a tiny network, to see that this program runs")
    parser.add_argument("--save", type=Path, help="write the results to this JSON file")
    options = parser.parse_args()
    device, rows = torch.device(options.device), []
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU: not a measurement of a GPU"
    print(f"{name}, torch {torch.__version__}, {options.size} pixels, batches of {options.batch}")
    print(f"{'ms a frame:':20} precision   network    rig  raster  encoder   frames/s: stream  to mp4   off/255")
    with tools.temporary_folder() as folder:
        for label, model in networks(options.model, options.tiny).items():
            stage, exact = Stage(model, device, options.size, options.compile), None
            for kind in PRECISIONS:
                row = measure(stage, kind, options.frames, options.batch, Path(folder) / "a.mp4", exact)
                views = row.pop("views")
                exact = views if exact is None else exact
                rows.append({"network": label, "precision": kind, **row})
                parts = (row[name] for name in ("network_ms", "rig_ms", "rasterise_ms", "encoder_ms"))
                print(f"{label:20} {kind:9}", *(f"{part:8.2f}" for part in parts), end=" ")
                print(f"{row['stream_fps']:18.1f} {row['video_fps']:7.1f} {row['off_255']:9.3f}", flush=True)
    if options.save:
        options.save.write_text(json.dumps({"device": name, "machine": tools.machine(), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
