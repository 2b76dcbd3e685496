"""What each decision behind open-1 is worth: its ablations, trained alike, measured on heads that training never saw.

    python benchmarks/ablations.py PACK -o RUNS [--portraits DATA] [--only base no_bias_sinks ...]

PACK is a folder of `flexavatar prepare`, DATA the one it was made of. `models/open-1/train.yaml` and every
configuration of its `ablations` folder are trained from one seed, in one order of the data, for the same number of
steps; a configuration without texel phases spends all of them on pictures. Each leaves a run folder, a `result.json`
and `sinks.jpg` (heads and portraits under both sinks) below RUNS; a program that was stopped goes on where it was, and
what has a result is not trained again. Then `ablations.json`, `ablations.md` (differences to the base with paired
bootstrap intervals over heads) and `ablations.jpg` are written from all results there are.
"""

import argparse
import json
import logging
import tarfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tools import machine

from flexavatar_cli.core.attributes import TexelAttributes
from flexavatar_cli.core.camera import Camera, look_at
from flexavatar_cli.core.expression import INDEX
from flexavatar_cli.core.files import replacing
from flexavatar_cli.evaluation import quality
from flexavatar_cli.evaluation.summary import interval
from flexavatar_cli.heads import HeadModel
from flexavatar_cli.media.images import sheet, write_jpg
from flexavatar_cli.model import AvatarModel, ModelCard
from flexavatar_cli.render import render
from flexavatar_cli.stages.matting.nets import open_net
from flexavatar_cli.stages.uv_completion import uv_features
from flexavatar_cli.training.batches import MONOCULAR, MULTI_VIEW, Batch, Batcher, collate
from flexavatar_cli.training.bench import Bench, make_bench
from flexavatar_cli.training.config import Phase, TrainConfig, network_card, read_config
from flexavatar_cli.training.engine import Trainer
from flexavatar_cli.training.feed import as_configured
from flexavatar_cli.training.measure import completions
from flexavatar_cli.training.people import numbered
from flexavatar_cli.training.portraits import portraits_of
from flexavatar_cli.training.rows import Column, read_rows, write_rows
from flexavatar_cli.training.split import HELD_OUT_EVERY
from flexavatar_cli.training.synthetic.pack import Pack
from flexavatar_cli.training.synthetic.views import IMAGE_SIZE
from flexavatar_cli.training.targets import SIDES, Studio, Target

log = logging.getLogger(__name__)

OPEN_1 = Path(__file__).resolve().parents[1] / "models" / "open-1"
BASE, AGAIN = "base", "base_seed_1"  # the second tells what chance alone changes
ORDER = (  # of worth, should time run out
    BASE,
    "no_bias_sinks",
    "no_uv_features",
    "multi_view_1_percent",
    "static_anchor",
    "multi_view_10_percent",
    "sink_per_side",
    "short_expression_code",
    "stylegan_blocks",
    "rendered_alone",
    "free_portraits",
    "free_portraits_alone",
    AGAIN,
)
CONTROLS = {
    "static_anchor": "rendered_alone",
    "free_portraits_alone": "rendered_alone",
}  # what differs in nothing but the decision itself
AZIMUTHS = (0, 60, 120, 180)  # degrees
VISIBLE, DISTANCE = 0.46, 1.0  # metres: what a camera around the head sees, and how far it stands
MOUTH_VISIBLE = 0.10  # metres, of the camera before the mouth
JAW_OPEN = 0.5  # of the open mouth
PICTURED = (0, 3)  # of the held-out heads
TILE = 120  # pixels of the sheet
WHITE = np.ones(3, np.float32)

TEXELS = {
    "seen_db": "seen, dB",
    "unseen_db": "unseen, dB",
    "scalp_db": "scalp, dB",
    "scalp_cm": "scalp displacement, cm",
}
AROUND = {f"{sink} {azimuth}": f"{sink.upper()} {azimuth}" for sink in ("3d", "2d") for azimuth in AZIMUTHS} | {
    "iou": "IoU, 3D"
}
FACES = {
    "portrait 3d": "portraits, 3D",
    "portrait 2d": "portraits, 2D",
    "mouth rest": "mouth at rest",
    "mouth open": "mouth open",
    "mouth inside": "inside the open mouth",
}
DIGITS = {"iou": 3}  # else 2


