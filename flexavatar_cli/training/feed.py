"""Which samples a step learns from: decided by seed, step and place in the batch alone, whoever draws them."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from flexavatar_cli.core.errors import InputError
from flexavatar_cli.core.expression import INDEX
from flexavatar_cli.heads import HeadModel
from flexavatar_cli.training.batches import MONOCULAR, Batch, Batcher, collate
from flexavatar_cli.training.config import Phase, TrainConfig
from flexavatar_cli.training.rows import Column
from flexavatar_cli.training.synthetic.pack import Pack
from flexavatar_cli.training.targets import SIDES, Studio

LOW_HULL = np.float32(0.01)  # metres: what is left of a hull hint that is flattened


class Feed:
    """Draws the batches of one phase."""

    def __init__(self, config: TrainConfig, phase: Phase, head: HeadModel, pack: Pack) -> None:
        """Raises InputError if the folder lacks arrays."""
        self.config, self.phase, self.pack = config, phase, pack
        if "identity" not in pack.views or (pack.portraits and not {"alpha", "clip", "native"} <= set(pack.portraits)):
            raise InputError("the training folder is of an older make; run `flexavatar prepare` again")
        self.clips = np.asarray(pack.portraits.get("clip", ()))
        self.recorded = Recorded(pack.recordings) if pack.recordings else None
        self.batcher = Batcher(head, pack, phase.resolution, Studio(head) if phase.kind == "rendered" else None)

    def batch(self, step: int, places: range) -> Batch:
        """The samples at these places of the batch of this step."""
        samples = [self._sample(np.random.default_rng((self.config.seed, step, place))) for place in places]
        if not self.config.guarded_portraits:
            samples = [unguarded(sample) if sample["sink"] == MONOCULAR else sample for sample in samples]
        return as_configured(self.config, collate(samples))

    def _sample(self, generator: np.random.Generator) -> dict[str, Any]:
        monocular = self.phase.monocular_share if len(self.clips) else 0.0
        recorded = self.phase.recording_share if self.recorded else 0.0
        dice = generator.random() if len(self.clips) or self.recorded else 1.0
        if dice < monocular:
            row = int(generator.integers(len(self.clips)))
            clip = np.flatnonzero(self.clips == self.clips[row])
            return self.batcher.portrait(row, int(generator.choice(clip)), generator)
        if self.recorded is not None and dice < monocular + recorded:
            row, shown = self.recorded.draw(self.phase.views, self.config.sinks == "side", generator)
            sample = self.batcher.recorded(row, shown, generator)
            if self.config.sinks == "side":
                sample["sink"] = np.int64(MONOCULAR + 1 + self.recorded.side[shown[0]])
            return sample
        views = self.pack.views
        row = int(generator.integers(len(views["seen"])))
        one_sided = row >= self.config.multi_view_share * len(views["seen"])
        side = int(generator.integers(SIDES)) if self.config.sinks == "side" and not one_sided else None
        count = self.phase.views
        sample = self.batcher.synthetic(views, self.pack.skins, row, generator, True, count, side, one_sided)
        if side is not None:
            sample["sink"] = np.int64(MONOCULAR + 1 + side)
        if generator.random() < self.config.hint_dropout:
            sample["hull"] = np.minimum(sample["hull"], LOW_HULL)
        return sample


def unguarded(sample: dict[str, Any]) -> dict[str, Any]:
    """A sample whose picture may teach all Gaussians, also those that face away from it, and whose texels nothing."""
    free = sample | {name: np.zeros_like(sample[name]) for name in ("weight", "height_weight")}
    if "compared" in sample:
        free["compared"] = replace(sample["compared"], one_sided=False)
    return free


class Recorded:
    """Which pictures of calibrated recordings go together."""

    def __init__(self, columns: dict[str, Column]) -> None:
        self.person, self.moment = np.asarray(columns["clip"]), np.asarray(columns["moment"])
        self.inputs = np.flatnonzero(np.asarray(columns["input"]))
        eye = np.asarray(columns["cam2world"])[:, :3, 3]
        azimuth = np.arctan2(eye[:, 0], eye[:, 2])
        self.side = np.round(azimuth / (2 * np.pi / SIDES)).astype(int) % SIDES

    def draw(self, views: int, one_side: bool, generator: np.random.Generator) -> tuple[int, list[int]]:
        """A picture that shows the face, and up to `views` others of any moment of that person, from anywhere.

        With `one_side` all of them stand on the same quarter of the circle.
        """
        row = int(generator.choice(self.inputs))
        other = (self.person == self.person[row]) & (np.arange(len(self.person)) != row)
        moment = generator.choice(np.unique(self.moment[other]))
        around = np.flatnonzero(other & (self.moment == moment))
        if one_side:
            around = around[self.side[around] == self.side[generator.choice(around)]]
        shown = generator.choice(around, min(views, len(around)), replace=False)
        return row, [int(at) for at in shown]


def as_configured(config: TrainConfig, batch: Batch) -> Batch:
    """The batch with the sinks and the expression code that the network of this run knows."""
    if config.sinks == "none":
        batch = replace(batch, sink=torch.zeros_like(batch.sink))
    columns = [INDEX[name] for name in config.expression_names]
    return replace(batch, expression=batch.expression[:, columns]) if columns else batch
