"""Lids that close in the colour of the skin around them, with a line of lashes."""

from dataclasses import fields

import pytest
import torch

from flexavatar_cli.core.attributes import TexelAttributes
from flexavatar_cli.core.expression import INDEX
from flexavatar_cli.core.ramps import smoothstep
from flexavatar_cli.heads import load_head
from flexavatar_cli.heads.surface import surface
from flexavatar_cli.stages.eyelids import CLOSING, LASH_TONE, lids, with_lids_closed

RESOLUTION = 256
BROWN = torch.tensor([0.6, 0.4, 0.3])


@pytest.fixture(scope="module")
def head():
    return load_head()


@pytest.fixture(scope="module")
def pair(head):
    return lids(head, head.texels(RESOLUTION))


def painted(pair, count: int, skin: torch.Tensor = BROWN, batch: int = 1) -> TexelAttributes:
    """Heads of plain skin whose lids the photo showed as black lashes, thinned by fitting."""
    color = skin.expand(batch, count, 3).clone()
    opacity, scale = torch.ones(batch, count), torch.ones(batch, count, 3)
    for lid in pair:
        own = lid.texels[lid.weight > 0]
        color[:, own], opacity[:, own], scale[:, own] = 0.05, 0.2, 0.7
    return TexelAttributes(torch.zeros(batch, count, 3), scale, torch.zeros(batch, count, 4), opacity, color)


def expression(**coefficients: float) -> torch.Tensor:
    code = torch.zeros(1, len(INDEX))
    for name, value in coefficients.items():
        code[:, INDEX[name]] = value
    return code


def blink(amount: float) -> torch.Tensor:
    return expression(eyeBlinkLeft=amount, eyeBlinkRight=amount)


def test_lids_lie_at_the_eyes_and_skin_around_them(head, pair):
    points = surface(head.texels(RESOLUTION), head.template)
    for side, lid in zip(("left", "right"), pair, strict=True):
        eye = head.joints[f"eye_{side}"]
        own = points[lid.texels[lid.weight > 0.5]] - eye
        assert 80 < len(own) < 300
        assert own[:, 0].abs().max() < 0.025
        assert (own[:, 1] > -0.005).float().mean() > 0.9
        assert len(lid.under) > 30
        assert (points[lid.under] - eye)[:, 1].max() < -0.01
        around = points[lid.around] - eye
        assert around[:, :2].amin(0).max() < -0.015
        assert around[:, :2].amax(0).min() > 0.015
        torch.testing.assert_close(lid.influence.sum(1), torch.ones(len(lid.texels)))


def test_lashes_run_along_the_whole_edge_of_a_closed_lid(head, pair):
    grid = head.texels(RESOLUTION)
    closed = surface(grid, head.vertices(None, blink(1.0)))[0]
    for lid in pair:
        dark = closed[lid.texels[lid.lash > 0.5]]
        assert dark[:, 0].max() - dark[:, 0].min() > 0.02  # an eye is about 3 cm wide
        middle = closed[lid.texels[lid.weight == 1]]
        assert dark[:, 1].mean() < middle[:, 1].mean() - 0.002


@pytest.mark.parametrize("looks", [{}, {"eyeLookUpLeft": 1.0}, {"eyeWideRight": 0.8}, {"jawOpen": 1.0}])
def test_open_eyes_are_the_photo_to_the_bit(head, pair, looks):
    attributes = painted(pair, len(head.texels(RESOLUTION)))
    batch = attributes.map(lambda tensor: tensor.expand(2, *tensor.shape[1:]))
    made = with_lids_closed(pair, batch, torch.cat([expression(**looks), blink(1.0)]))
    for field in fields(attributes):
        assert torch.equal(getattr(made, field.name)[0], getattr(attributes, field.name)[0])
    assert not torch.equal(made.color[1], attributes.color[0])


