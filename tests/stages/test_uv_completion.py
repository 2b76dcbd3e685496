"""Closed-form completion."""

import pytest
import torch

from flexavatar_cli.heads import load_head
from flexavatar_cli.stages.uv_completion import (
    CHANNELS,
    DISPLACEMENT_UNIT,
    Completion,
    base_color,
    prevailing,
    uv_features,
)
from flexavatar_cli.stages.uv_prior import BEYOND, RIM, low_frequencies, uv_prior

RESOLUTION = 64


@pytest.fixture(scope="module")
def prior():
    head = load_head()
    count = len(head.texels(RESOLUTION).index)
    mean = 0.4 + 0.2 * torch.rand(count, 3, generator=torch.Generator().manual_seed(0))
    return uv_prior(head, RESOLUTION, mean)


def test_a_constant_is_filled_with_itself(prior):
    count = len(prior.index)
    values = torch.full((1, count, 3), 0.7)
    seen = (torch.arange(count) % 7 == 0).float()[None]
    filled = low_frequencies(prior, values, seen, prior.kernel)
    torch.testing.assert_close(filled, values, atol=1e-4, rtol=0)


def test_what_is_seen_stays(prior):
    color = torch.rand(1, len(prior.index), 3, generator=torch.Generator().manual_seed(1))
    color = 0.2 + 0.6 * color
    full, _ = base_color(prior, color, torch.ones(1, len(prior.index)), torch.zeros(1, len(prior.index)))
    torch.testing.assert_close(full, color, atol=1e-5, rtol=0)


def test_a_darker_photo_of_the_mean_head_is_completed_as_a_darker_mean_head(prior):
    """Half of the head seen at half the brightness: the other skin follows; the floor on ratios costs a little."""
    half = (prior.statics.flatten(1)[0, prior.index] > 0).float()[None]
    color = 0.5 * prior.mean_color[None]
    full, _ = base_color(prior, color, half, torch.zeros_like(half))
    unseen = (half[0] == 0) & ~prior.interior
    error = (full - color)[0, unseen].abs().mean()
    assert error < 0.04


def test_features_begin_with_base_and_displacement(prior):
    count = len(prior.index)
    color = torch.full((2, count, 3), 0.3)
    ones = torch.ones(2, count)
    features = uv_features(prior, color, ones, ones, 0.02 * ones)
    assert features.shape == (2, CHANNELS, RESOLUTION, RESOLUTION)
    flat = features.flatten(2)[:, :, prior.index]
    torch.testing.assert_close(flat[:, :3], torch.full((2, 3, count), -0.2), atol=1e-5, rtol=0)
    torch.testing.assert_close(flat[:, 3], torch.full((2, count), 0.02 / DISPLACEMENT_UNIT))


def test_nothing_seen_gives_finite_colours(prior):
    count = len(prior.index)
    full, low = base_color(prior, torch.zeros(1, count, 3), torch.zeros(1, count), torch.zeros(1, count))
    assert torch.isfinite(full).all()
    assert torch.isfinite(low).all()


def test_unseen_hair_takes_the_colour_of_seen_hair(prior):
    """Black hair lifted 3 cm on the seen half: lifted skin texels of the other half come out black, not skin."""
    count = len(prior.index)
    x = prior.statics.flatten(1)[0, prior.index]
    lifted = (prior.above_shoulders > 0.5) & (prior.statics.flatten(1)[2, prior.index] < 0.3)
    color = torch.where(lifted[:, None], torch.tensor(0.05), torch.tensor(0.7)).expand(count, 3)[None]
    seen = (x > 0).float()[None]
    full, _ = base_color(prior, color, seen, 0.03 * lifted.float()[None])
    hidden = (x < 0) & lifted
    assert full[0, hidden].mean() < 0.2


def test_a_forehead_does_not_colour_the_hair_of_the_wary():
    """Two thirds of what is seen where others have hair is a forehead."""
    head = load_head()
    prior = uv_prior(head, RESOLUTION, torch.full((len(head.texels(RESOLUTION)), 3), 0.5))
    shown = (prior.places[:, 2] > 0).float()[None]
    height = prior.places[:, 1]
    hairline = height[(prior.on_scalp > 0) & (shown[0] > 0)].quantile(0.66)
    hair = (prior.on_scalp > 0) & (height > hairline)
    color = torch.where(hair[:, None], 0.08, torch.tensor([0.62, 0.45, 0.38])).expand(1, -1, 3)
    lifted = 0.02 * prior.on_scalp[None]
    back = (shown[0] == 0) & (prior.on_scalp > 0.9)
    completion = Completion(prior, color, shown, lifted)
    trusting, wary = (completion.colors(wary)[0][0, back].mean() for wary in (False, True))
    assert trusting > 0.3
    assert wary < 0.5 * trusting