@dataclass(frozen=True)
class Budget:
    """How much each configuration trains."""

    uv_steps: int = 60
    rendered_steps: int = 40
    batch: int = 4
    resolution: int = 128  # texels; half of what open-1 ships with, a quarter of the time
    warmup: int = 20

    def applied(self, config: TrainConfig) -> TrainConfig:
        """`config` with this budget in place of its own; rates and shares stay those of its first phase of a kind."""
        kinds: dict[str, Phase] = {phase.kind: phase for phase in reversed(config.phases)}
        steps = {"uv": self.uv_steps, "rendered": self.rendered_steps}
        if "uv" not in kinds:
            steps["rendered"] += steps.pop("uv")
        phases = tuple(
            replace(kinds[kind], steps=count, minutes=0.0, batch=self.batch, resolution=self.resolution)
            for kind, count in steps.items()
        )
        return replace(config, phases=phases, warmup=self.warmup, preview_steps=0)


@dataclass(frozen=True)
class Sitter:
    """Someone that training never saw: the input, and pictures to compare with, by name."""

    batch: Batch  # of 1
    targets: dict[str, Target]  # around, rest, open; or portrait
    inside: torch.Tensor | None = None  # [S, S] where `open` shows the inside of the mouth


def main() -> None:
    """Train, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pack", type=Path, help="a folder of `flexavatar prepare`")
    parser.add_argument("-o", "--output", type=Path, required=True, help="run folders and results")
    parser.add_argument("--portraits", type=Path, help="the folder with portraits_512.tar and portraits_ann.npz")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="of these configurations")
    parser.add_argument("--heads", type=int, default=16, help="synthetic ones to render")
    for name, value in asdict(Budget()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    budget = Budget(**{name: getattr(options, name) for name in asdict(Budget())})
    chosen = {name: path for name, path in configurations().items() if name in (options.only or ORDER)}
    configs = {name: read_config(path) for name, path in chosen.items()}
    if AGAIN in configs:
        configs[AGAIN] = replace(configs[AGAIN], seed=configs[AGAIN].seed + 1)
    cards = {name: network_card(config) for name, config in configs.items()}
    run(configs, cards, budget, options.pack, options.output, options.heads, options.portraits)


def configurations() -> dict[str, Path]:
    """The base, its ablations and the base again by name, in the order of their worth."""
    found = dict.fromkeys((BASE, AGAIN), OPEN_1 / "train.yaml")
    found |= {path.stem: path for path in (OPEN_1 / "ablations").glob("*.yaml")}
    return {name: found[name] for name in ORDER}


def run(
    configs: dict[str, TrainConfig],
    cards: dict[str, ModelCard],
    budget: Budget,
    pack_folder: Path,
    output: Path,
    heads: int,
    portraits: Path | None = None,
) -> None:
    """Train and measure what has no result yet, one after the other, and write the tables after each."""
    sitters: list[Sitter] = []
    for name, config in configs.items():
        folder = output / name
        if not (folder / "result.json").is_file():
            trainer = Trainer(budget.applied(config), cards[name], pack_folder, folder)
            seconds = trained(trainer, name)
            model = trainer.averaged()
            texels = completions(trainer, model, resolution=budget.resolution)
            sitters = sitters or invited(trainer.head, trainer.pack, budget.resolution, heads, portraits, output)
            bench = make_bench(trainer.head, trainer.pack, model.config, budget.resolution, torch.device("cpu"))
            measures, tiles = examined(trainer.config, model, bench, sitters)
            np.save(folder / "tiles.npy", (tiles * 255).round().astype(np.uint8))
            write_jpg(folder / "sinks.jpg", sink_sheet(trainer.config, model, bench, sitters))
            facts = {
                "name": name,
                "steps": trainer.position.step,
                "seconds": round(seconds),
                "parameters": sum(parameter.numel() for parameter in model.parameters()),
                "config": asdict(trainer.config),
                "data_digest": trainer.pack.digest,
                "portraits": len(trainer.pack.portraits.get("clip", ())),
                "measures": {key: values for key, values in texels.items() if not key.startswith("base_")} | measures,
                "closed_form": {key: float(np.mean(values)) for key, values in texels.items() if "base_" in key},
            }
            (folder / "result.json").write_text(json.dumps(facts, indent=1))
        write(output, pack_folder)


def trained(trainer: Trainer, name: str) -> float:
    """Train to the end; seconds of the steps."""
    began = time.monotonic()

    def told(step: int, terms: dict[str, float]) -> None:
        if step % 10 == 0:
            shown = ", ".join(f"{key} {value:.4f}" for key, value in terms.items() if key != "rate")
            log.info("%s, step %d (%.0f s): %s", name, step, time.monotonic() - began, shown)

    trainer.run(told)
    return trainer.position.seconds


def invited(
    head: HeadModel, pack: Pack, resolution: int, heads: int, portraits: Path | None, output: Path
) -> list[Sitter]:
    """The synthetic heads of styles and skins that are held out, then the held-out portraits."""
    batcher, studio = Batcher(head, pack, resolution), Studio(head)
    count = min(heads, len(pack.held_views["seen"]))
    sitters = [synthetic_sitter(batcher, studio, pack, row) for row in range(count)]
    if portraits is not None:
        people = held_portraits(head, portraits, output / "portraits")
        asked = Batcher(head, replace(pack, portraits=people), resolution, studio)
        sitters += [real_sitter(asked, row) for row in range(len(people["seen"]))]
    return sitters


def synthetic_sitter(batcher: Batcher, studio: Studio, pack: Pack, row: int) -> Sitter:
    """A held-out head, seen from around with the photo's expression, and its mouth at rest and open."""
    view = {name: np.array(values[row]) for name, values in pack.held_views.items()}
    seed = (2, row)
    batch = collate([batcher.synthetic(pack.held_views, pack.held_skins, row, np.random.default_rng(seed), False)])
    painter = batcher.painter
    albedo, _, light = painter.paint(view, pack.held_skins, np.random.default_rng(seed))  # the same person again
    mouth = painter.points[painter.interior].mean(0)
    rest, wide = np.zeros_like(view["expression"]), np.zeros_like(view["expression"])
    wide[INDEX["jawOpen"]] = JAW_OPEN
    close = cameras([0], mouth - [0, 0.01, 0], MOUTH_VISIBLE)  # an open jaw is lower
    asked = {
        "around": (view["expression"], cameras(AZIMUTHS)),
        "rest": (rest, close),
        "open": (wide, close),
    }
    height = view["height"].astype(np.float32)

    def pictures(color: np.ndarray, expression: np.ndarray, camera: Camera) -> Target:
        return studio.pictures(view["identity"], expression, height, color, camera, WHITE)

    targets = {
        name: pictures(np.clip(albedo * light * painter.mouth_light(expression), 0, 1), expression, camera)
        for name, (expression, camera) in asked.items()
    }
    marked = pictures(np.repeat(painter.interior[:, None], 3, 1).astype(np.float32), wide, close)
    return Sitter(batch, targets, marked.picture[0, ..., 0] * marked.alpha[0])


