"""Closed-form completion in UV: what the tracked photo says about texels it does not show.

Colours are treated as ratios to the mean head, so the fill keeps the structure of brows, lips and ears and takes only
low frequencies from what was seen; the other half of the face contributes its mirrored detail. Everything is a gather
or a small matrix product, batched and identical in training and use.
"""

from functools import cached_property

import torch
from torch import Tensor

from flexavatar_cli.core.ramps import ramp
from flexavatar_cli.stages.collars import collars, unlikeness
from flexavatar_cli.stages.uv_prior import HAIR_HEIGHT, RIM, UVPrior, hairiness, low_frequencies

MIRROR_TRUST = 0.7
BAND_SPREAD = 0.5  # of the logarithm of a colour ratio
FRONTAL_WORD = 0.1  # weight of a frontal texel's colour for unseen ones, against one that turns away
CLOTHED = (0.15, 0.4)  # distance of a colour's logarithm from those of the skin, between which it turns to cloth
RATIO_FLOOR = 0.08  # added to the mean before dividing, so that dark mean texels do not amplify noise
BALD_GRAIN = 0.2  # share of the strands that shows where no hair stands off
FOREHEAD = 0.3  # weight of what looks like skin where hair grows
HAIR_ENOUGH = 60.0  # seen hair texels at which half of the hair's colour is taken from them
PREVAILING_ROUNDS = 6
PREVAILING_SPREAD = 0.35  # of the logarithm of a colour ratio
PREVAILING_FLOOR = 0.02
DISPLACEMENT_UNIT = 0.2  # metres; the network's unit of displacement (model.yaml says the same)
CHANNELS = 23  # of `uv_features`


def base_color(
    prior: UVPrior,
    color: Tensor,  # [B, N, 3] photo at each texel, anything where unseen
    seen: Tensor,  # [B, N] in 0..1
    displacement: Tensor,  # [B, N] metres
) -> tuple[Tensor, Tensor]:
    """Completed colours [B, N, 3] and their low frequencies [B, N, 3]."""
    return Completion(prior, color, seen, displacement).colors()


class Completion:
    """Colours of all texels from those that a photo shows, as ratios to the mean head.

    What stands off the head above the shoulders is hair (or a hat) wherever it lies, and is filled from its like.
    """

    def __init__(
        self,
        prior: UVPrior,
        color: Tensor,  # [B, N, 3] photo at each texel, anything where unseen
        seen: Tensor,  # [B, N] in 0..1
        displacement: Tensor,  # [B, N] metres
    ) -> None:
        self.prior, self.color, self.seen = prior, color, seen
        self.hairy = hairiness(prior, displacement)
        off = (displacement / HAIR_HEIGHT[0]).clamp(BALD_GRAIN, 1)
        own = torch.where(prior.on_scalp > 0, off, 1 - self.hairy)[..., None]
        # of the mean head, the floor with it
        self.mean = prior.smooth_hair + own * (prior.mean_color - prior.smooth_hair) + RATIO_FLOOR
        self.ratio = ((color + RATIO_FLOOR) / self.mean).clamp(0.05, 6.0)
        self.skin = seen * prior.plain_skin * prior.on_face * (1 - self.hairy)  # how well a texel shows it

    def colors(self, wary: bool = False) -> tuple[Tensor, Tensor]:
        """Completed colours [B, N, 3] and their low frequencies [B, N, 3]; `wary` as in `_hair_seen`."""
        prior, seen = self.prior, self.seen
        hair_seen = self._hair_seen(wary)
        low = self._with_hair(self._bare, hair_seen)
        grey = low.mean(-1, keepdim=True).clamp(0.4, 1.15)
        low = torch.where(prior.interior[:, None], grey.expand_as(low), low)
        unseen = self._mirrored(low)
        materials = (seen * prior.on_bust, self.skin, hair_seen)
        collar, cloth = collars(prior.places, prior.on_neck, prior.on_bust, materials, self.color, seen)
        low, unseen = (fill.lerp((cloth + RATIO_FLOOR) / self.mean, collar[..., None]) for fill in (low, unseen))
        full = seen[..., None] * self.ratio + (1 - seen[..., None]) * unseen
        return self._as_color(full), self._as_color(low)

    def _as_color(self, ratio: Tensor) -> Tensor:
        return (ratio * self.mean - RATIO_FLOOR).clamp(0, 1)

    @cached_property
    def _bare(self) -> Tensor:  # [B, N, 3]
        """Low frequencies of skin and clothes."""
        prior = self.prior
        telling = self.seen * (1 - 0.9 * self.hairy * (1 - prior.on_scalp))
        # what turns away is in the shade that its surroundings, which the photo does not show, are in as well
        telling = telling * torch.where(prior.on_face > 0, FRONTAL_WORD + (1 - FRONTAL_WORD) * prior.away(RIM), 1.0)
        telling = telling * self._unlike_skin((prior.on_bust > 0).expand_as(self.skin), PREVAILING_FLOOR)
        # a collar seen on the neck says nothing about the skin around it, nor a tie about the shoulders
        for material in (telling * prior.on_skin, telling * prior.on_bust):
            telling = telling + material * (prevailing(self.ratio, material) - 1)
        return low_frequencies(prior, self.ratio, telling, prior.kernel)

    def _hair_seen(self, wary: bool) -> Tensor:  # [B, N]
        """How well a texel shows hair; if `wary`, little where it looks like skin.

        Foreheads reach where others have hair.
        """
        shown = self.seen * torch.maximum(self.hairy * self.prior.above_collar, self.prior.on_scalp)
        if wary:
            shown = shown * self._unlike_skin(shown > 0, FOREHEAD)
        return shown * prevailing(self.ratio, shown)

    def _with_hair(self, low: Tensor, hair_seen: Tensor) -> Tensor:  # [B, N, 3], [B, N] -> [B, N, 3]
        """The low frequencies with those of hair, if enough of it is seen."""
        prior = self.prior
        enough = (hair_seen.sum(1) / (hair_seen.sum(1) + HAIR_ENOUGH))[:, None, None]
        hair = low_frequencies(prior, self.ratio, hair_seen + 1e-6 * self.seen, prior.hair_kernel)
        # between hat and jaw hair may have a colour of its own; that of the hat would be a dark band under the ear
        unlike = ((self.ratio.log() - hair.clamp_min(0.05).log()) ** 2).mean(-1) / (2 * BAND_SPREAD**2)
        fill = self.hairy * (1 - prior.on_jaw * (1 - (-unlike).exp()))
        return low + (fill[..., None] * enough) * (hair - low)

    def _mirrored(self, low: Tensor) -> Tensor:  # [B, N, 3] -> [B, N, 3]
        """The low frequencies with the detail of the other side, where the photo shows it."""
        prior = self.prior
        detail = self.ratio[:, prior.mirror] * (low / low[:, prior.mirror].clamp_min(0.05)).clamp(0.5, 2.0)
        alike = 1 - (self.hairy - self.hairy[:, prior.mirror]).abs()  # hair on one side says nothing about skin
        trust = (MIRROR_TRUST * self.seen[:, prior.mirror] * alike)[..., None]
        return trust * detail + (1 - trust) * low

    def _unlike_skin(self, asked: Tensor, least: float) -> Tensor:  # [B, N] bool -> [B, N]
        """1, but down to `least` where asked for the colours of skin: they say little about clothes, or about hair."""
        kept = torch.ones_like(self.skin)
        for own, material, where, sure in zip(self.color, self.skin, asked, kept, strict=True):
            rows = torch.nonzero(where)[:, 0]
            sure[rows] = least + (1 - least) * ramp(unlikeness(own, own[rows], material), CLOTHED)
        return kept


