"""Fitting: the avatar code alone is optimised so that renders meet the observations, the network frozen (paper 3.5).

What no observation sees must stay as the encoder made it. Four measures: tokens without a visible texel receive no
update; a token's step is proportional to how much it is seen (SharedAdam); hidden texels are tied to their initial
decode; and the ground colour is drawn anew in every step so that no Gaussian can pretend to be background.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flexavatar_cli.core.attributes import TexelAttributes
from flexavatar_cli.core.avatar import Avatar
from flexavatar_cli.core.errors import InputError
from flexavatar_cli.core.gaussians import Gaussians
from flexavatar_cli.core.options import FitOptions
from flexavatar_cli.core.track import Track
from flexavatar_cli.heads.surface import surface
from flexavatar_cli.stages.back_projection import visible_share
from flexavatar_cli.stages.encoding import load_prior
from flexavatar_cli.stages.hull import liftable
from flexavatar_cli.stages.instruments import Instruments
from flexavatar_cli.stages.observation import Observation, crop_observation, examine, trusted_parts
from flexavatar_cli.stages.optimisation import Objective, Optimisation
from flexavatar_cli.stages.published_fitting import PublishedObjective
from flexavatar_cli.stages.rig import lifted
from flexavatar_cli.stages.shots import Shot
from flexavatar_cli.stages.similarity import own_colors, structural_dissimilarity
from flexavatar_cli.stages.static_encoding import observe
from flexavatar_cli.stages.strangers import strangers
from flexavatar_cli.stages.uv_prior import UVPrior, hairiness

# Share of a texel's own footprint that reaches the picture. Neighbours overlap, so a texel seen frontally has 0.28, one
# behind a splat of opacity 0.99 at most 0.01.
VISIBLE_SHARE = 0.09
FRONTAL_SHARE = 0.2  # below it a texel is seen foreshortened: one pixel would be a streak from the side
MOVING_SHARE = 0.03  # of the best texel of a token, below which the token stays
NEAREST = 5e-4  # metres added to the distance of neighbours: none counts for everything
NO_NEIGHBOUR = 1.0  # nearness of a texel to itself where a chart ends, next to nothing
LONGEST_GRADIENT = 5.0  # of a token, over that of the median one
SPREADING = 8  # half-steps by which what pulls at the shape of skin and collars spreads over neighbours
VISIBILITY_VIEWS = 24  # observations that decide what is seen
CACHED_REFERENCES = 200  # initial decodes kept; 57 k texels are 3 MB each

# weights of the loss terms; the picture term is 0.8 L1 + 0.2 (1 - SSIM) as published (SPEC 11)
ALPHA_WEIGHT = 8.0  # of the outline: at 2 hair stood out of the matte by a pixel, at 14 its pull showed in colours
HIDDEN_WEIGHT = 10.0
SMOOTH_WEIGHT = 0.5
BUMP_WEIGHT = 5.0  # of differences of displacement between neighbours, against displacement itself
EVENNESS = 6.0  # times as much again on the neck, where collars frayed into spikes
GRAZING_WEIGHT = 1.5  # of colour differences between neighbours, where they are seen foreshortened
CHROMA_WEIGHT = 0.5  # of differences between neighbours in hue alone, wherever they are
UNSURE_WEIGHT = 1.0  # of changes of colour where face and bust are seen foreshortened: of what hangs before them
HUE_WEIGHT = 20.0  # of changes of hue where hair is seen foreshortened
SHAPE_WEIGHT = 0.02
FRONTAL_HOLD = 0.2  # share of the stiff pull on what faces the only camera
LOOSE, STIFF = 0.02, 1.0  # pull of hair and cloth, and of the face, towards where the encoder put them
BUST_STIFF = 3.0  # ... and of shoulders in one picture: reaching for hair that hangs before them they grew lumps
EAR_STIFF = 20.0  # ... and of a bare ear, whose outline the photo shows and the rig has not
GARISH_WEIGHT = 4.0  # colours outside 0..1


def fit(
    avatar: Avatar,
    shots: Sequence[Shot],
    instruments: Instruments,
    options: FitOptions,
    seed: int = 0,
    on_step: Callable[[int, int], None] | None = None,
    checkpoint: Path | None = None,
) -> Avatar:
    """The avatar after `options.steps` of Adam on its code, over the frames that `options` choose from all shots.

    With a `checkpoint` path the state is written every so often and a run that was killed goes on from there, to the
    same result as without the kill. Raises InputError if no frame is left to fit.
    """
    observations = [seen for shot in shots for seen in observations_of(shot, instruments, options, len(shots))]
    if not observations:
        raise InputError(f"{shots[0].source}: every frame with a face is held out")
    return fit_observations(avatar, observations, instruments, options, seed, on_step, checkpoint)


def fit_observations(
    avatar: Avatar,
    observations: Sequence[Observation],
    instruments: Instruments,
    options: FitOptions,
    seed: int = 0,
    on_step: Callable[[int, int], None] | None = None,
    checkpoint: Path | None = None,
) -> Avatar:
    """`fit` for crops that are at hand: by the published objective for a static anchor or the preset, else by ours."""
    published = instruments.static or options.preset == "paper"
    objective: type[Objective] = PublishedObjective if published else RiggedObjective
    return Optimisation(objective(avatar, observations, instruments, options, seed), checkpoint).run(on_step)


def fitted_frames(track: Track, options: FitOptions, shots: int = 1) -> np.ndarray:
    """Numbers of the frames to fit: those with a face and not held out, thinned evenly to `options.frames`."""
    numbers = np.nonzero(track.confidence > 0)[0]
    if options.hold_out:
        numbers = numbers[numbers % options.hold_out != options.hold_out - 1]
    limit = max(1, options.frames // shots)
    if len(numbers) > limit:
        numbers = numbers[np.linspace(0, len(numbers) - 1, limit).astype(int)]
    return numbers


def observations_of(shot: Shot, instruments: Instruments, options: FitOptions, shots: int = 1) -> Iterator[Observation]:
    """The crops of a shot that fitting looks at."""
    crop = observe if instruments.static else crop_observation
    numbers = fitted_frames(shot.track, options, shots)
    for number, (rgb, alpha) in zip(numbers, shot.read([int(at) for at in numbers]), strict=True):
        yield crop(rgb, alpha, shot.track, int(number))


class SharedAdam:
    """Adam whose second moment is shared by all tokens: one value per code dimension.

    Adam proper scales every entry to full steps, so tokens with next to no gradient -- the back of the head -- drift
    like the others. Shared, the step stays proportional to how much a token is seen, while dimensions of different
    scale (colour, displacement) are still balanced.
    """

    def __init__(self, code: Tensor, betas: tuple[float, float] = (0.9, 0.99), epsilon: float = 1e-12) -> None:
        self.code, self.betas, self.epsilon = code, betas, epsilon
        self.mean = torch.zeros_like(code.detach())
        self.square = torch.zeros(code.shape[-1], device=code.device)
        self.count = 0

    @torch.no_grad()
    def step(self, gradient: Tensor, rate: float) -> None:
        """One update of the code [1, L, D] along `gradient`."""
        self.count += 1
        first, second = self.betas
        gradient = self._limited(gradient)
        self.mean.lerp_(gradient, 1 - first)
        seen = (gradient.abs().amax(-1, keepdim=True) > 0).float()  # gated tokens do not dilute the scale
        square = (gradient**2).sum((0, 1)) / seen.sum().clamp_min(1)
        self.square.lerp_(square, 1 - second)
        mean = self.mean / (1 - first**self.count)
        square = self.square / (1 - second**self.count)
        self.code.sub_(rate * mean / (square.sqrt() + self.epsilon))

    def _limited(self, gradient: Tensor) -> Tensor:
        """The gradient without outliers: where many texels share a pixel, one token would outrun all others."""
        length = gradient.norm(dim=-1, keepdim=True)
        if not (length > 0).any():
            return gradient
        limit = LONGEST_GRADIENT * length[length > 0].median()
        return gradient * (limit / length.clamp_min(limit))


class RiggedObjective(Objective):
    """Our own terms, for Gaussians that ride on the posed head: code, moments, references of hidden texels."""

    def __init__(
        self,
        avatar: Avatar,
        observations: Sequence[Observation],
        instruments: Instruments,
        options: FitOptions,
        seed: int = 0,
    ) -> None:
        super().__init__(avatar, observations, instruments, options, seed)
        assert self.figure.anchor is not None
        self.anchor = self.figure.anchor
        self.optimiser = SharedAdam(self.code)
        self.references: dict[int, TexelAttributes] = {}
        grid = instruments.head.texels(self.model.resolution)
        places = surface(grid, instruments.head.template)
        prior, off = load_prior(instruments), lifted(self.anchor, self._reference(0)).cpu()
        names = instruments.head.part_names
        face, neck, bust = ((grid.part == names.index(name)).to(self.device) for name in ("face", "neck", "bust"))
        hair = hairiness(prior, off[None])[0].to(self.device)
        ear = prior.on_ear.to(self.device) * (1 - hair)
        share, painted = self._visible_share()
        trusted = torch.from_numpy(trusted_parts(instruments.head, grid)).to(self.device)
        # between bared teeth the mouth's inside shows, and would be painted with them
        self.hidden = torch.maximum((1 - share / VISIBLE_SHARE).clamp(0, 1), 1 - trusted)
        self.hidden = torch.maximum(self.hidden, self._strange(instruments, prior, off))
        # where nobody is by the matte the outline pulls, through the network at colours too, and no picture holds them
        self.unpainted = torch.maximum(self.hidden, (1 - painted / VISIBLE_SHARE).clamp(0, 1))
        self.grazing = (1 - share / FRONTAL_SHARE).clamp(0, 1)
        self.moving = self._token_gate(share)
        self.nearness = self._nearness(places.to(self.device))
        self.unsure = self.grazing * (face | bust)
        self.aslant = self.grazing * hair
        self.even = torch.maximum(neck.float(), ear)
        self.rigid = ear
        # shoulders are free at their outline; what faces the camera would stand off as tips, seen in profile
        self.spread = ((face | neck) + bust * (1 - self.grazing)) * (1 - self.hidden) * (1 - ear)
        # an ear that no hair covers is skin, and a rig's: loose, its rim frayed
        free = torch.from_numpy(liftable(instruments.head, grid)).float().to(self.device)
        free = free * torch.where(face, hair, 1.0)
        # one picture cannot tell how near a texel is that faces it: moved along the view, it would spoil the profile
        frontal = FRONTAL_HOLD * (1 - self.grazing) ** 2 / len(self.observations)
        stiff = (STIFF - LOOSE) * torch.maximum(1 - free, frontal)
        self.stiffness = LOOSE + stiff + EAR_STIFF * ear + BUST_STIFF / len(self.observations) * bust

    def advance(self, number: int, generator: np.random.Generator, share: float) -> float:
        """One step of SharedAdam."""
        ground = torch.from_numpy(generator.uniform(0, 1, 3).astype(np.float32)).to(self.device)
        loss = self.loss(number, ground)
        (gradient,) = self.gradients(loss, number, share)
        self.optimiser.step(gradient * self.moving, self.options.learning_rate * share)
        return float(loss.detach())

    def loss(self, number: int, ground: Tensor) -> Tensor:
        """Picture, outline and what keeps the unseen, with observation `number` on the colour `ground` [3]."""
        seen = self.observations[number]
        attributes = self.decode(self.code, self.expression(number))
        picture, cover = self._render(attributes, number, ground)
        image, alpha, inside = (self.unit(value) for value in (seen.image, seen.alpha, seen.inside))
        target, weight = own_colors(image, alpha, cover, ground)
        mask = inside[..., None] * weight
        plain = ((picture - target).abs() * mask).mean()
        structure = structural_dissimilarity(picture * mask, target * mask)
        outline = ((cover - alpha).abs() * inside).mean()
        loss = 0.8 * plain + 0.2 * structure + ALPHA_WEIGHT * outline
        return loss + self._keep(attributes, self._reference(number))

    def state(self) -> dict[str, Any]:
        """The optimiser's moments."""
        return {"mean": self.optimiser.mean, "square": self.optimiser.square, "count": self.optimiser.count}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over the optimiser's moments."""
        self.optimiser.mean, self.optimiser.square = state["mean"], state["square"]
        self.optimiser.count = state["count"]

    def _keep(self, attributes: TexelAttributes, start: TexelAttributes) -> Tensor:
        """Hidden texels stay where and what they were; visible ones move smoothly and keep their size and opacity."""
        lift = (attributes.offset - start.offset)[0] / 0.01
        tint = (attributes.color - start.color)[0]
        size = (attributes.scale / start.scale)[0].log()
        veil = attributes.opacity[0] - start.opacity[0]
        # squares, not absolutes: a term whose gradient never fades would chatter in patches that are half seen
        kept = ((lift**2).sum(-1) + (size**2).mean(-1) + veil**2) * self.hidden + (tint**2).sum(-1) * self.unpainted
        kept = kept.mean()
        neighbours = self._around(lift)
        bumps = ((lift - neighbours) ** 2).sum(-1) * (1 + EVENNESS * self.even)
        rough = BUMP_WEIGHT * bumps.mean() + ((lift**2).sum(-1) * self.stiffness).mean()
        patchy = tint - self._around(tint)
        blotches = ((patchy**2).sum(-1) * (0.05 + GRAZING_WEIGHT * torch.maximum(self.grazing, self.even))).mean()
        # where several texels share a pixel -- in the folds of an ear -- a green and a violet one make a brown
        blotches = blotches + CHROMA_WEIGHT * (_hue(patchy) ** 2).sum(-1).mean()
        blotches = blotches + HUE_WEIGHT * ((_hue(tint) ** 2).sum(-1) * self.aslant).mean()
        blotches = blotches + UNSURE_WEIGHT * ((tint**2).sum(-1) * self.unsure).mean()
        garish = ((attributes.color - 1).clamp_min(0) + (-attributes.color).clamp_min(0)).mean()
        shape = (size**2).mean() + 0.1 * (veil**2).mean()
        return HIDDEN_WEIGHT * kept + SMOOTH_WEIGHT * (rough + blotches) + GARISH_WEIGHT * garish + SHAPE_WEIGHT * shape

    def _around(self, values: Tensor) -> Tensor:  # [N, 3] -> [N, 3]
        """Mean over each texel's neighbours, nearer ones first. (A matrix adds gradients in an order that varies.)"""
        flat = values.index_select(0, self.anchor.neighbours.reshape(-1))
        return (flat.unflatten(0, (4, -1)) * self.nearness).sum(0)

    def _gaussians(self, attributes: TexelAttributes, number: int) -> Gaussians:
        offset = attributes.offset.clone()
        if offset.requires_grad:
            offset.register_hook(self._evened)
        return self.figure.pose(replace(attributes, offset=offset), self.expression(number))

    def _evened(self, pull: Tensor) -> Tensor:  # [1, N, 3] -> [1, N, 3]
        """What pictures pull at the offsets with: none at a bare ear's, on skin and collars that of the neighbours too.

        Texels that reached for an outline one by one became petals on ears, spikes on jaws and fringes on collars.
        """
        even, half = pull[0] * (1 - self.rigid)[:, None], self.spread[:, None] / 2
        for _ in range(SPREADING):
            even = torch.lerp(even, self._around(even), half)
        return even[None]

    def _render(self, attributes: TexelAttributes, number: int, ground: Tensor) -> tuple[Tensor, Tensor]:
        return self.render(self._gaussians(attributes, number), number, ground)

    def _reference(self, number: int) -> TexelAttributes:
        if number not in self.references:
            with torch.no_grad():
                start = self.decode(self.start, self.expression(number))
            if len(self.references) >= CACHED_REFERENCES:
                return start
            self.references[number] = start
        return self.references[number]

    def _visible_share(self) -> Tensor:  # [2, N]
        """Best blending weight of each texel over the observations, as a share of its own footprint.

        In all that a photo covers, and where it shows the person. The weight in pixels is the gradient of the picture's
        sum with respect to the texel's colour.
        """
        count = len(self.observations)
        numbers = np.unique(np.linspace(0, count - 1, min(count, VISIBILITY_VIEWS)).astype(int))
        best = torch.zeros(2, len(self.model.texel_index), device=self.device)
        ground = torch.zeros(3, device=self.device)
        for number in map(int, numbers):
            seen = self.observations[number]
            with torch.no_grad():
                start = self.decode(self.start, self.expression(number))
            color = start.color.clone().requires_grad_(True)
            changed = TexelAttributes(**(vars(start) | {"color": color}))
            head = self.figure.pose(changed, self.expression(number))
            picture, _ = self.render(head, number, ground)
            inside = self.unit(seen.inside)
            person = inside * self.unit(seen.alpha)
            (gradient,) = torch.autograd.grad((picture[..., 0] * inside + picture[..., 1] * person).sum(), color)
            own = torch.stack([visible_share(head, seen.camera, gradient[0, :, channel]) for channel in (0, 1)])
            best = torch.maximum(best, own)
        return best

    def _strange(self, instruments: Instruments, prior: UVPrior, off: Tensor) -> Tensor:  # [N]
        """1 where a lone picture would paint a cheek with what is not theirs; several correct one another."""
        if len(self.observations) > 1:
            return torch.zeros(len(off), device=self.device)
        seen = replace(self.observations[0], identity=self.avatar.identity)
        found = examine(seen, instruments.head, self.model.resolution, off.numpy())
        return strangers(found, prior).to(self.device)

    def _nearness(self, places: Tensor) -> Tensor:  # [N, 3] metres, of the template -> [4, N, 1]
        """Weight of each texel's neighbours, which sum to 1.

        The neck's texels are three times as high as wide: counted alike, its columns would part into a fringe.
        """
        apart = (places[self.anchor.neighbours] - places).norm(dim=-1, keepdim=True)
        near = torch.where(apart > 0, 1 / (apart + NEAREST) ** 2, NO_NEIGHBOUR)
        return near / near.sum(0)

    def _token_gate(self, share: Tensor) -> Tensor:  # [1, L, 1]
        """1 for tokens of which some texel is seen, 0 for the others."""
        side = self.model.resolution
        picture = torch.zeros(side * side, device=self.device)
        picture[self.model.texel_index] = (share > MOVING_SHARE).float()
        tokens = math.isqrt(self.start.shape[1])
        pooled = torch.nn.functional.max_pool2d(picture.reshape(1, 1, side, side), side // tokens)
        return pooled.reshape(1, -1, 1)


def _hue(color: Tensor) -> Tensor:  # [..., 3] -> [..., 3]
    """What is not grey of a difference of colours."""
    return color - color.mean(-1, keepdim=True)
