"""The training loop on Lightning Fabric: one CPU, one GPU or many processes run the same steps."""

import logging
import math
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from flexavatar_cli.core.attributes import TexelAttributes
from flexavatar_cli.core.errors import InputError, UsageError
from flexavatar_cli.core.files import replacing
from flexavatar_cli.heads import load_head
from flexavatar_cli.media.images import write_png
from flexavatar_cli.model import AvatarModel, ModelCard, load_model
from flexavatar_cli.stages.encoding import MEAN_COLOR
from flexavatar_cli.stages.instruments import pick_device
from flexavatar_cli.stages.uv_completion import uv_features
from flexavatar_cli.training.batches import Batch
from flexavatar_cli.training.bench import Bench, make_bench, template_of
from flexavatar_cli.training.config import Phase, TrainConfig
from flexavatar_cli.training.distribution import load_optimiser, load_weights, make_strategy, split_like, whole
from flexavatar_cli.training.feed import Feed
from flexavatar_cli.training.objectives import picture_terms, uv_terms
from flexavatar_cli.training.perception import PerceptualDistance
from flexavatar_cli.training.preview import fed_sheet, preview_sheet
from flexavatar_cli.training.synthetic.pack import RESOLUTION, read_pack

log = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.pt"
FINAL_RATE = 0.01  # of the peak learning rate, end of the cosine
LONGEST_GRADIENT = 1.0  # norm that gradients are cut to
SHOWN = 12  # samples on the sheet of --show-data
AVERAGED = 0.995  # of the running average, that stays per step; less in the first steps

OnStep = Callable[[int, dict[str, float]], None]


@dataclass
class Position:
    """Where a run stands. Batches follow from seed and step, so this is the data position too."""

    step: int = 0
    seconds: float = 0.0
    phase: int = 0
    phase_step: int = 0
    phase_seconds: float = 0.0


