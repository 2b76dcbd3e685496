"""The published objective (SPEC 11): Adam on the whole code, one random picture a step, white ground; and a variant.

Network, cameras and, in the preset `paper`, expression codes stay as they are. The preset `default` of models with a
static anchor also moves each picture's expression coefficients, which the published program declares but never uses,
and its camera.
"""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flexavatar_cli.core.avatar import Avatar
from flexavatar_cli.core.flame import EXPRESSIONS
from flexavatar_cli.core.options import FitOptions
from flexavatar_cli.stages.instruments import Instruments
from flexavatar_cli.stages.observation import Observation
from flexavatar_cli.stages.optimisation import Objective
from flexavatar_cli.stages.perceptual import published_terms
from flexavatar_cli.stages.similarity import structural_dissimilarity

log = logging.getLogger(__name__)

CODE_RATE = 1e-2
OFFSET_RATE = 1e-2  # of expression coefficients, about N(0, 1)
L1_WEIGHT, SSIM_WEIGHT = 0.8, 0.2


class PublishedObjective(Objective):
    """The published terms: code, expression offsets where they move, Adam's moments."""

    def __init__(
        self,
        avatar: Avatar,
        observations: Sequence[Observation],
        instruments: Instruments,
        options: FitOptions,
        seed: int = 0,
    ) -> None:
        super().__init__(avatar, observations, instruments, options, seed)
        flame = instruments.model.card.expression_layout == "flame"
        moving = EXPRESSIONS if flame and options.preset != "paper" else 0
        self.offsets = torch.zeros(len(observations), moving, device=self.device).requires_grad_(True)
        groups = [{"params": [self.code], "lr": CODE_RATE, "first": CODE_RATE}]
        if moving:
            groups.append({"params": [self.offsets], "lr": OFFSET_RATE, "first": OFFSET_RATE})
        self.adam = torch.optim.Adam(groups)
        self.terms, self.missing = published_terms(self.device)
        log.info("fitting as published, %d pictures; loss: %s", len(observations), ", ".join(self.names))
        for entry in self.missing:
            log.warning("fitting: without the published term %s", entry)

    @property
    def names(self) -> list[str]:
        """The terms of the loss."""
        return ["L1", "SSIM", *(term.name for term in self.terms)]

    def advance(self, number: int, generator: np.random.Generator, share: float) -> float:
        """One step of Adam."""
        for group in self.adam.param_groups:
            group["lr"] = group["first"] * share
        loss = self.loss(number)
        moving = [value for group in self.adam.param_groups for value in group["params"]]
        for value, gradient in zip(moving, self.gradients(loss, number, share, *moving[1:]), strict=True):
            value.grad = gradient
        self.adam.step()
        return float(loss.detach())

    def loss(self, number: int) -> Tensor:
        """0.8 L1 + 0.2 (1 - SSIM) + SAM + DINO, where they are here, between render and picture on white."""
        expression = self.expression(number)
        moving = self.offsets.shape[1]
        if moving:
            expression = torch.cat([expression[:moving] + self.offsets[number], expression[moving:]])
        head = self.figure.pose(self.decode(self.code, expression), expression)
        rgb, _ = self.render(head, number, torch.ones(3, device=self.device))
        target = self.unit(self.observations[number].image)
        loss = L1_WEIGHT * (rgb - target).abs().mean() + SSIM_WEIGHT * structural_dissimilarity(rgb, target)
        for term in self.terms:
            loss = loss + term(rgb, target)
        return loss

    def state(self) -> dict[str, Any]:
        """Expression offsets and Adam's moments."""
        return {"offsets": self.offsets.detach(), "adam": self.adam.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over expression offsets and moments."""
        with torch.no_grad():
            self.offsets.copy_(state["offsets"])
        self.adam.load_state_dict(state["adam"])

    def facts(self, trace: Sequence[float]) -> dict[str, Any]:
        """Also the preset, the terms of the loss and those that were not to be had."""
        found = {"preset": self.options.preset, "terms": self.names, "without": self.missing}
        return super().facts(trace) | found

    @property
    def key(self) -> str:
        """Terms that were to be had decide the result too."""
        return super().key + "".join(f" {name}" for name in self.names)
