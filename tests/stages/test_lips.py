"""Lips of a smile that close without a seam of teeth."""

import pytest
import torch

from flexavatar_cli.core.attributes import TexelAttributes
from flexavatar_cli.core.expression import INDEX
from flexavatar_cli.heads import load_head
from flexavatar_cli.heads.surface import surface
from flexavatar_cli.stages.lips import lips, with_lips_closed

RESOLUTION = 256
ROSE, TOOTH = torch.tensor([0.6, 0.35, 0.33]), torch.tensor([0.8, 0.76, 0.7])


@pytest.fixture(scope="module")
def head():
    return load_head()


@pytest.fixture(scope="module")
def mouth(head):
    return lips(head, head.texels(RESOLUTION))


def expression(**weights: float) -> torch.Tensor:
    code = torch.zeros(1, len(INDEX))
    for name, weight in weights.items():
        code[0, INDEX[name]] = weight
    return code


def smiling(head, mouth, edge: torch.Tensor) -> TexelAttributes:
    """Rosy lips with the colour `edge` along their inner edge."""
    count = len(head.texels(RESOLUTION).index)
    color = ROSE.expand(1, count, 3).clone()
    color[:, mouth.texels[mouth.weight == 1]] = edge
    some = torch.ones(1, count, 3)
    return TexelAttributes(0 * some, some, torch.zeros(1, count, 4), torch.ones(1, count), color)


def test_the_edge_lies_at_the_mouth(head, mouth):
    points = surface(head.texels(RESOLUTION), head.template)[mouth.texels]
    assert 50 < len(points) < 2000
    assert points[:, 0].abs().max() < 0.035
    assert (points[:, 2] > 0.07).all()
    torch.testing.assert_close(mouth.influence.sum(1), torch.ones(len(mouth.texels)))


@pytest.mark.parametrize("name", ["jawOpen", "mouthUpperUpLeft", "mouthLowerDownRight"])
def test_what_opens_the_mouth_parts_the_lips(mouth, name):
    assert mouth.parting[INDEX[name]] > 1e-3


def test_closed_lips_have_no_teeth_on_them(head, mouth):
    shut = with_lips_closed(mouth, smiling(head, mouth, TOOTH), expression())
    sure = mouth.texels[mouth.weight == 1]
    torch.testing.assert_close(shut.color[0, sure], ROSE.expand(len(sure), 3), atol=0.03, rtol=0)


def test_parted_lips_keep_what_the_photo_shows(head, mouth):
    given = smiling(head, mouth, TOOTH)
    torch.testing.assert_close(with_lips_closed(mouth, given, expression(jawOpen=0.5)).color, given.color)


def test_the_shade_between_lips_stays(head, mouth):
    given = smiling(head, mouth, 0.4 * ROSE)
    torch.testing.assert_close(with_lips_closed(mouth, given, expression()).color, given.color)


def test_closing_is_gradual(head, mouth):
    given, sure = smiling(head, mouth, TOOTH), mouth.texels[mouth.weight == 1]
    levels = [0.0, 0.05, 0.1, 0.3]
    reds = [with_lips_closed(mouth, given, expression(jawOpen=level)).color[0, sure, 1].mean() for level in levels]
    assert reds == sorted(reds)
    assert reds[0] < reds[-1]