def real_sitter(batcher: Batcher, row: int) -> Sitter:
    """A held-out portrait, all of which the network sees."""
    sample = batcher.portrait(row, row, np.random.default_rng(0))
    sample["seen"] = np.array(batcher.pack.portraits["seen"][row])[batcher.rows].astype(np.float32) / 255  # none hidden
    batch = collate([sample])
    return Sitter(batch, {"portrait": replace(batch.targets[0], ground=torch.from_numpy(WHITE))})


def held_portraits(head: HeadModel, data: Path, folder: Path) -> dict[str, Column]:
    """The sharp portraits of the dev split, tracked and matted once into `folder`."""
    if not folder.is_dir():
        with np.load(data / "portraits_ann.npz") as archive, tarfile.open(data / "portraits_512.tar") as sharp:
            annotations: Any = dict(archive)
            present = set(sharp.getnames())
        ids = np.sort(annotations["id"].astype(str))[::HELD_OUT_EVERY]
        names = [str(name) for name in ids if f"portraits_512/{name}.jpg" in present]
        sources = portraits_of(data, names, annotations, head, open_net())
        with replacing(folder) as temporary:
            temporary.mkdir()
            write_rows(temporary, "portraits", numbered(sources, len(names), None))
    return read_rows(folder, "portraits")