def make_fabric(bfloat16: bool = False, device: str = "auto", strategy: str = "ddp") -> Fabric:
    """Fabric for this process: alone, or one of those that torchrun started."""
    world, local = (int(os.environ.get(name, 1)) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    chosen = pick_device(device)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces its settings
    fabric = Fabric(
        accelerator=chosen.type,
        devices=local if chosen.index is None else [chosen.index],
        num_nodes=world // local,
        strategy=make_strategy(strategy, world),
        precision="bf16-mixed" if bfloat16 else "32-true",
    )
    fabric.launch()
    return fabric


class Decoded(nn.Module):
    """The network with plain tensors as its output, which is what Fabric and DDP can look into."""

    def __init__(self, network: AvatarModel) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The fields of TexelAttributes, for the arguments of `AvatarModel`."""
        return tuple(vars(self.network(*inputs)[1]).values())


class Trainer:
    """Weights, optimiser and running average; goes on from the last checkpoint of `output`."""

    def __init__(
        self,
        config: TrainConfig,
        card: ModelCard,
        pack_folder: Path,
        output: Path,
        lpips: Path | None = None,  # ONNX file, for the perceptual term of rendered phases
        device: str = "auto",
    ) -> None:
        """Raises InputError for a folder that was not prepared, UsageError for batches that cannot be shared out."""
        self.config, self.output = config, output
        self.fabric = make_fabric(config.bfloat16, device, config.strategy)
        parts = self.fabric.world_size * config.accumulate
        if wrong := [phase.batch for phase in config.phases if phase.batch % parts]:
            raise UsageError(f"a batch of {wrong[0]} cannot be shared by {parts} processes or parts")
        self.head = load_head()
        self.pack = read_pack(pack_folder, self.head)
        self.perceptual = PerceptualDistance(lpips).to(self.fabric.device) if lpips else None
        template = template_of(self.head, card.network, RESOLUTION)
        self.network = AvatarModel(card.network, template, torch.Generator().manual_seed(config.seed), card)
        if config.initial:
            self._start_from(Path(config.initial))
        self.decoded = Decoded(self.network)
        self.model = self.fabric.setup_module(self.decoded)  # before the optimiser, which may get but pieces to work on
        optimiser = torch.optim.AdamW(self._groups(), lr=1e-3, betas=(0.9, 0.98))
        self.optimiser: Any = self.fabric.setup_optimizers(optimiser)
        self.average = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        self.position = Position()
        output.mkdir(parents=True, exist_ok=True)
        if (output / CHECKPOINT).exists():
            self._resume(output / CHECKPOINT)

    def _groups(self) -> list[dict]:
        skip, decayed, plain = [], [], []
        for name, parameter in self.network.named_parameters():
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

    def _start_from(self, folder: Path) -> None:
        try:
            self.network.load_state_dict(load_model(folder).state_dict())
        except RuntimeError as error:
            raise InputError(f"{folder}: not weights of this network ({str(error).splitlines()[0]})") from error

    def run(self, on_step: OnStep | None = None) -> None:
        """Train through the remaining phases, checkpointing as it goes."""
        while self.position.phase < len(self.config.phases):
            phase = self.config.phases[self.position.phase]
            with ThreadPoolExecutor(1) as painter:  # paints the next batch while this one is learned
                self._run_phase(phase, painter, on_step)
            self.position = replace(self.position, phase=self.position.phase + 1, phase_step=0, phase_seconds=0.0)
            self.save()

    def _run_phase(self, phase: Phase, painter: ThreadPoolExecutor, on_step: OnStep | None) -> None:
        here, feed, bench = self.position, Feed(self.config, phase, self.head, self.pack), self.bench(phase.resolution)
        self.network.set_template(bench.template)
        last_save = time.monotonic()
        painted = painter.submit(self.batches, feed, here.step)
        while (share := self._share(phase)) < 1:
            begin = time.monotonic()
            rate = phase.rate * min(1, (here.phase_step + 1) / self.config.warmup)
            rate *= FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * share))
            batches = painted.result()
            painted = painter.submit(self.batches, feed, here.step + 1)
            terms = self._one_step(bench, phase, batches, rate)
            spent = time.monotonic() - begin
            here.step, here.phase_step = here.step + 1, here.phase_step + 1
            here.seconds, here.phase_seconds = here.seconds + spent, here.phase_seconds + spent
            if on_step is not None and self.fabric.is_global_zero:
                on_step(here.step, terms | {"rate": rate, "seconds": here.seconds})
            if self.config.preview_steps and here.step % self.config.preview_steps == 0:
                self._preview(bench, phase, batches[0])
            if self.fabric.broadcast(time.monotonic() - last_save > self.config.checkpoint_minutes * 60):
                self.save()
                last_save = time.monotonic()

    def _share(self, phase: Phase) -> float:
        """How much of the phase is done, the same in all processes."""
        if phase.steps:
            return self.position.phase_step / phase.steps
        seconds: float = self.fabric.broadcast(self.position.phase_seconds)
        return seconds / (60 * phase.minutes)

    def bench(self, resolution: int) -> Bench:
        """Template, prior and rig on this process's device."""
        return make_bench(self.head, self.pack, self.network.config, resolution, self.fabric.device)

    def batches(self, feed: Feed, step: int) -> list[Batch]:
        """This process's parts of the batch of a step."""
        count = feed.phase.batch // (self.fabric.world_size * self.config.accumulate)
        first = [
            (part * self.fabric.world_size + self.fabric.global_rank) * count for part in range(self.config.accumulate)
        ]
        return [feed.batch(step, range(start, start + count)) for start in first]

    def _one_step(self, bench: Bench, phase: Phase, batches: list[Batch], rate: float) -> dict[str, float]:
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["scale"]
        terms = self.gradients(bench, phase, batches)
        self.fabric.clip_gradients(self.model, self.optimiser, max_norm=LONGEST_GRADIENT)
        self.optimiser.step()
        self._update_average()
        return terms

    def gradients(self, bench: Bench, phase: Phase, batches: list[Batch]) -> dict[str, float]:
        """Leave the gradients of the mean over parts and processes in the network; the terms, and their `total`."""
        self.optimiser.zero_grad(set_to_none=True)
        sums: dict[str, Tensor] = {}
        for number, batch in enumerate(batches, 1):
            with self.fabric.no_backward_sync(self.model, enabled=number < len(batches)):
                terms = self.terms(bench, phase, batch.to(self.fabric.device))
                terms["total"] = torch.stack(list(terms.values())).sum()
                self.fabric.backward(terms["total"] / len(batches))
            for name, value in terms.items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value.detach() / len(batches)
        names, values = list(sums), self.fabric.all_reduce(torch.stack(list(sums.values())))
        assert isinstance(values, Tensor)
        return dict(zip(names, values.tolist(), strict=True))

    def terms(self, bench: Bench, phase: Phase, batch: Batch) -> dict[str, Tensor]:
        """The weighted loss terms of a batch on this device; their sum is what is minimised."""
        attributes = self.attributes(self.model, bench, batch)
        terms = uv_terms(bench, batch, attributes)
        if phase.kind == "uv":
            return terms
        terms = {name: self.config.uv_weight * value for name, value in terms.items()}
        weight = self.config.perceptual_weight
        return terms | picture_terms(bench, batch.targets, attributes, self.perceptual, weight)

    def attributes(self, model: nn.Module, bench: Bench, batch: Batch) -> TexelAttributes:
        """What the network makes of a batch, in float32."""
        features = None
        if self.network.config.uv_features is not None:
            features = uv_features(bench.prior, batch.color, batch.seen, batch.facing, batch.hull)
        return TexelAttributes(*model(batch.image, batch.plucker, features, batch.expression, batch.sink))

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(AVERAGED, 1 - 1 / (1 + 0.1 * (self.position.step + 1)))
        for name, value in self.network.state_dict().items():
            self.average[name].lerp_(value, 1 - decay)

    def averaged(self) -> AvatarModel:
        """The model with the running average of its weights, at full resolution, in eval mode, on the CPU.

        All processes must ask for it: each may hold but a piece.
        """
        here = self.position
        notes = {"status": "trained", "stage": self._stage(), "steps": here.step}
        notes["hours"] = round(here.seconds / 3600, 2)
        card = replace(self.network.card, head_digest=self.head.digest, notes=notes)
        template = template_of(self.head, card.network, RESOLUTION)
        model = AvatarModel(self.network.config, template, card=card, fill_weights=False)
        model.load_state_dict(whole(self.average))
        return model.eval()

    def _stage(self) -> int:
        begun = self.config.phases[: self.position.phase + 1]
        return 2 if any(phase.kind == "rendered" for phase in begun) else 1

    def save(self) -> None:
        """Checkpoint and averaged weights, each replaced atomically, by the first process."""
        state = {"model": self.network.state_dict(), "average": self.average} | asdict(self.position)
        state = whole(state | {"optimiser": self.optimiser.state_dict()})
        averaged = self.averaged()
        if self.fabric.is_global_zero:
            with replacing(self.output / CHECKPOINT) as temporary:
                torch.save(state, temporary)
            averaged.save(self.output / "model")
            mean = self.head.texels(RESOLUTION).scatter(torch.from_numpy(self.pack.materials.mean_color))
            write_png(self.output / "model" / MEAN_COLOR, mean.numpy())
        self.fabric.barrier()

    def _resume(self, path: Path) -> None:
        state = torch.load(path, map_location="cpu", weights_only=True)
        try:
            load_weights(self.network, state.pop("model"))
            self.average = {name: split_like(value, self.average[name]) for name, value in state.pop("average").items()}
            load_optimiser(self.optimiser, state.pop("optimiser"))
            self.position = Position(**state)
        except (RuntimeError, KeyError, TypeError) as error:
            raise InputError(f"{path}: not a checkpoint of this network ({str(error).splitlines()[0]})") from error
        log.info("goes on at step %d", self.position.step)

    def fed_sheet(self) -> np.ndarray:  # [h, w, 3]
        """What the next batches of the present phase, or of the last one, are made of."""
        phase = self.config.phases[min(self.position.phase, len(self.config.phases) - 1)]
        feed = Feed(self.config, phase, self.head, self.pack)
        return fed_sheet(self.bench(phase.resolution), feed.batch(self.position.step, range(SHOWN)))

    def _preview(self, bench: Bench, phase: Phase, batch: Batch) -> None:
        there = batch.to(self.fabric.device)
        with torch.no_grad():
            with self.fabric.autocast():  # by all processes, each of which may hold but a piece
                attributes = self.attributes(self.decoded, bench, there)
            if self.fabric.is_global_zero:
                picture = preview_sheet(bench, there, attributes.map(torch.Tensor.float))
                write_png(self.output / "previews" / f"step-{self.position.step:06d}.png", picture)
