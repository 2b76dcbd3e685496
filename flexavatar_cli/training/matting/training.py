"""Training of the matting network by the clock, resumable, with averaged weights."""

import copy
import functools
import json
import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import yaml
from torch import Tensor
from torch.utils.data import DataLoader

from flexavatar_cli.core.errors import UsageError
from flexavatar_cli.core.files import replacing
from flexavatar_cli.training.matting.composites import Stream
from flexavatar_cli.training.matting.crops import crops, edge_corners, heard_guide
from flexavatar_cli.training.matting.initial import start_from
from flexavatar_cli.training.matting.losses import matting_losses, semantic_loss
from flexavatar_cli.training.matting.network import REDUCTION, MattingNetwork, enlarged

log = logging.getLogger(__name__)

AVERAGING = 0.998  # decay of the averaged weights per step
LOG_EVERY = 20  # steps
NORM_LIMIT = 1.0


@dataclass(frozen=True)
class Phase:
    """One stretch of training at one picture size."""

    side: int  # pixels
    minutes: float
    batch: int
    rate: float  # peak learning rate
    reduction: int = REDUCTION  # of what the semantic branch sees; 0: it is trained alone, on what it sees
    crop: int = 0  # pixels; if not 0, the detail branch alone is trained, on crops at hair and other soft edges
    crops: int = 4  # of each picture
    guided: bool = False  # a segmentation comes with most pictures; with crops it does anyway
    echo: bool = False  # half of every batch is seen again, mirrored, in the next one: pictures cost what steps cost


@dataclass(frozen=True)
class MattingConfig:
    """`models/matting/train.yaml`."""

    kind: str  # "matting": what `flexavatar train` tells configurations apart by
    seed: int
    phases: tuple[Phase, ...]
    initial: str = ""  # an exported file whose weights a new run starts from; "" = random ones
    semantics: str = ""  # another one, whose semantic branch it starts from instead
    weight_decay: float = 0.01
    warmup: int = 100  # steps
    checkpoint_minutes: float = 3.0
    bfloat16: bool = False  # three times slower on CPUs without instructions for it, 1.7 times faster on a Zen 4