def cameras(azimuths: Sequence[float], centre: Any = (0.0, 0.0, 0.0), visible: float = VISIBLE) -> Camera:
    """Cameras on a horizontal circle; 0 is the front, 90 sees the subject's left side."""
    angles, there = np.radians(azimuths), np.asarray(centre)
    eyes = there + DISTANCE * np.stack([np.sin(angles), np.zeros_like(angles), np.cos(angles)], -1)
    focal = IMAGE_SIZE * DISTANCE / visible
    matrix = np.array([[focal, 0, IMAGE_SIZE / 2], [0, focal, IMAGE_SIZE / 2], [0, 0, 1]])
    return Camera(np.stack([look_at(eye, there) for eye in eyes]), matrix, IMAGE_SIZE, IMAGE_SIZE)


def sink_of(config: TrainConfig, sink: str, azimuth: float = 0) -> int:
    """The token that a configuration has for "2d" (portraits) or "3d" (for `side`: of the camera's quarter)."""
    if config.sinks == "none" or sink == "2d":
        return MONOCULAR
    return MULTI_VIEW if config.sinks == "domain" else MONOCULAR + 1 + round(azimuth / (360 / SIDES)) % SIDES


@torch.no_grad()
def examined(
    config: TrainConfig, model: AvatarModel, bench: Bench, sitters: Sequence[Sitter]
) -> tuple[dict[str, list[float]], np.ndarray]:
    """Every measure, sitter by sitter, and what the sheet shows: [heads, 1 + V + 1 + V, S, S, 3].

    Of each pictured head: the photo, the true views, the back under the 2-D sink, the views under the 3-D sink.
    """
    model.set_template(bench.template)
    found: dict[str, list[float]] = {}
    tiles = []
    heads = [sitter for sitter in sitters if "around" in sitter.targets]
    for number, sitter in enumerate(heads):
        rendered = {}
        shown = Posed(config, model, bench, sitter)
        around = sitter.targets["around"]
        for sink in ("3d", "2d"):
            rgb, alpha = shown.around(sink)
            rendered[sink] = rgb
            for view, azimuth in enumerate(AZIMUTHS):
                found.setdefault(f"{sink} {azimuth}", []).append(psnr(rgb[view], around, view))
            if sink == "3d":
                found.setdefault("iou", []).append(overlap(alpha, around.alpha))
        for name in ("rest", "open"):
            target = sitter.targets[name]
            rgb, _ = shown("3d", target)
            found.setdefault(f"mouth {name}", []).append(psnr(rgb[0], target, 0))
            if name == "open" and sitter.inside is not None:
                found.setdefault("mouth inside", []).append(psnr(rgb[0], target, 0, sitter.inside))
        if number in PICTURED:
            photo = sitter.batch.image.permute(0, 2, 3, 1)
            tiles.append(torch.cat([photo, around.picture, rendered["2d"][-1:], rendered["3d"]]).clamp(0, 1).numpy())
    for sitter in sitters:
        if "portrait" in sitter.targets:
            target = sitter.targets["portrait"]
            for sink in ("3d", "2d"):
                rgb, _ = Posed(config, model, bench, sitter)(sink, target)
                found.setdefault(f"portrait {sink}", []).append(psnr(rgb[0], target, 0))
    return found, np.stack(tiles)