def prevailing(
    values: Tensor,  # [B, N, 3]
    weight: Tensor,  # [B, N]
) -> Tensor:  # [B, N]
    """1 for values near the one that prevails, next to 0 for others: a hat of two colours is continued in one."""
    values = (values + RATIO_FLOOR).log()
    weight = weight[..., None] + 1e-9
    near = weight
    for _ in range(PREVAILING_ROUNDS):  # mean shift, from the mean of all
        centre = (values * near).sum(1, keepdim=True) / near.sum(1, keepdim=True)
        likeness = (-((values - centre) ** 2).mean(-1, keepdim=True) / (2 * PREVAILING_SPREAD**2)).exp()
        near = weight * (PREVAILING_FLOOR + likeness)
    return (PREVAILING_FLOOR + likeness)[..., 0]


def uv_features(
    prior: UVPrior,
    color: Tensor,  # [B, N, 3]
    seen: Tensor,  # [B, N]
    facing: Tensor,  # [B, N] cosine between normal and view, 0..1
    displacement: Tensor,  # [B, N] hair hull, metres
) -> Tensor:  # [B, 23, R, R]
    """The encoder's pixel-aligned UV input (DESIGN 4.2). The first four channels are the base of the avatar code."""
    base, low = base_color(prior, color, seen, displacement)
    mask = seen[..., None]
    mirrored_seen = seen[:, prior.mirror]
    per_texel = torch.cat(
        [
            base - 0.5,
            displacement[..., None] / DISPLACEMENT_UNIT,
            mask,
            mask * facing[..., None],
            mask * (color - 0.5),
            mirrored_seen[..., None],
            mirrored_seen[..., None] * (color[:, prior.mirror] - 0.5),
            low - 0.5,
        ],
        -1,
    )
    batch, size = len(color), prior.resolution
    maps = per_texel.new_zeros(batch, per_texel.shape[-1], size * size)
    maps[:, :, prior.index] = per_texel.transpose(1, 2)
    statics = prior.statics[None].expand(batch, -1, -1, -1)
    return torch.cat([maps.reshape(batch, -1, size, size), statics], 1)
