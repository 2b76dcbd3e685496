"""The loop that every fit runs: one observation a step, a rate that falls, checkpoints; and what an objective is."""

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flexavatar_cli.core.attributes import TexelAttributes
from flexavatar_cli.core.avatar import Avatar
from flexavatar_cli.core.files import digest_bytes, replacing
from flexavatar_cli.core.gaussians import Gaussians
from flexavatar_cli.core.options import FitOptions
from flexavatar_cli.render import render
from flexavatar_cli.stages.animation import Puppet, puppet
from flexavatar_cli.stages.camera_refinement import CameraRefinement
from flexavatar_cli.stages.instruments import Instruments
from flexavatar_cli.stages.observation import Observation
from flexavatar_cli.stages.rig import expressed
from flexavatar_cli.stages.workfolder import program_digest

log = logging.getLogger(__name__)

CHECKPOINT_STEPS = 50
FINAL_RATE = 5e-2  # of the first learning rate, end of the cosine (SPEC 11: 1e-2 to 5e-4)
TAIL = 20  # steps whose mean is the loss that is reported


def rate_share(step: int, steps: int) -> float:
    """The learning rate of a step as a share of the first one: a cosine from 1 down to FINAL_RATE."""
    return FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * step / steps))


class Objective(ABC):
    """What a fit optimises: the avatar code, and what moves along with it, by the loss of one observation a step."""

    def __init__(
        self,
        avatar: Avatar,
        observations: Sequence[Observation],
        instruments: Instruments,
        options: FitOptions,
        seed: int,
    ) -> None:
        self.avatar, self.observations, self.options, self.seed = avatar, observations, options, seed
        self.figure: Puppet = replace(puppet(avatar, instruments), quick=None)  # the quick anchor has no gradients
        self.made_with = instruments.digests
        self.model, self.device, self.backend = instruments.model, instruments.device, instruments.backend
        self.sink = torch.tensor([self.figure.sink], device=self.device)
        self.start = self.figure.code[None]
        self.code = self.start.clone().requires_grad_(True)
        refined = options.preset != "paper" and len(observations) > 1  # one camera alone has nothing to differ from
        self.cameras = CameraRefinement(len(observations), self.device) if refined else None

    @abstractmethod
    def advance(self, number: int, generator: np.random.Generator, share: float) -> float:
        """One step on observation `number`, at `share` of the first rates; the loss it had before."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """What a checkpoint must keep besides the code."""

    @abstractmethod
    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` returned."""

    def facts(self, trace: Sequence[float]) -> dict[str, Any]:
        """What the avatar's provenance says about its fit, given the loss of every step."""
        facts: dict[str, Any] = {"steps": self.options.steps, "observations": len(self.observations), "seed": self.seed}
        if trace:
            facts |= {"first_loss": round(trace[0], 6), "loss": round(float(np.mean(trace[-TAIL:])), 6)}
        return facts | (self.cameras.facts() if self.cameras is not None else {})

    @property
    def key(self) -> str:
        """sha256 of everything that decides the result: a checkpoint of another fit must not be taken up."""
        words = [program_digest(), *self.made_with.values(), self.avatar.digest, repr(self.options), str(self.seed)]
        for seen in self.observations:
            parts = (seen.image, seen.alpha, seen.expression, seen.camera.cam2world, seen.camera.intrinsics)
            words.append(digest_bytes(*(np.ascontiguousarray(part).tobytes() for part in parts)))
        return digest_bytes(*(word.encode() for word in words))

    def decode(self, code: Tensor, expression: Tensor) -> TexelAttributes:  # [1, L, D], [E] -> [1, N, ...]
        """The network's attributes of every texel."""
        attributes = self.model.decode(code, expression[None], self.sink)
        return attributes if self.figure.anchor is None else expressed(self.figure.anchor, attributes, expression[None])

    def render(self, head: Gaussians, number: int, ground: Tensor) -> tuple[Tensor, Tensor]:
        """The head as observation `number` sees it, over the colour `ground` [3]: RGB [H, W, 3] and alpha [H, W]."""
        if self.cameras is not None:
            head = self.cameras.moved(head, number)
        rgb, alpha = render(head, self.observations[number].camera, background=ground, backend=self.backend)
        return rgb[0], alpha[0]

    def gradients(self, loss: Tensor, number: int, share: float, *others: Tensor) -> tuple[Tensor, ...]:
        """Of the loss by the code, and by `others`; the camera of observation `number` takes its step."""
        if self.cameras is None:
            return torch.autograd.grad(loss, [self.code, *others])
        camera, *rest = torch.autograd.grad(loss, [self.cameras.raw[number], self.code, *others])
        self.cameras.step(number, camera, share)
        return tuple(rest)

    def expression(self, number: int) -> Tensor:  # [E]
        """The tracked expression code of an observation."""
        return torch.from_numpy(self.observations[number].expression).to(self.device)

    def unit(self, picture: np.ndarray) -> Tensor:
        """An 8-bit picture as float32 in 0..1, on the device."""
        return torch.from_numpy(picture).to(self.device).float() / 255


class Optimisation:
    """An objective on its way: the steps done and the loss of each. It goes on from a checkpoint of the same fit."""

    def __init__(self, objective: Objective, checkpoint: Path | None = None) -> None:
        self.objective, self.checkpoint = objective, checkpoint
        self.step = 0
        self.trace: list[float] = []
        if checkpoint is not None:
            self.key = objective.key
            if checkpoint.exists():
                self._resume(checkpoint)

    def run(self, on_step: Callable[[int, int], None] | None = None) -> Avatar:
        """The avatar after all remaining steps."""
        objective, steps = self.objective, self.objective.options.steps
        while self.step < steps:
            generator = np.random.default_rng((objective.seed, self.step))
            number = int(generator.integers(len(objective.observations)))
            self.trace.append(objective.advance(number, generator, rate_share(self.step, steps)))
            self.step += 1
            if on_step is not None:
                on_step(self.step, steps)
            if self.checkpoint is not None and self.step % CHECKPOINT_STEPS == 0 and self.step < steps:
                self._save(self.checkpoint)
        code = objective.code.detach()[0].cpu().numpy()
        return objective.avatar.with_code(code, fit=objective.facts(self.trace))

    def _save(self, path: Path) -> None:
        state: dict[str, Any] = {
            "key": self.key,
            "step": self.step,
            "trace": self.trace,
            "code": self.objective.code.detach(),
        }
        state["objective"] = self.objective.state()
        state["cameras"] = self.objective.cameras.state() if self.objective.cameras is not None else None
        with replacing(path) as temporary:
            torch.save(state, temporary)

    def _resume(self, path: Path) -> None:
        state = torch.load(path, map_location=self.objective.device, weights_only=True)
        if state.get("key") != self.key:
            return
        with torch.no_grad():
            self.objective.code.copy_(state["code"])
        self.objective.restore(state["objective"])
        if self.objective.cameras is not None:
            self.objective.cameras.restore(state["cameras"])
        self.step, self.trace = state["step"], state["trace"]
        log.info("fitting goes on at step %d", self.step)
