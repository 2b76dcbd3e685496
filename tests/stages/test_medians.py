"""Medians over the skin."""

import pytest
import torch

from flexavatar_cli.heads import HeadModel, load_head
from flexavatar_cli.heads.surface import surface
from flexavatar_cli.stages.medians import RADIUS, medians, surroundings

RESOLUTION = 256


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return load_head()


def test_surroundings_are_near_and_of_the_skin(head):
    grid, around = head.texels(RESOLUTION), surroundings(head, RESOLUTION)
    places = surface(grid, head.template)
    neck = torch.nonzero(grid.part == head.part_names.index("neck"))[:, 0]
    apart = (places[around.near[neck]] - places[neck, None]).norm(dim=-1)
    assert apart[around.weight[neck] > 0].max() < RADIUS
    teeth = torch.nonzero(grid.part == head.part_names.index("teeth"))[:, 0]
    used = around.near[neck][around.weight[neck] > 0]
    assert not torch.isin(used, teeth).any()


def test_specks_go_and_edges_stay(head):
    grid, around = head.texels(RESOLUTION), surroundings(head, RESOLUTION)
    places = surface(grid, head.template)
    neck = torch.nonzero(grid.part == head.part_names.index("neck"))[:, 0]
    edge = (places[:, 1] > places[neck, 1].median()).float()
    values = torch.stack([edge, 1 - edge], -1)
    specks = neck[torch.rand(len(neck), generator=torch.Generator().manual_seed(0)) < 0.09]
    values[specks] = 1 - values[specks]
    found = medians(values, around, neck)
    far = (places[neck, 1] - places[neck, 1].median()).abs() > RADIUS
    wrong = (found[:, 0] - edge[neck]).abs() > 0.5
    assert far.sum() > 1000
    assert wrong[far].sum() < 0.02 * far.sum() * len(specks) / len(neck)  # hardly a speck is left
    assert wrong[~far].float().mean() < 0.25  # nor has the edge moved far


def test_what_is_not_skin_is_its_own_median(head):
    grid, around = head.texels(RESOLUTION), surroundings(head, RESOLUTION)
    teeth = torch.nonzero(grid.part == head.part_names.index("teeth"))[:, 0]
    values = torch.rand(len(grid), 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(medians(values, around, teeth), values[teeth])