@pytest.mark.parametrize("skin", [BROWN, torch.tensor([0.2, 0.12, 0.09]), torch.tensor([0.95, 0.78, 0.7])])
def test_a_closed_lid_is_opaque_skin_in_soft_shade_with_darker_lashes(head, pair, skin):
    attributes = painted(pair, len(head.texels(RESOLUTION)), skin)
    made = with_lids_closed(pair, attributes, blink(1.0))
    for lid in pair:
        full = lid.texels[(lid.weight == 1) & (lid.lash < 0.05)]
        share = made.color[0, full] / skin
        assert share.min() > 0.7
        assert share.max() < 1.0
        lashes = made.color[0, lid.edge] / skin
        assert lashes.median() < LASH_TONE[1]
        own = lid.texels[lid.weight == 1]
        assert made.opacity[0, own].min() == 1
        assert made.scale[0, own].min() == 1


def test_lids_close_one_by_one(head, pair):
    attributes = painted(pair, len(head.texels(RESOLUTION)))
    both = with_lids_closed(pair, attributes, blink(1.0))
    one = with_lids_closed(pair, attributes, expression(eyeBlinkLeft=1.0))
    left, right = pair
    assert torch.equal(one.color[0, left.texels], both.color[0, left.texels])
    assert torch.equal(one.color[0, right.texels], attributes.color[0, right.texels])


def test_lids_that_follow_the_gaze_down_are_skin_too(head, pair):
    attributes = painted(pair, len(head.texels(RESOLUTION)))
    made = with_lids_closed(pair, attributes, expression(eyeLookDownLeft=1.0))
    left = pair[0]
    full = left.texels[(left.weight == 1) & (left.lash < 0.05)]
    assert (made.color[0, full] / BROWN).min() > 0.7


def test_rims_and_reflections_of_glasses_do_not_tint_a_lid(head, pair):
    points = surface(head.texels(RESOLUTION), head.template)
    plain = painted(pair, len(points))
    left = pair[0]
    around = points[left.around] - head.joints["eye_left"]
    worn = plain.color.clone()
    worn[:, left.around[around[:, 1] > 0.012]] = torch.tensor([0.05, 0.1, 0.12])
    worn[:, left.around[around[:, 0] > 0.017]] = 1.0
    full = left.texels[left.weight == 1]
    glasses = TexelAttributes(**(vars(plain) | {"color": worn}))
    difference = with_lids_closed(pair, glasses, blink(1.0)).color - with_lids_closed(pair, plain, blink(1.0)).color
    assert difference[:, full].abs().max() < 0.03  # 5 % of the skin, of which glasses hide two sides of four


def test_skin_lit_from_one_side_makes_a_lid_lit_from_that_side(head, pair):
    points = surface(head.texels(RESOLUTION), head.template)
    plain = painted(pair, len(points))
    left = pair[0]
    across = points[:, 0] - head.joints["eye_left"][0]
    lit = TexelAttributes(**(vars(plain) | {"color": plain.color * (1 + 10 * across[:, None])}))
    share = with_lids_closed(pair, lit, blink(1.0)).color / with_lids_closed(pair, plain, blink(1.0)).color
    full = left.texels[left.weight == 1]
    slope = torch.corrcoef(torch.stack([share[0, full, 0], across[full]]))[0, 1]
    assert slope > 0.9


def test_closing_is_smooth(head, pair):
    attributes = painted(pair, len(head.texels(RESOLUTION)))
    colors = torch.cat([with_lids_closed(pair, attributes, blink(step / 100)).color for step in range(101)])
    steps = colors.diff(dim=0).abs().amax((1, 2))
    assert steps.max() < 0.03  # 4 % of the way in a hundredth of a blink, from black to brown
    assert steps.diff().abs().max() < 0.003


def test_gradients_reach_what_a_half_open_lid_shows(head, pair):
    attributes = painted(pair, len(head.texels(RESOLUTION)))
    color = attributes.color.requires_grad_()
    with_lids_closed(pair, attributes, expression(eyeBlinkLeft=0.25)).color.sum().backward()
    left = pair[0]
    own = left.texels[left.weight == 1]
    share = smoothstep(torch.tensor(0.25), CLOSING)
    torch.testing.assert_close(color.grad[0, own], (1 - share).expand(len(own), 3))


def test_a_grid_without_lids_stays_as_it_is(head):
    grid = head.texels(16)
    attributes = painted((), len(grid))
    made = with_lids_closed(lids(head, grid), attributes, blink(1.0))
    assert made.color.isfinite().all()
