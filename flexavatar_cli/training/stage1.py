"""Stage 1: regress colour and displacement of every texel, no rasteriser (DESIGN 4.3)."""

import json
import logging
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import Tensor

from flexavatar_cli.core.attributes import TexelAttributes
from flexavatar_cli.core.errors import InputError, UsageError
from flexavatar_cli.core.files import replacing
from flexavatar_cli.heads import HeadModel, load_head
from flexavatar_cli.heads.surface import surface
from flexavatar_cli.media.images import write_png
from flexavatar_cli.model import AvatarModel, ModelCard, Template
from flexavatar_cli.stages.encoding import MEAN_COLOR
from flexavatar_cli.stages.uv_prior import UVPrior, uv_features, uv_prior
from flexavatar_cli.training.batches import Batch, Batcher, collate
from flexavatar_cli.training.synthetic.pack import RESOLUTION, Pack, read_pack

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Phase:
    """One stretch of training at one texel resolution."""

    resolution: int  # 128 trains four times as fast as 256
    minutes: float
    batch: int
    rate: float  # peak learning rate


@dataclass(frozen=True)
class TrainConfig:
    """`train.yaml`: what to train, on what, for how long."""

    model: str  # folder of the model.yaml with the network
    seed: int
    phases: tuple[Phase, ...]
    monocular_share: float = 0.2  # of the samples, where portraits were prepared
    hint_dropout: float = 0.1  # samples whose hull hint is flattened, so that length is not copied blindly
    skip_rate: float = 0.1  # learning rate of the skip path, relative: it starts as the right answer
    weight_decay: float = 0.03
    warmup: int = 60
    checkpoint_minutes: float = 3.0
    bfloat16: bool = False


