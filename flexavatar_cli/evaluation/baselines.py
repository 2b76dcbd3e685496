"""Everything that stands in the same table: the photo held still, warped, projected on the rig, and our avatars."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import cv2
import numpy as np
import torch
from scipy.spatial import Delaunay

from flexavatar_cli.core.attributes import TexelAttributes
from flexavatar_cli.core.avatar import Avatar
from flexavatar_cli.core.camera import Camera
from flexavatar_cli.core.expression import EXPRESSION_NAMES
from flexavatar_cli.evaluation.metrics import similarity_transform
from flexavatar_cli.evaluation.scenes import Portrait, Target
from flexavatar_cli.evaluation.views import seen_from
from flexavatar_cli.media.images import composite
from flexavatar_cli.stages.animation import Puppet, picture, puppet
from flexavatar_cli.stages.instruments import Instruments
from flexavatar_cli.stages.motion import recoded
from flexavatar_cli.stages.observation import Observation, examine
from flexavatar_cli.stages.rig import RigAnchor, rigged_gaussians
from flexavatar_cli.stages.uv_completion import base_color
from flexavatar_cli.stages.uv_prior import UVPrior

FACE = 468  # FaceMesh points of the face; the rest are irises
OVAL = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152, 148, 176, 149, 150,
    136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)  # fmt: skip
HEAD = 1.9  # the head with its hair moves as one out to the face oval times this
STILL, WARPED, PROJECTED = "still photo", "warped photo", "photo on rig"

Shown = tuple[np.ndarray, np.ndarray]  # RGB [S, S, 3] on white, alpha [S, S]


class System(Protocol):
    """Something that reproduces a target."""

    @property
    def name(self) -> str:
        """What its row is called."""
        ...

    def show(self, target: Target) -> Shown:
        """RGB on white and alpha."""
        ...


class Body(System, Protocol):
    """A system that is a head in 3-D."""

    @property
    def expression_names(self) -> tuple[str, ...]:
        """The layout of the codes it takes."""
        ...

    def pose(self, expression: np.ndarray, camera: Camera) -> Iterator[Shown]:
        """The head with one expression [E] from each of V cameras."""
        ...


@dataclass(frozen=True)
class StillPhoto:
    """The input photo, whatever the driver does."""

    source: Portrait
    name: str = STILL

    def show(self, target: Target) -> Shown:
        """The same picture every time."""
        return self.source.on_white, self.source.matte


@dataclass(frozen=True)
class WarpedPhoto:
    """The photo and its matte warped in 2-D, piecewise affine on a Delaunay mesh of the driver's face landmarks.

    Around the face a ring that moves with the head carries the hair; the picture's border stays. With `relative`
    (another driver) the source's landmarks take the driver's motion since `relative`. Without landmarks (no face in
    the target) the photo is held still.
    """

    source: Portrait
    relative: np.ndarray | None = None  # [478, 2] the driver's landmarks that count as the source's pose
    name: str = WARPED

    def show(self, target: Target) -> Shown:
        """The photo in the target's pose."""
        if target.landmarks is None:
            return self.source.on_white, self.source.matte
        side = len(self.source.rgb)
        start = self.source.landmarks[:FACE]
        goal = target.landmarks[:FACE]
        if self.relative is not None:
            size = np.linalg.norm(start[10] - start[152]) / np.linalg.norm(self.relative[10] - self.relative[152])
            goal = start + (goal - self.relative[:FACE]) * size
        head = similarity_transform(start, goal)
        oval = start[list(OVAL)]
        ring = oval.mean(0) + HEAD * (oval - oval.mean(0))
        ring = ring[((ring > 8) & (ring < side - 8)).all(-1)]
        moved = ring @ head[:, :2].T + head[:, 2]
        kept = ((moved > 2) & (moved < side - 2)).all(-1)
        line = np.linspace(0, side, 9)
        zero = np.zeros_like(line)
        border = np.concatenate(
            [np.stack(pair, 1) for pair in ((line, zero), (line, zero + side), (zero, line), (zero + side, line))]
        )
        points = np.concatenate([goal, moved[kept], border])
        origins = np.concatenate([start, ring[kept], border])
        return warp(self.source, points, origins)


