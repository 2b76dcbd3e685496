"""What a photo shows on a grazing cheek must look like skin."""

import pytest
import torch

from flexavatar_cli.heads import load_head
from flexavatar_cli.stages.observation import Evidence
from flexavatar_cli.stages.strangers import BRIGHTNESS, HUE, on_cheeks, strangeness, without_strangers
from flexavatar_cli.stages.uv_prior import UVPrior, uv_prior

RESOLUTION = 64


@pytest.fixture(scope="module")
def prior() -> UVPrior:
    head = load_head()
    return uv_prior(head, RESOLUTION, torch.full((len(head.texels(RESOLUTION).index), 3), 0.5))


def photographed(prior: UVPrior, foreign: torch.Tensor) -> Evidence:
    """A person of the mean head's colour, seen from the front; where `foreign`, a dark collar."""
    normal_z = prior.statics.flatten(1)[5, prior.index]
    color = torch.where(foreign[:, None], 0.05, 0.5) * torch.ones(3)
    count = len(prior.index)
    facing = normal_z.clamp(0, 1)
    return Evidence(color, (facing > 0.15).float(), facing, torch.zeros(count), torch.zeros(count, 2))


def test_a_collar_on_the_cheek_is_not_seen(prior):
    facing = prior.statics.flatten(1)[5, prior.index]
    grazing = (on_cheeks(prior) == 1) & (facing > 0.2) & (facing < 0.45)
    found = photographed(prior, grazing)
    kept = without_strangers(found, prior, load_head())
    assert grazing.sum() > 20
    assert kept.seen[grazing].max() == 0
    frontal = facing > 0.97
    torch.testing.assert_close(kept.seen[frontal], found.seen[frontal])


def test_skin_stays_seen(prior):
    nothing = torch.zeros(len(prior.index), dtype=torch.bool)
    found = photographed(prior, nothing)
    torch.testing.assert_close(without_strangers(found, prior, load_head()).seen, found.seen)


def test_what_faces_the_camera_is_believed(prior):
    facing = prior.statics.flatten(1)[5, prior.index]
    found = photographed(prior, facing > 0.8)
    kept = without_strangers(found, prior, load_head())
    amid = facing > 0.97  # the border recedes by a texel or two
    torch.testing.assert_close(kept.seen[amid], found.seen[amid], atol=0.1, rtol=0)


def test_shade_is_less_strange_than_another_hue():
    shade = torch.full((1, 3), -0.9 * BRIGHTNESS)
    blue = torch.tensor([[-HUE, -HUE, 2 * HUE]])
    assert strangeness(shade) < 1 < strangeness(blue)


def test_temples_are_not_cheeks(prior):
    height = prior.statics.flatten(1)[1, prior.index] * 0.1
    assert on_cheeks(prior)[height > 0.04].max() == 0
    assert on_cheeks(prior)[(height < 0.0) & (height > -0.02)].max() == 1
