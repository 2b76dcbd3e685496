"""Cameras refined beside the avatar code: each observation's head moves a little, rigidly, before its own camera.

What all observations have in common is the avatar's matter, since it is later drawn by tracked cameras: without taking
the mean out, held-out frames get worse by 0.1 dB; with it they gain 0.05 dB (docs/flex-1.md). The focal length stays:
at the head's distance it is not to be told from a shift in depth.
"""

from typing import Any

import torch
from torch import Tensor

from flexavatar_cli.core.gaussians import Gaussians, rotation_matrix
from flexavatar_cli.stages.rig import quaternion_product

LARGEST = (0.03, 0.03, 0.03, 0.004, 0.004, 0.004)  # radians about x, y, z; metres
RATE = 0.05  # of Adam, on offsets in units of the largest


class CameraRefinement:
    """Bounded offsets of the cameras of `count` observations, and the moments of their optimiser."""

    def __init__(self, count: int, device: torch.device) -> None:
        # one parameter each: Adam leaves those alone that a step gives no gradient
        self.raw = [torch.zeros(6, device=device).requires_grad_(True) for _ in range(count)]
        self.adam = torch.optim.Adam(self.raw, lr=RATE)
        self.largest = torch.tensor(LARGEST, device=device)

    def offset(self, number: int) -> Tensor:  # [6] radians and metres
        """How observation `number` is off, less the mean over all."""
        with torch.no_grad():
            common = torch.stack(self.raw).tanh().mean(0)
        return (self.raw[number].tanh() - common) * self.largest

    def moved(self, head: Gaussians, number: int) -> Gaussians:
        """The head as the refined camera sees it, for the tracked camera; differentiable in head and offset."""
        offset = self.offset(number)
        turn = torch.cat([offset.new_ones(1), offset[:3] / 2])  # a quaternion, for angles this small
        positions = head.positions @ rotation_matrix(turn).mT + offset[3:]
        quats = quaternion_product(turn.expand(len(head), 4), head.quats)
        return Gaussians(positions, quats, head.scales, head.opacities, head.colors)

    def step(self, number: int, gradient: Tensor, share: float) -> None:
        """One step of Adam on the offset of observation `number`, at `share` of the first rate."""
        for group in self.adam.param_groups:
            group["lr"] = RATE * share
        self.raw[number].grad = gradient
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)

    def facts(self) -> dict[str, float]:
        """How far cameras moved, root mean square over observations and axes."""
        with torch.no_grad():
            square = torch.stack([self.offset(number) for number in range(len(self.raw))]).square().mean(0)
        turn, shift = square[:3].mean().sqrt().rad2deg(), 1000 * square[3:].mean().sqrt()
        return {"camera_turn_degrees": round(float(turn), 4), "camera_shift_mm": round(float(shift), 4)}

    def state(self) -> dict[str, Any]:
        """Offsets and moments, for a checkpoint."""
        return {"raw": torch.stack(self.raw).detach(), "adam": self.adam.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` returned."""
        with torch.no_grad():
            for own, kept in zip(self.raw, state["raw"], strict=True):
                own.copy_(kept)
        self.adam.load_state_dict(state["adam"])