def read_config(path: Path) -> TrainConfig:
    """The training configuration in `path`. Raises UsageError naming what is wrong."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
        phases = tuple(Phase(**phase) for phase in found.pop("phases"))
        return TrainConfig(phases=phases, **found)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(f"{path}: not a training configuration ({error})") from error


def template_of(head: HeadModel, resolution: int, patch: int) -> Template:
    """Texels and token positions of `head` at `resolution`."""
    tokens = head.texels(resolution // patch)
    return Template.from_texels(
        resolution, head.texels(resolution).index, resolution // patch, tokens.index, surface(tokens, head.template)
    )


@dataclass
class Bench:
    """What one resolution needs: template, closed-form prior, batches."""

    template: Template
    prior: UVPrior
    batcher: Batcher

    @staticmethod
    def make(head: HeadModel, pack: Pack, resolution: int, patch: int) -> "Bench":
        """For texel grids of `resolution`."""
        batcher = Batcher(head, pack, resolution)
        mean = torch.from_numpy(pack.materials.mean_color[batcher.rows])
        return Bench(template_of(head, resolution, patch), uv_prior(head, resolution, mean), batcher)


def losses(bench: Bench, batch: Batch, attributes: TexelAttributes) -> dict[str, Tensor]:
    """Named loss terms; their sum is what is minimised."""
    error = (attributes.color - batch.target).abs().mean(-1)
    weight = batch.weight / batch.weight.mean().clamp_min(1e-6)
    grid_error = _gradients(bench.prior, attributes.color - batch.target, batch.weight)
    normal = attributes.offset[..., 2]
    lift = (normal - batch.height).abs() * batch.height_weight / 0.05
    return {
        "color": (error * weight).mean(),
        "edges": 0.5 * grid_error,
        "height": 0.4 * lift.mean(),
        "slide": 20.0 * attributes.offset[..., :2].abs().mean(),
        "opacity": 0.2 * (attributes.opacity - 0.99).abs().mean(),
        "size": 0.05 * (attributes.scale.log() ** 2).mean(),
        "turn": 0.05 * (attributes.rotation[..., 1:] ** 2).mean(),
    }


def _gradients(prior: UVPrior, difference: Tensor, weight: Tensor) -> Tensor:
    """Mean absolute difference between neighbouring texels of the error picture."""
    size = prior.resolution
    stacked = torch.cat([difference * weight[..., None], weight[..., None]], -1)
    picture = stacked.new_zeros(len(stacked), size * size, 4)
    picture[:, prior.index] = stacked
    picture = picture.reshape(len(stacked), size, size, 4)
    across = (picture[:, :, 1:, :3] - picture[:, :, :-1, :3]).abs() * (
        picture[:, :, 1:, 3:] * picture[:, :, :-1, 3:] > 0
    )
    down = (picture[:, 1:, :, :3] - picture[:, :-1, :, :3]).abs() * (picture[:, 1:, :, 3:] * picture[:, :-1, :, 3:] > 0)
    return (across.mean() + down.mean()) / 2


class Trainer:
    """Weights, optimiser and running average; resumes from the last checkpoint of `output`."""

    def __init__(self, config: TrainConfig, card: ModelCard, pack_folder: Path, output: Path) -> None:
        torch.manual_seed(config.seed)
        self.config, self.output = config, output
        self.head = load_head()
        self.pack = read_pack(pack_folder, self.head)
        self.patch = card.network.uv_features.patch if card.network.uv_features else 8
        template = template_of(self.head, RESOLUTION, self.patch)
        self.model = AvatarModel(card.network, template, torch.Generator().manual_seed(config.seed), card)
        self.average = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        self.optimiser = torch.optim.AdamW(self._groups(), lr=1e-3, betas=(0.9, 0.98))
        self.step, self.seconds, self.phase, self.phase_seconds = 0, 0.0, 0, 0.0
        output.mkdir(parents=True, exist_ok=True)
        checkpoint = output / "checkpoint.pt"
        if checkpoint.exists():
            state = torch.load(checkpoint, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.average = state["average"]
            self.optimiser.load_state_dict(state["optimiser"])
            for name in ("step", "seconds", "phase", "phase_seconds"):
                setattr(self, name, state[name])
            log.info("resumed at step %d", self.step)

    def _groups(self) -> list[dict]:
        skip, decayed, plain = [], [], []
        for name, parameter in self.model.named_parameters():
            if "patch_code" in name or "detail_code" in name:
                skip.append(parameter)
            elif parameter.ndim < 2 or "sinks" in name:
                plain.append(parameter)
            else:
                decayed.append(parameter)
        return [
            {"params": decayed, "weight_decay": self.config.weight_decay, "scale": 1.0},
            {"params": plain, "weight_decay": 0.0, "scale": 1.0},
            {"params": skip, "weight_decay": 0.0, "scale": self.config.skip_rate},
        ]

    def run(self, on_step: Callable[[int, dict[str, float]], None] | None = None) -> None:
        """Train through the phases by wall clock, checkpointing as it goes."""
        with ThreadPoolExecutor(1) as painter:  # paints the next batch while this one is learned
            self._run(painter, on_step)

    def _run(self, painter: ThreadPoolExecutor, on_step: Callable[[int, dict[str, float]], None] | None) -> None:
        while self.phase < len(self.config.phases):
            phase = self.config.phases[self.phase]
            bench = Bench.make(self.head, self.pack, phase.resolution, self.patch)
            self.model.set_template(bench.template)
            last_save, first = time.monotonic(), self.step
            painted = painter.submit(self._batch, bench, phase, self.step)
            while self.phase_seconds < phase.minutes * 60:
                begin = time.monotonic()
                share = self.phase_seconds / (phase.minutes * 60)
                rate = phase.rate * min(1, (self.step - first + 1) / self.config.warmup)
                rate *= 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share))
                for group in self.optimiser.param_groups:
                    group["lr"] = rate * group["scale"]
                batch = painted.result()
                painted = painter.submit(self._batch, bench, phase, self.step + 1)
                terms = self._one_step(bench, batch)
                spent = time.monotonic() - begin
                self.step += 1
                self.seconds += spent
                self.phase_seconds += spent
                if on_step:
                    on_step(self.step, terms | {"rate": rate, "seconds": self.seconds})
                if time.monotonic() - last_save > self.config.checkpoint_minutes * 60:
                    self.save()
                    last_save = time.monotonic()
            self.phase, self.phase_seconds = self.phase + 1, 0.0
            self.save()

    def _batch(self, bench: Bench, phase: Phase, step: int) -> Batch:
        generator = np.random.default_rng((self.config.seed, step))
        return collate([self._sample(bench, generator) for _ in range(phase.batch)])

    def _one_step(self, bench: Bench, batch: Batch) -> dict[str, float]:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.bfloat16):
            features = uv_features(bench.prior, batch.color, batch.seen, batch.facing, batch.hull)
            _, attributes = self.model(batch.image, batch.plucker, features, batch.expression, batch.sink)
        terms = losses(bench, batch, attributes)
        total = torch.stack(list(terms.values())).sum()
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        decay = min(0.995, 1 - 1 / (1 + 0.1 * (self.step + 1)))
        with torch.no_grad():
            for name, value in self.model.state_dict().items():
                self.average[name].lerp_(value, 1 - decay)
        return {name: value.item() for name, value in terms.items()} | {"total": total.item()}

    def _sample(self, bench: Bench, generator: np.random.Generator) -> dict[str, np.ndarray]:
        portraits = self.pack.portraits
        if portraits and generator.random() < self.config.monocular_share:
            return bench.batcher.portrait(int(generator.integers(len(portraits["seen"]))), generator)
        views = self.pack.views
        row = int(generator.integers(len(views["seen"])))
        sample = bench.batcher.synthetic(views, self.pack.skins, row, generator, augment=True)
        if generator.random() < self.config.hint_dropout:
            sample["hull"] = np.minimum(sample["hull"], np.float32(0.01))
        return sample

    def averaged(self) -> AvatarModel:
        """The model with the running average of its weights, at full resolution, in eval mode."""
        template = template_of(self.head, RESOLUTION, self.patch)
        notes = {"status": "trained", "stage": 1, "steps": self.step, "hours": round(self.seconds / 3600, 2)}
        card = replace(self.model.card, head_digest=self.head.digest, notes=notes)
        model = AvatarModel(self.model.config, template, card=card, fill_weights=False)
        model.load_state_dict(self.average)
        return model.eval()

    def save(self) -> None:
        """Checkpoint and averaged weights, each replaced atomically."""
        state = {
            "model": self.model.state_dict(),
            "average": self.average,
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "phase": self.phase,
            "phase_seconds": self.phase_seconds,
        }
        with replacing(self.output / "checkpoint.pt") as temporary:
            torch.save(state, temporary)
        self.averaged().save(self.output / "model")
        write_png(self.output / "model" / MEAN_COLOR, self._mean_picture())

    def _mean_picture(self) -> np.ndarray:  # [R, R, 3]
        mean = torch.from_numpy(self.pack.materials.mean_color)
        return self.head.texels(RESOLUTION).scatter(mean).numpy()


def evaluate(model: AvatarModel, head: HeadModel, pack: Pack, seed: int = 1, limit: int = 40) -> dict[str, float]:
    """Colour PSNR (dB) and displacement error (cm) on styles and skins that training never saw, beside the closed form.

    `base_*` is what the closed-form completion and hull reach on the same texels without the network.
    """
    bench = Bench.make(head, pack, RESOLUTION, model.config.uv_features.patch if model.config.uv_features else 8)
    views = pack.held_views
    sums: dict[str, list[float]] = {}
    scalp = bench.batcher.painter.scalp > 0.5
    with torch.no_grad():
        for row in range(min(limit, len(views["seen"]))):
            generator = np.random.default_rng((seed, row))
            batch = collate([bench.batcher.synthetic(views, pack.held_skins, row, generator, augment=False)])
            features = uv_features(bench.prior, batch.color, batch.seen, batch.facing, batch.hull)
            _, attributes = model(batch.image, batch.plucker, features, batch.expression, batch.sink)
            base = features[:, :3].flatten(2).transpose(1, 2)[:, bench.prior.index] + 0.5
            seen, trusted = batch.seen[0] > 0.5, batch.weight[0] > 0.5
            unseen = batch.seen[0] < 0.05
            for label, color in (("", attributes.color), ("base_", base)):
                squared = ((color.clamp(0, 1) - batch.target)[0] ** 2).mean(-1)
                sums.setdefault(f"{label}seen_db", []).append(_db(squared[seen & trusted]))
                sums.setdefault(f"{label}unseen_db", []).append(_db(squared[unseen & trusted]))
                sums.setdefault(f"{label}scalp_db", []).append(_db(squared[torch.from_numpy(scalp)]))
            for label, height in (("", attributes.offset[0, :, 2]), ("base_", batch.hull[0])):
                error = (height - batch.height[0]).abs()[torch.from_numpy(scalp)].mean()
                sums.setdefault(f"{label}scalp_cm", []).append(float(error) * 100)
    return {name: float(np.mean(values)) for name, values in sums.items()}


def _db(squared: Tensor) -> float:
    return -10 * math.log10(max(float(squared.mean()), 1e-8)) if len(squared) else float("nan")


def describe(config: TrainConfig, pack: Pack, trainer: Trainer, metrics: dict[str, float]) -> str:
    """Facts of a run as JSON, for the model card."""
    facts = {
        "config": asdict(config),
        "data_digest": pack.digest,
        "steps": trainer.step,
        "hours": round(trainer.seconds / 3600, 3),
        "metrics": {name: round(value, 3) for name, value in metrics.items()},
    }
    return json.dumps(facts, indent=1)
