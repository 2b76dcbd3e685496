"""Fitting as published (SPEC 11): Adam on the whole code, one random picture a step, white ground; and a variant.

Network, cameras and, in the preset `paper`, expression codes stay as they are. The preset `default` of models with a
static anchor also moves each picture's expression coefficients, which the published program declares but never uses.
"""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from flexavatar_cli.core.avatar import Avatar
from flexavatar_cli.core.files import digest_bytes, replacing
from flexavatar_cli.core.flame import EXPRESSIONS
from flexavatar_cli.core.options import FitOptions
from flexavatar_cli.render import render
from flexavatar_cli.stages.animation import Puppet, puppet
from flexavatar_cli.stages.instruments import SINKS, Instruments
from flexavatar_cli.stages.observation import Observation
from flexavatar_cli.stages.perceptual import published_terms
from flexavatar_cli.stages.rig import settled
from flexavatar_cli.stages.similarity import structural_dissimilarity

log = logging.getLogger(__name__)

FIRST_RATE, LAST_RATE = 1e-2, 5e-4
L1_WEIGHT, SSIM_WEIGHT = 0.8, 0.2
OFFSET_RATE = 1e-2  # of expression coefficients, about N(0, 1)
CHECKPOINT_STEPS = 50


def cosine_rate(step: int, steps: int) -> float:
    """The learning rate of a step, from FIRST_RATE down to LAST_RATE."""
    return LAST_RATE + (FIRST_RATE - LAST_RATE) * 0.5 * (1 + math.cos(math.pi * step / steps))


def fit_published(
    avatar: Avatar,
    observations: Sequence[Observation],
    instruments: Instruments,
    options: FitOptions,
    seed: int = 0,
    on_step: Callable[[int, int], None] | None = None,
    checkpoint: Path | None = None,
) -> Avatar:
    """The avatar after `options.steps` steps over the observations; a killed run goes on from its `checkpoint`."""
    return PublishedFitter(avatar, observations, instruments, options, seed, checkpoint).run(on_step)


class PublishedFitter:
    """The optimisation's state."""

    def __init__(
        self,
        avatar: Avatar,
        observations: Sequence[Observation],
        instruments: Instruments,
        options: FitOptions,
        seed: int,
        checkpoint: Path | None,
    ) -> None:
        self.avatar, self.observations, self.options, self.seed = avatar, observations, options, seed
        self.figure: Puppet = replace(puppet(avatar, instruments), quick=None)  # the quick anchor has no gradients
        self.device, self.backend = instruments.device, instruments.backend
        self.model = instruments.model
        self.code = self.figure.code[None].clone().requires_grad_(True)
        self.sink = torch.tensor([SINKS[avatar.bias_sink]], device=self.device)
        flame = instruments.model.card.expression_layout == "flame"
        moving = EXPRESSIONS if flame and options.preset != "paper" else 0
        self.offsets = torch.zeros(len(observations), moving, device=self.device).requires_grad_(True)
        groups = [{"params": [self.code], "lr": FIRST_RATE, "first": FIRST_RATE}]
        if moving:
            groups.append({"params": [self.offsets], "lr": OFFSET_RATE, "first": OFFSET_RATE})
        self.adam = torch.optim.Adam(groups)
        self.terms, self.missing = published_terms(self.device)
        self.step = 0
        self.trace: list[float] = []
        self.checkpoint = checkpoint
        self.key = digest_bytes(
            avatar.digest.encode(),
            repr([term.name for term in self.terms]).encode(),
            repr(options).encode(),
            str(seed).encode(),
            *(o.image.tobytes() for o in observations),
        )
        if checkpoint is not None and checkpoint.exists():
            self._resume(checkpoint)

    def run(self, on_step: Callable[[int, int], None] | None) -> Avatar:
        """All remaining steps."""
        steps = self.options.steps
        terms = ", ".join(["L1", "SSIM", *(term.name for term in self.terms)])
        log.info("fitting as published, %d pictures; loss: %s", len(self.observations), terms)
        for entry in self.missing:
            log.warning("fitting: without the published term %s", entry)
        while self.step < steps:
            share = cosine_rate(self.step, steps) / FIRST_RATE
            for group in self.adam.param_groups:
                group["lr"] = group["first"] * share
            self.trace.append(self._one_step())
            self.step += 1
            if on_step is not None:
                on_step(self.step, steps)
            if self.checkpoint is not None and self.step % CHECKPOINT_STEPS == 0 and self.step < steps:
                self._save(self.checkpoint)
        facts = {
            "preset": self.options.preset,
            "steps": steps,
            "observations": len(self.observations),
            "seed": self.seed,
            "loss": [round(self.trace[0], 6), round(float(np.mean(self.trace[-20:])), 6)],
            "terms": ["L1", "SSIM", *(term.name for term in self.terms)],
            "without": self.missing,
        }
        return self.avatar.with_code(self.code.detach()[0].cpu().numpy(), fit=facts)

    def _one_step(self) -> float:
        number = int(np.random.default_rng((self.seed, self.step)).integers(len(self.observations)))
        seen = self.observations[number]
        self.adam.zero_grad()
        loss = self.loss(seen, number)
        loss.backward()
        self.adam.step()
        return float(loss.detach())

    def loss(self, seen: Observation, number: int) -> Tensor:
        """0.8 L1 + 0.2 (1 - SSIM) + SAM + DINO, where they are here, between render and picture on white."""
        expression = torch.from_numpy(seen.expression).to(self.device)
        moving = self.offsets.shape[1]
        if moving:
            expression = torch.cat([expression[:moving] + self.offsets[number], expression[moving:]])
        attributes = self.model.decode(self.code, expression[None], self.sink)
        if self.figure.anchor is not None:
            attributes = settled(self.figure.anchor, attributes)
        head = self.figure.pose(attributes, expression)
        rgb, _ = render(head, seen.camera, background=(1.0, 1.0, 1.0), backend=self.backend)
        target = torch.from_numpy(seen.image).to(self.device).float() / 255
        plain = (rgb[0] - target).abs().mean()
        loss = L1_WEIGHT * plain + SSIM_WEIGHT * structural_dissimilarity(rgb[0], target)
        for term in self.terms:
            loss = loss + term(rgb[0], target)
        return loss

    def _save(self, path: Path) -> None:
        state = {"key": self.key, "step": self.step, "code": self.code.detach(), "offsets": self.offsets.detach()}
        state |= {"adam": self.adam.state_dict(), "trace": self.trace}
        with replacing(path) as temporary:
            torch.save(state, temporary)

    def _resume(self, path: Path) -> None:
        state = torch.load(path, map_location=self.device, weights_only=True)
        if state.get("key") != self.key:
            return
        with torch.no_grad():
            self.code.copy_(state["code"])
            self.offsets.copy_(state["offsets"])
        self.adam.load_state_dict(state["adam"])
        self.step, self.trace = state["step"], state["trace"]
        log.info("fitting goes on at step %d", self.step)