def test_skin_does_not_show_through_hair(prior):
    """The colours of unseen hair over ears and neck do not depend on what the mean head's skin looks like there."""
    bare = (prior.on_scalp == 0) & ~prior.interior & (prior.above_shoulders == 1)
    head = load_head()
    reddened = torch.where(bare[:, None], prior.mean_color * torch.tensor([1.5, 0.5, 0.5]), prior.mean_color)
    color = torch.full((1, len(bare), 3), 0.2)
    lifted = 0.03 * (prior.above_shoulders == 1).float()[None]
    seen = prior.on_scalp[None]
    (plain, _), (red, _) = (
        base_color(one, color, seen, lifted) for one in (prior, uv_prior(head, RESOLUTION, reddened))
    )
    torch.testing.assert_close(red[0, bare], plain[0, bare], atol=1e-4, rtol=0)


def test_the_colour_that_prevails_outweighs_the_rest():
    values = torch.full((1, 100, 3), 0.2)
    values[0, :25] = 3.0
    share = prevailing(values, torch.ones(1, 100))
    assert share[0, 25:].min() > 0.9
    assert share[0, :25].max() < 0.1


def test_a_collar_on_the_neck_does_not_colour_the_skin_around(prior):
    """Between a lit face and the dark collar below, unseen skin takes the face's colour."""
    head, height = load_head(), prior.statics.flatten(1)[1, prior.index] * 0.1
    part = head.texels(RESOLUTION).part
    neck, face = (part == head.part_names.index(name) for name in ("neck", "face"))
    collar = neck & (height < -0.1)
    color = torch.where(collar[:, None], 0.05, 1.0) * prior.mean_color
    seen = (face | collar).float()
    full, _ = base_color(prior, color[None], seen[None], torch.zeros_like(seen)[None])
    between = neck & ~collar & (height > -0.07)
    assert between.sum() > 10
    ratio = full[0, between].mean() / prior.mean_color[between].mean()
    assert 0.9 < ratio < 1.1


def test_a_jacket_goes_on_below_the_picture_and_not_the_tie(prior):
    """A photo that ends at the chest shows a tie in the middle; the shoulders behind it take the jacket's colour."""
    x, height, depth = prior.places.T
    bust = prior.on_bust > 0
    shown = bust & (depth > 0.02) & (height > -0.17)
    tie = shown & (x.abs() < 0.03)
    color = torch.where(tie[:, None], torch.tensor([0.9, 0.1, 0.1]), torch.tensor([0.1, 0.1, 0.3])).expand(len(x), 3)
    full, _ = base_color(prior, color[None], shown.float()[None], torch.zeros_like(x)[None])
    assert tie.sum() > 5
    back = full[0, bust & ~shown & (depth < -0.02)].mean(0)
    assert torch.allclose(back / back.sum(), torch.tensor([0.2, 0.2, 0.6]), atol=0.12)


def test_a_bare_chest_does_not_colour_the_clothes_below(prior):
    """Of the bust only its top is seen, mostly skin: what is below wears the little cloth that shows."""
    height, on_bust = prior.places[:, 1], prior.on_bust > 0
    top = on_bust & (height > height[on_bust].quantile(0.8))
    cloth = top & (prior.places[:, 0] > prior.places[top, 0].quantile(0.7))
    skin, blue = torch.tensor([0.7, 0.5, 0.4]), torch.tensor([0.2, 0.25, 0.5])
    color = skin.expand(1, len(height), 3).clone()
    color[0, cloth] = blue
    seen = (top | (prior.on_face > 0)).float()[None]
    full, _ = base_color(prior, color, seen, torch.zeros_like(seen))
    below = full[0, on_bust & ~top].mean(0)
    assert (below - blue).norm() < 0.5 * (below - skin).norm()


def test_cheeks_in_the_shade_go_on_in_the_shade(prior):
    """A face that darkens towards its outline stays as dark beside it, not as bright as its front."""
    x, height, depth = prior.places.T
    cheek = (prior.on_face > 0) & (height > -0.05) & (height < 0.0)
    seen = ((prior.on_face > 0) & (depth > 0.06)).float()
    color = prior.mean_color * (1 - 0.4 * prior.away(RIM))[:, None]
    full, _ = base_color(prior, color[None], seen[None], torch.zeros_like(x)[None])
    beside = cheek & (seen == 0) & (depth > 0.0)
    assert beside.sum() > 10
    ratio = (full[0] / prior.mean_color)[beside].median()
    assert 0.55 < ratio < 0.72


def test_the_mean_head_does_not_grow_lighter_beyond_its_rim(prior):
    """Frontal photos leave their mean dark at its rim; towards the ears, where none of them sees, it stays so."""
    level = 0.5 * (1 - 0.4 * prior.away(RIM) * (1 - prior.away(BEYOND)))
    shaded = level[:, None].expand(-1, 3).contiguous()
    even = uv_prior(load_head(), RESOLUTION, shaded).mean_color.mean(-1)
    _, height, depth = prior.places.T
    side = (prior.on_face > 0) & (prior.away(BEYOND) == 1) & (height > -0.05) & (height < 0.0) & (depth > 0.0)
    front = (prior.on_face > 0) & (prior.away(RIM) == 0)
    assert side.sum() > 10
    assert level[side].mean() > 0.48
    assert even[side].mean() < 0.44
    torch.testing.assert_close(even[front], level[front], atol=1e-4, rtol=0)
