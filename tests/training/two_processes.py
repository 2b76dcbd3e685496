"""Run by `torchrun` in test_distribution: what two processes find, as `ddp.pt` and `fsdp.pt`."""

import sys
from pathlib import Path

import torch

from flexavatar_cli.model import ModelCard
from flexavatar_cli.model.config import read_card
from flexavatar_cli.training.config import Phase, TrainConfig
from flexavatar_cli.training.distribution import whole
from flexavatar_cli.training.engine import Trainer
from flexavatar_cli.training.feed import Feed

PHASE = Phase(256, 2, 1e-3, steps=2)


def make_trainer(card: ModelCard, pack: Path, folder: Path, **changes) -> Trainer:
    """A trainer of two steps on two samples, or of what is left of them."""
    return Trainer(
        TrainConfig(model="", phases=(PHASE,), seed=7, checkpoint_minutes=0.0, **changes), card, pack, folder
    )


def first_gradients(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Gradients of the first step."""
    batches = trainer.batches(Feed(trainer.config, PHASE, trainer.head, trainer.pack), 0)
    trainer.gradients(trainer.bench(256), PHASE, batches)
    return {name: whole(value.grad) for name, value in trainer.network.named_parameters() if value.grad is not None}


def curve(trainer: Trainer, until: int = 99) -> list[float]:
    """Losses of the steps that are left; all processes are killed when step `until` is done and saved."""
    losses: list[float] = []
    share = trainer._share

    def killed(phase: Phase) -> float:
        if trainer.position.step == until:
            raise KeyboardInterrupt
        return share(phase)

    trainer._share = killed  # type: ignore[method-assign]
    try:
        trainer.run(lambda step, terms: losses.append(terms["total"]))
    except KeyboardInterrupt:
        assert until == trainer.position.step
    return losses


if __name__ == "__main__":
    place, pack = Path(sys.argv[1]), Path(sys.argv[2])
    card = read_card(place / "model.yaml")
    found = {"gradients": first_gradients(make_trainer(card, pack, place / "ddp", strategy="ddp"))}
    torch.save(found, place / "ddp.pt")
    trainer = make_trainer(card, pack, place / "fsdp", strategy="fsdp")
    pieces = {name: value.to_local().numel() for name, value in trainer.network.named_parameters()}
    again = {"gradients": first_gradients(trainer), "losses": curve(trainer, until=1)}
    again["losses"] += curve(make_trainer(card, pack, place / "fsdp", strategy="fsdp"))
    if trainer.fabric.is_global_zero:
        torch.save(again | {"held": sum(pieces.values())}, place / "fsdp.pt")
