"""Colours that do not belong to the skin on which a photo shows them.

Where the face turns away from the camera a small error of the tracked shape is a large one on the surface: an earlobe,
hair, a collar or a shadow of the jaw lands on the cheek, and the profile shows it. There, and only there, a colour must
be one that the skin which faces the camera makes likely. Along parted lips it must be the lips' own, not that of teeth.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from flexavatar_cli.heads import HeadModel
from flexavatar_cli.heads.surface import surface
from flexavatar_cli.stages.observation import Evidence, Observation, receded
from flexavatar_cli.stages.uv_prior import RATIO_FLOOR, UVPrior, hairiness, low_frequencies

SURE = 0.45  # facing cosine from which on the photo is believed whatever it shows
DOUBTED = 0.6  # ... and up to which it is doubted a little, so that no edge shows
BRIGHTNESS = 0.35  # logarithm of brightness over that of the skin near by: shading, at most
HUE = 0.12  # the same for a channel against the mean of all three
SIDEWAYS = (0.55, 0.75)  # component of the template's normal to the side, between which the cheek begins
TEMPLE = (0.035, 0.015)  # metres, head space: above lie hair, hats and the hinges of glasses, which all belong there
INNER_LIPS = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308, 324, 318, 402, 317, 14, 87, 178, 88, 95)  # FaceMesh
LIP_MIDDLES = (13, 14)  # upper, lower
EDGE = (0.003, 0.005)  # metres from the inner edge of the lips, between which teeth are no longer expected
LIP = 0.009  # metres from it, up to which skin tells what these lips are like
GAP = (0.0015, 0.003)  # metres that the lips' middles are further apart than at rest, from touching to parted
LIKENESS = (1.0, 1.5)  # times the above, between which a colour turns from own to strange


@torch.no_grad()
def without_strangers(seen: Observation, found: Evidence, prior: UVPrior, head: HeadModel) -> Evidence:
    """The evidence of an observation, with colours unseen that do not belong where they lie."""
    own = 1 - strangers(seen, found, prior, head)
    kept = receded(own.numpy(), head.texels(prior.resolution))
    return replace(found, seen=torch.from_numpy(kept) * found.seen)


@torch.no_grad()
def strangers(seen: Observation, found: Evidence, prior: UVPrior, head: HeadModel) -> Tensor:  # [N] in 0..1
    """1 where cheeks, jaw and neck turn away, or lips part, and a colour lies that skin or lips near by do not have."""
    skin = prior.on_skin * (1 - hairiness(prior, found.displacement[None])[0])
    ratio = ((found.color + RATIO_FLOOR) / (prior.mean_color + RATIO_FLOOR)).log()
    sure = ((found.facing - SURE) / (DOUBTED - SURE)).clamp(0, 1)
    usual = _around(prior, ratio, found.seen * skin * sure, found.seen * skin)
    doubt = skin * on_cheeks(prior) * (1 - sure)
    strange = doubt * _doubted(strangeness(ratio - usual))
    rim, lip = lips(head, prior.resolution)
    usual = _around(prior, ratio, found.seen * lip, found.seen * skin)
    return torch.maximum(strange, parted(seen, head) * rim * _doubted(strangeness(ratio - usual)))


def _around(prior: UVPrior, ratio: Tensor, telling: Tensor, otherwise: Tensor) -> Tensor:  # [N, 3]
    return low_frequencies(prior, ratio[None], (telling + 1e-6 * otherwise)[None], prior.kernel)[0]


def _doubted(strange: Tensor) -> Tensor:
    return ((strange - LIKENESS[0]) / (LIKENESS[1] - LIKENESS[0])).clamp(0, 1)


def lips(head: HeadModel, resolution: int) -> tuple[Tensor, Tensor]:  # [N], [N]
    """1 along the inner edge of the lips, where a track that is a little off reads teeth; 1 on the rest of the lips."""
    key = f"lips_{resolution}"
    if key not in head.cache:
        grid = head.texels(resolution)
        edge = head.landmarks(head.template)[list(INNER_LIPS)]
        middle = (edge + edge.roll(-1, 0)) / 2
        distance = torch.cdist(surface(grid, head.template), torch.cat([edge, middle])).amin(1)
        face = (grid.part == head.part_names.index("face")).float()
        rim = ((EDGE[1] - distance) / (EDGE[1] - EDGE[0])).clamp(0, 1)
        head.cache[key] = (face * rim, face * (1 - rim) * (distance < LIP).float())
    return head.cache[key]


def parted(seen: Observation, head: HeadModel) -> float:
    """1 if the lips of an observation are further apart than at rest, 0 if they meet."""
    expressions = torch.from_numpy(np.stack([np.zeros_like(seen.expression), seen.expression]))
    posed = head.vertices(torch.from_numpy(seen.identity).expand(2, -1), expressions)
    upper, lower = head.landmarks(posed)[:, list(LIP_MIDDLES)].unbind(1)
    rest, now = (upper - lower).norm(dim=-1).tolist()
    return min(max((now - rest - GAP[0]) / (GAP[1] - GAP[0]), 0.0), 1.0)


def strangeness(difference: Tensor) -> Tensor:  # [N, 3] logarithms -> [N]
    """How far a colour is from what is likely; 1 is as far as shading and complexion go."""
    brightness = difference.mean(-1)
    hue = (difference - brightness[:, None]).abs().amax(-1)
    return torch.maximum(brightness.abs() / BRIGHTNESS, hue / HUE)


def on_cheeks(prior: UVPrior) -> Tensor:  # [N]
    """1 where the template turns to the side below the temples: cheeks, jaw, ears, sides of the neck."""
    statics = prior.statics.flatten(1)[:, prior.index]
    height, sideways = statics[1] * 0.1, statics[3].abs()
    aside = ((sideways - SIDEWAYS[0]) / (SIDEWAYS[1] - SIDEWAYS[0])).clamp(0, 1)
    return prior.on_skin * aside * ((TEMPLE[0] - height) / (TEMPLE[0] - TEMPLE[1])).clamp(0, 1)
