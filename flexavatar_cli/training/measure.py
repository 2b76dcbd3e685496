"""How well a network completes heads that training never saw, in texels."""

import json
import math
from dataclasses import asdict

import numpy as np
import torch
from torch import Tensor

from flexavatar_cli.model import AvatarModel
from flexavatar_cli.stages.uv_completion import uv_features
from flexavatar_cli.training.batches import Batcher, collate
from flexavatar_cli.training.bench import make_bench
from flexavatar_cli.training.engine import Trainer
from flexavatar_cli.training.feed import as_configured
from flexavatar_cli.training.synthetic.pack import RESOLUTION


def evaluate(trainer: Trainer, model: AvatarModel, seed: int = 1, limit: int = 40) -> dict[str, float]:
    """Colour PSNR (dB) and displacement error (cm) on styles and skins that training never saw, beside the closed form.

    `base_*` is what the closed-form completion and hull reach on the same texels without the network.
    """
    return {name: float(np.mean(values)) for name, values in completions(trainer, model, seed, limit).items()}


def completions(
    trainer: Trainer, model: AvatarModel, seed: int = 1, limit: int = 40, resolution: int = RESOLUTION
) -> dict[str, list[float]]:
    """What `evaluate` tells the means of, head by head, on texel grids of `resolution`, which the model is set to."""
    config, head, pack = trainer.config, trainer.head, trainer.pack
    bench = make_bench(head, pack, model.config, resolution, torch.device("cpu"))
    model.set_template(bench.template)
    prior = bench.prior
    batcher = Batcher(head, pack, resolution)
    views = pack.held_views
    sums: dict[str, list[float]] = {}
    scalp = torch.from_numpy(batcher.painter.scalp[batcher.rows] > 0.5)
    with torch.no_grad():
        for row in range(min(limit, len(views["seen"]))):
            generator = np.random.default_rng((seed, row))
            batch = collate([batcher.synthetic(views, pack.held_skins, row, generator, augment=False)])
            features = uv_features(prior, batch.color, batch.seen, batch.facing, batch.hull)
            given = features if model.config.uv_features is not None else None
            known = as_configured(config, batch)
            _, attributes = model(batch.image, batch.plucker, given, known.expression, known.sink)
            base = features[:, :3].flatten(2).transpose(1, 2)[:, prior.index] + 0.5
            seen, trusted = batch.seen[0] > 0.5, batch.weight[0] > 0.5
            unseen = batch.seen[0] < 0.05
            for label, color in (("", attributes.color), ("base_", base)):
                squared = ((color.clamp(0, 1) - batch.target)[0] ** 2).mean(-1)
                sums.setdefault(f"{label}seen_db", []).append(_db(squared[seen & trusted]))
                sums.setdefault(f"{label}unseen_db", []).append(_db(squared[unseen & trusted]))
                sums.setdefault(f"{label}scalp_db", []).append(_db(squared[scalp]))
            heights = {"": attributes.offset[0, :, 2], "base_": batch.hull[0]}
            if model.config.anchor == "static":  # its offsets are no displacements
                del heights[""]
            for label, height in heights.items():
                error = (height - batch.height[0]).abs()[scalp].mean()
                sums.setdefault(f"{label}scalp_cm", []).append(float(error) * 100)
    return sums


def _db(squared: Tensor) -> float:
    return -10 * math.log10(max(float(squared.mean()), 1e-8)) if len(squared) else float("nan")


def describe(trainer: Trainer, metrics: dict[str, float]) -> str:
    """Facts of a run as JSON, for the model card."""
    facts = {
        "config": asdict(trainer.config),
        "data_digest": trainer.pack.digest,
        "steps": trainer.position.step,
        "hours": round(trainer.position.seconds / 3600, 3),
        "metrics": {name: round(value, 3) for name, value in metrics.items()},
    }
    return json.dumps(facts, indent=1)
