"""Lids that close in the colour of skin."""

import pytest
import torch

from flexavatar_cli.core.attributes import TexelAttributes
from flexavatar_cli.core.expression import INDEX
from flexavatar_cli.heads import load_head
from flexavatar_cli.heads.surface import surface
from flexavatar_cli.stages.eyelids import SHADE, lids, with_lids_closed

RESOLUTION = 256


@pytest.fixture(scope="module")
def head():
    return load_head()


def painted(count: int, lid_texels: torch.Tensor) -> TexelAttributes:
    """Two heads of brown skin whose lids the photo showed as black lashes."""
    color = torch.tensor([0.6, 0.4, 0.3]).expand(2, count, 3).clone()
    color[:, lid_texels] = 0.05
    zeros = torch.zeros(2, count, 3)
    return TexelAttributes(zeros, zeros + 1, torch.zeros(2, count, 4), torch.ones(2, count), color)


def test_lids_lie_at_the_eyes_and_the_skin_below(head):
    grid = head.texels(RESOLUTION)
    points = surface(grid, head.template)
    for side, lid in zip(("left", "right"), lids(head, grid), strict=True):
        eye = head.joints[f"eye_{side}"]
        own = points[lid.texels[lid.weight > 0.5]]
        assert 20 < len(own) < 300
        assert (own - eye)[:, 0].abs().max() < 0.025
        assert ((own - eye)[:, 1] > -0.005).float().mean() > 0.9
        assert len(lid.skin) > 30
        assert (points[lid.skin] - eye)[:, 1].max() < -0.01


def test_a_closed_lid_is_skin_and_an_open_one_is_the_photo(head):
    grid = head.texels(RESOLUTION)
    pair = lids(head, grid)
    attributes = painted(len(grid), torch.cat([lid.texels for lid in pair]))
    expression = torch.zeros(2, len(INDEX))
    expression[1, INDEX["eyeBlinkLeft"]] = 1
    color = with_lids_closed(pair, attributes, expression).color
    left, right = pair
    torch.testing.assert_close(color[0], attributes.color[0])
    torch.testing.assert_close(color[1, right.texels], attributes.color[1, right.texels])
    full = left.texels[left.weight == 1]
    torch.testing.assert_close(color[1, full], SHADE * torch.tensor([0.6, 0.4, 0.3]).expand(len(full), 3))