def warp(source: Portrait, points: np.ndarray, origins: np.ndarray) -> Shown:  # [P, 2] pixels each
    """The source with what lies at `origins` moved to `points`, affine in each triangle."""
    side = len(source.rgb)
    mesh = Delaunay(points)
    y, x = np.mgrid[0:side, 0:side] + 0.5
    pixels = np.stack([x.ravel(), y.ravel()], 1)
    triangle = mesh.find_simplex(pixels)
    matrix = mesh.transform[triangle]
    two = np.einsum("nij,nj->ni", matrix[:, :2], pixels - matrix[:, 2])
    bary = np.concatenate([two, 1 - two.sum(1, keepdims=True)], 1)
    found = (origins[mesh.simplices[triangle]] * bary[..., None]).sum(1)
    found = np.where((triangle >= 0)[:, None] & np.isfinite(found).all(1, keepdims=True), found, pixels)
    at = (found - 0.5).astype(np.float32).reshape(side, side, 2)
    four = np.concatenate([source.on_white, source.matte[..., None]], -1).astype(np.float32)
    moved = cv2.remap(
        four, at[..., 0], at[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=(1, 1, 1, 0)
    )
    return moved[..., :3], moved[..., 3]


@dataclass(frozen=True)
class ProjectedPhoto:
    """The rigged head with the photo projected on it, completed in closed form (mirror, smooth fill), no network.

    The hull lifts hair to the matte's outline; sizes and orientations are the rig's own, as an identity decode.
    """

    seen: Observation
    prior: UVPrior
    anchor: RigAnchor
    instruments: Instruments
    expression_names: tuple[str, ...]  # of the driver's code
    name: str = PROJECTED

    @cached_property
    def attributes(self) -> TexelAttributes:
        """What the decoder would say if it added nothing."""
        model = self.instruments.model
        found = examine(self.seen, self.instruments.head, model.resolution)
        color, _ = base_color(self.prior, found.color[None], found.seen[None], found.displacement[None])
        count = color.shape[1]
        offset = torch.zeros(1, count, 3)
        offset[0, :, 2] = found.displacement
        turn = torch.zeros(1, count, 4)
        turn[..., 0] = 1
        opacity = torch.full((1, count), model.config.gaussians.opacity_start)
        made = TexelAttributes(offset, torch.ones(1, count, 3), turn, opacity, color)
        return made.map(lambda values: values.to(self.instruments.device))

    def show(self, target: Target) -> Shown:
        """The textured rig in the target's pose."""
        return next(self.pose(target.expression, target.camera))

    def pose(self, expression: np.ndarray, camera: Camera) -> Iterator[Shown]:  # [E]
        """The textured rig with one expression from each of V cameras."""
        code = recoded(expression[None], self.expression_names, EXPRESSION_NAMES)[0]
        device = self.instruments.device
        identity, moved = (torch.from_numpy(np.array(v, np.float32)).to(device) for v in (self.seen.identity, code))
        with torch.inference_mode():
            head = rigged_gaussians(self.anchor, self.attributes, identity, moved)
        for number in range(len(camera)):
            clear = picture(head, camera[number], None, self.instruments.backend)
            yield composite(clear[..., :3], clear[..., 3]), clear[..., 3]


@dataclass(frozen=True)
class Ours:
    """An avatar of the network."""

    avatar: Avatar
    figure: Puppet
    expression_names: tuple[str, ...]  # of the driver's code
    name: str

    def show(self, target: Target) -> Shown:
        """The avatar in the target's pose."""
        return next(self.pose(target.expression, target.camera))

    def pose(self, expression: np.ndarray, camera: Camera) -> Iterator[Shown]:  # [E] of the driver's layout
        """The avatar with one expression from each of V cameras."""
        code = recoded(expression[None], self.expression_names, self.figure.expression_names)
        return seen_from(self.figure, code[0], camera)


def ours(avatar: Avatar, stage: str, instruments: Instruments, names: tuple[str, ...]) -> Ours:
    """An avatar, named after its stage and bias sink: "fitted, 3d sink"."""
    return Ours(avatar, puppet(avatar, instruments), names, f"{stage}, {avatar.bias_sink} sink")
