"""Run by `torchrun` in test_engine: the gradients that two processes agree on."""

import sys
from pathlib import Path

import torch

from flexavatar_cli.model import ModelCard
from flexavatar_cli.model.config import read_card
from flexavatar_cli.training.config import Phase, TrainConfig
from flexavatar_cli.training.engine import Trainer
from flexavatar_cli.training.feed import Feed


def first_gradients(card: ModelCard, pack: Path, folder: Path, accumulate: int) -> dict[str, torch.Tensor]:
    """Gradients of the first step of a batch of two."""
    phase = Phase(256, 2, 1e-3, steps=1)
    trainer = Trainer(TrainConfig(model="", phases=(phase,), seed=1, accumulate=accumulate), card, pack, folder)
    batches = trainer.batches(Feed(trainer.config, phase, trainer.head, trainer.pack), 0)
    trainer.gradients(trainer.bench(256), phase, batches)
    found = {name: value.grad for name, value in trainer.network.named_parameters() if value.grad is not None}
    if trainer.fabric.is_global_zero:
        torch.save(found, folder / "gradients.pt")
    return found


if __name__ == "__main__":
    place = Path(sys.argv[1])
    first_gradients(read_card(place / "model.yaml"), Path(sys.argv[2]), place, 1)