def read_config(path: Path) -> MattingConfig:
    """The configuration in `path`. Raises UsageError naming what is wrong."""
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
        phases = tuple(Phase(**phase) for phase in settings.pop("phases"))
        return MattingConfig(phases=phases, **settings)
    except (OSError, yaml.YAMLError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(f"{path}: not a configuration of the matting net ({error})") from error


def train(config: Path, pack: Path, output: Path, say: Callable[[str], None]) -> dict[str, object]:
    """Train by the configuration on a pack, or go on; what came of it. Each 20th step goes to `output/log.jsonl`."""
    trainer = Trainer(read_config(config), pack, output)
    say(f"training the matting net from step {trainer.step}")

    def on_step(step: int, terms: dict[str, float]) -> None:
        if step % LOG_EVERY == 0:
            with open(output / "log.jsonl", "a", encoding="utf-8") as stream:
                stream.write(json.dumps({"step": step} | {name: round(part, 5) for name, part in terms.items()}) + "\n")
            loss = sum(value for name, value in terms.items() if name not in ("rate", "minutes"))
            say(f"step {step}: loss {loss:.4f}, {terms['minutes']:.1f} minutes")

    trainer.run(on_step)
    return {"run": output, "steps": trainer.step, "minutes": round(trainer.seconds / 60, 1)}


class Trainer:
    """A network, its averaged twin and its optimiser; goes on from `output/state.pt` if it is there."""

    def __init__(self, config: MattingConfig, pack: Path, output: Path) -> None:
        self.config, self.pack, self.output = config, pack, output
        torch.manual_seed(config.seed)
        self.network = MattingNetwork().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.network).eval().requires_grad_(False)
        self.optimiser = torch.optim.AdamW(self.network.parameters(), lr=1e-3, weight_decay=config.weight_decay)
        self.step, self.seconds, self.phase, self.phase_start = 0, 0.0, 0, 0
        output.mkdir(parents=True, exist_ok=True)
        if self.state_file.is_file():
            state = torch.load(self.state_file, weights_only=True)
            self.network.load_state_dict(state["network"])
            self.average.load_state_dict(state["average"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.step, self.seconds = state["step"], state["seconds"]
            self.phase, self.phase_start = state["phase"], state["phase_start"]
        elif config.initial:
            samples = next(iter(Stream(pack, 512, 8, config.seed, guided=True)))
            start_from(
                self.network, Path(config.initial), *samples, Path(config.semantics) if config.semantics else None
            )
            self.average.load_state_dict(self.network.state_dict())

    @property
    def state_file(self) -> Path:
        """Everything that going on needs."""
        return self.output / "state.pt"

    def save(self) -> None:
        """Write the state, beside and renamed."""
        state = {"network": self.network.state_dict(), "average": self.average.state_dict()}
        state |= {
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "phase": self.phase,
            "phase_start": self.phase_start,
        }
        with replacing(self.state_file) as temporary:
            torch.save(state, temporary)
        facts = {"steps": self.step, "minutes": round(self.seconds / 60, 1), "config": asdict(self.config)}
        (self.output / "facts.json").write_text(json.dumps(facts, indent=1))

    def run(self, on_step: Callable[[int, dict[str, float]], None] | None = None) -> None:
        """Train until the minutes of every phase are spent."""
        end = 0.0
        for number, phase in enumerate(self.config.phases):
            begin, end = end, end + 60 * phase.minutes
            if self.seconds < end:
                self.run_phase(phase, number, begin, end, on_step)
        self.save()

    def run_phase(
        self,
        phase: Phase,
        number: int,
        begin: float,
        end: float,
        on_step: Callable[[int, dict[str, float]], None] | None,
    ) -> None:
        """Train from `begin` to `end` seconds of the whole; it starts from the averaged weights of what was before."""
        if number != self.phase:
            self.network.load_state_dict(self.average.state_dict())
            self.phase, self.phase_start = number, self.step
        seed = self.config.seed + 1000 * number + self.step
        fresh = phase.batch // (1 + phase.echo)
        stream = Stream(self.pack, phase.side, fresh, seed, phase.guided or phase.crop > 0, phase.crop > 0)
        clock = saved = time.monotonic()
        # spawned: a fork of a process whose OpenMP threads have started waits for ever for threads it does not have
        loader = DataLoader(stream, batch_size=None, num_workers=1, prefetch_factor=4, multiprocessing_context="spawn")
        earlier: tuple[Tensor, Tensor] | None = None
        for image, truth in loader:
            if phase.echo:
                mirrored = image.flip(3), truth.flip(3)
                if earlier is not None:
                    image, truth = torch.cat([image, earlier[0]]), torch.cat([truth, earlier[1]])
                earlier = mirrored
            done = (self.seconds - begin) / (end - begin)
            rate = (
                phase.rate
                * min(1.0, (self.step + 1) / self.config.warmup)
                * (0.02 + 0.49 * (1 + math.cos(math.pi * done)))
            )
            terms = self.update(image, truth, rate, phase)
            now = time.monotonic()
            self.seconds, clock = self.seconds + now - clock, now
            if on_step is not None:
                on_step(self.step, terms | {"rate": rate, "minutes": self.seconds / 60})
            if now - saved > 60 * self.config.checkpoint_minutes:
                self.save()
                saved = now
            if self.seconds >= end:
                break

    def update(self, image: Tensor, truth: Tensor, rate: float, phase: Phase) -> dict[str, float]:
        """One step; the terms of the loss."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.network.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.bfloat16):
            image = image.contiguous(memory_format=torch.channels_last)
            if phase.crop:
                terms = self.detail_terms(image, truth, phase)
            elif phase.reduction == 0:
                semantic = self.network.meaning(image, heard_guide(truth, 2), 1)[0]
                terms = {"semantic": semantic_loss(semantic.float(), truth[:, :1], truth[:, 1:2])}
            else:
                terms = matting_losses(self.network.branches(image, heard_guide(truth, 4), phase.reduction), truth)
        self.optimiser.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), NORM_LIMIT)
        self.optimiser.step()
        self.step += 1
        age = self.step - self.phase_start  # what a phase trains anew must not drag its random start along
        keep = min(AVERAGING, (1 + age) / (10 + age))
        with torch.no_grad():
            for slow, fast in zip(self.average.state_dict().values(), self.network.state_dict().values()):
                if slow.dtype.is_floating_point:
                    slow.lerp_(fast, 1 - keep)
                else:
                    slow.copy_(fast)
        return {name: float(value.detach()) for name, value in terms.items()}

    def detail_terms(self, image: Tensor, truth: Tensor, phase: Phase) -> dict[str, Tensor]:
        """The terms of the detail branch on crops, the semantic branch as it is."""
        guide = heard_guide(truth, 4)
        with torch.no_grad():
            self.network.eval()
            meaning = self.network.meaning(image, guide, phase.reduction)[1]
            meaning = enlarged(meaning, image[:, :, ::4, ::4])
            self.network.train()
        corners = edge_corners(truth[:, 2], phase.crop, phase.crops)
        cut = functools.partial(crops, corners=corners, side=phase.crop)
        pictures = cut(image).contiguous(memory_format=torch.channels_last)
        detail, fused = self.network.refined(pictures, cut(meaning, stride=4), cut(guide, stride=4))
        return matting_losses((None, detail, fused), cut(truth))