@torch.no_grad()
def sink_sheet(config: TrainConfig, model: AvatarModel, bench: Bench, sitters: Sequence[Sitter]) -> np.ndarray:
    """A row for some heads and some portraits: the photo, all AZIMUTHS under the 3-D sink, and under the 2-D one."""
    heads = [sitter for sitter in sitters if "around" in sitter.targets]
    people = [sitter for sitter in sitters if "portrait" in sitter.targets]
    rows = []
    for sitter in [group[number] for group in (heads, people) for number in PICTURED if number < len(group)]:
        shown, target = Posed(config, model, bench, sitter), next(iter(sitter.targets.values()))
        views = [shown(sink, target, azimuth, cameras([azimuth])) for sink in ("3d", "2d") for azimuth in AZIMUTHS]
        photo = sitter.batch.image.permute(0, 2, 3, 1)
        rows.append([picture.clamp(0, 1).numpy() for picture in (photo[0], *(rgb[0] for rgb, _ in views))])
    return sheet(rows, ["photo", *(f"{sink}, {azimuth}" for sink in ("3-D", "2-D") for azimuth in AZIMUTHS)], TILE)


class Posed:
    """One sitter's avatar: encoded once, decoded for what is asked."""

    def __init__(self, config: TrainConfig, model: AvatarModel, bench: Bench, sitter: Sitter) -> None:
        self.config, self.model, self.bench, self.sitter = config, model, bench, sitter
        batch = sitter.batch
        features = None
        if model.config.uv_features is not None:
            features = uv_features(bench.prior, batch.color, batch.seen, batch.facing, batch.hull)
        self.code = model.encode(batch.image, batch.plucker, features)

    def decoded(self, sink: int, expression: torch.Tensor) -> TexelAttributes:
        """Attributes for an expression [59] of the rig."""
        told = as_configured(self.config, replace(self.sitter.batch, expression=expression[None])).expression
        return self.model.decode(self.code, told, torch.tensor([sink]))

    def __call__(
        self, sink: str, target: Target, azimuth: float = 0, camera: Camera | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """RGB on white [V, S, S, 3] and alpha as the target's cameras, or `camera`, see it."""
        attributes = self.decoded(sink_of(self.config, sink, azimuth), target.expression)
        posed = self.bench.gaussians(attributes, target.identity, target.expression)
        return render(posed, camera or target.camera)

    def around(self, sink: str) -> tuple[torch.Tensor, torch.Tensor]:
        """All AZIMUTHS, each under the token that belongs there."""
        target = self.sitter.targets["around"]
        if self.config.sinks != "side":
            return self(sink, target)
        views = [self(sink, target, azimuth, target.camera[at]) for at, azimuth in enumerate(AZIMUTHS)]
        return torch.cat([rgb for rgb, _ in views]), torch.cat([alpha for _, alpha in views])


def psnr(rgb: torch.Tensor, target: Target, view: int, mask: torch.Tensor | None = None) -> float:
    """PSNR of a render on white inside the true head, or inside `mask`."""
    where = target.alpha[view] * target.inside[view] if mask is None else mask
    return quality.psnr(rgb.numpy(), target.picture[view].numpy(), where.numpy())


def overlap(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Intersection over union of two silhouettes [V, S, S], mean over views."""
    one, two = ours > quality.INSIDE, theirs > quality.INSIDE
    return float(((one & two).sum((1, 2)) / (one | two).sum((1, 2)).clamp_min(1)).mean())


def write(output: Path, pack: Path) -> None:
    """`ablations.json`, `.md` and `.jpg` from all results below `output`."""
    places = [output / name for name in ORDER if (output / name / "result.json").is_file()]
    results = {place.name: json.loads((place / "result.json").read_text()) for place in places}
    facts = {"machine": machine(), "pack": str(pack), "results": results}
    (output / "ablations.json").write_text(json.dumps(facts, indent=1))
    (output / "ablations.md").write_text(document(results), encoding="utf-8")
    tiles = {place.name: np.load(place / "tiles.npy").astype(np.float32) / 255 for place in places}
    write_jpg(output / "ablations.jpg", contact_sheet(tiles), quality=80)


def document(results: dict[str, dict[str, Any]]) -> str:
    """The tables: what was trained, then every measure beside its difference to the base."""
    lines = ["| configuration | steps | seconds | parameters, M |", "| --- | ---: | ---: | ---: |"]
    for name, result in results.items():
        lines.append(f"| `{name}` | {result['steps']} | {result['seconds']} | {result['parameters'] / 1e6:.1f} |")
    parts = ["\n".join(lines)]
    parts += [table(results, measures) for measures in (AROUND, TEXELS, FACES)]
    closed = results.get(BASE, {}).get("closed_form", {})
    told = ", ".join(
        f"{label} {closed[f'base_{key}']:.{DIGITS.get(key, 2)}f}" for key, label in TEXELS.items() if closed
    )
    parts += [f"The closed form alone, without a network, on the same texels: {told}.", sink_effects(results)]
    for name, control in CONTROLS.items():
        if name in results and control in results:
            pair = {control: results[control], name: results[name]}
            parts += [f"`{name}` against `{control}`:"]
            parts += [table(pair, measures, control) for measures in (AROUND, TEXELS, FACES)]
    return "\n\n".join(parts) + "\n"


def table(results: dict[str, dict[str, Any]], measures: dict[str, str], base: str = BASE) -> str:
    """A row per configuration: means, below them the difference to `base` with its interval, bold where not zero."""
    shown = {key: label for key, label in measures.items() if any(key in found(result) for result in results.values())}
    lines = ["| configuration | " + " | ".join(shown.values()) + " |", "| --- |" + " ---: |" * len(shown)]
    for name, result in results.items():
        cells = []
        for key in shown:
            if key not in found(result):
                cells.append("")
                continue
            values, digits = np.array(found(result)[key]), DIGITS.get(key, 2)
            text = f"{np.nanmean(values):.{digits}f}"
            if name != base and key in found(results.get(base, {})):
                text += f"<br>{changed(np.array(found(results[base])[key]), values, digits)}"
            cells.append(text)
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def sink_effects(results: dict[str, dict[str, Any]]) -> str:
    """What the 3-D sink changes against the 2-D sink, a row per configuration."""
    kinds = [key.removeprefix("2d ") for key in AROUND if key.startswith("2d ")]
    lines = ["| 3D sink against 2D sink, dB | " + " | ".join([*kinds, "portraits"]) + " |"]
    lines.append("| --- |" + " ---: |" * (len(kinds) + 1))
    for name, result in results.items():
        own = found(result)
        pairs = [(f"2d {kind}", f"3d {kind}") for kind in kinds] + [("portrait 2d", "portrait 3d")]
        cells = [changed(*(np.array(own[key]) for key in pair), 2) if pair[0] in own else "" for pair in pairs]
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def found(result: dict[str, Any]) -> dict[str, list[float]]:
    """The measures of a result; none of what is not there."""
    return result.get("measures", {})


def changed(before: np.ndarray, after: np.ndarray, digits: int) -> str:  # [n], [n]
    """The mean difference with its 95 % interval, paired."""
    differences = after - before
    differences = differences[np.isfinite(differences)]
    if not len(differences):
        return ""
    low, high = interval(differences)
    text = f"{differences.mean():+.{digits}f} ({low:+.{digits}f}, {high:+.{digits}f})"
    return f"**{text}**" if low > 0 or high < 0 else text


def contact_sheet(tiles: dict[str, np.ndarray]) -> np.ndarray:
    """The truth first, then a row per configuration: each head as photo (below: back, 2-D sink) and AZIMUTHS."""
    views = len(AZIMUTHS)
    first = next(iter(tiles.values()))
    rows = [[picture for head in first for picture in head[: 1 + views]]]
    rows += [[picture for head in heads for picture in head[1 + views :]] for heads in tiles.values()]
    return sheet(rows, ["photo and truth", *tiles], TILE)


if __name__ == "__main__":
    main()
