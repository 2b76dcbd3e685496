"""Colours that do not belong to the skin on which a photo shows them.

Where the face turns away from the camera a small error of the tracked shape is a large one on the surface: an earlobe,
hair, a collar or a shadow of the jaw lands on the cheek, and the profile shows it. There, and only there, a colour must
be one that the skin which faces the camera makes likely.
"""

from dataclasses import replace

import torch
from torch import Tensor

from flexavatar_cli.core.ramps import ramp
from flexavatar_cli.heads import HeadModel
from flexavatar_cli.stages.observation import Evidence, receded
from flexavatar_cli.stages.uv_completion import RATIO_FLOOR
from flexavatar_cli.stages.uv_prior import UVPrior, hairiness, low_frequencies

SURE = 0.45  # facing cosine from which on the photo is believed whatever it shows
DOUBTED = 0.6  # ... and up to which it is doubted a little, so that no edge shows
BRIGHTNESS = 0.35  # logarithm of brightness over that of the skin near by: shading, at most
HUE = 0.12  # the same for a channel against the mean of all three
SIDEWAYS = (0.55, 0.75)  # component of the template's normal to the side, between which the cheek begins
TEMPLE = (0.035, 0.015)  # metres, head space: above lie hair, hats and the hinges of glasses, which all belong there
LIKENESS = (1.0, 1.5)  # times the above, between which a colour turns from own to strange


@torch.no_grad()
def without_strangers(found: Evidence, prior: UVPrior, head: HeadModel) -> Evidence:
    """The evidence, with colours unseen that do not belong where they lie."""
    own = 1 - strangers(found, prior)
    kept = receded(own.numpy(), head.texels(prior.resolution))
    return replace(found, seen=torch.from_numpy(kept) * found.seen)


@torch.no_grad()
def strangers(found: Evidence, prior: UVPrior) -> Tensor:  # [N] in 0..1
    """1 where cheeks and jaw turn away and a colour lies that skin near by does not have."""
    skin = prior.on_skin * (1 - hairiness(prior, found.displacement[None])[0])
    ratio = ((found.color + RATIO_FLOOR) / (prior.mean_color + RATIO_FLOOR)).log()
    sure = ramp(found.facing, (SURE, DOUBTED))
    telling = found.seen * skin * (sure + 1e-6)
    usual = low_frequencies(prior, ratio[None], telling[None], prior.kernel)[0]
    doubt = skin * on_cheeks(prior) * (1 - sure)
    return doubt * ramp(strangeness(ratio - usual), LIKENESS)


def strangeness(difference: Tensor) -> Tensor:  # [N, 3] logarithms -> [N]
    """How far a colour is from what is likely; 1 is as far as shading and complexion go."""
    brightness = difference.mean(-1)
    hue = (difference - brightness[:, None]).abs().amax(-1)
    return torch.maximum(brightness.abs() / BRIGHTNESS, hue / HUE)


def on_cheeks(prior: UVPrior) -> Tensor:  # [N]
    """1 where the face turns to the side below the temples: cheeks, jaw, ears. Before a neck there may well be hair."""
    return prior.on_face * sideways(prior) * ramp(prior.places[:, 1], TEMPLE)


def sideways(prior: UVPrior) -> Tensor:  # [N]
    """1 where the template turns to the side."""
    return ramp(prior.outward[:, 0].abs(), SIDEWAYS)
