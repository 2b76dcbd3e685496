"""The median of what lies around a point of the skin: it takes specks away and leaves edges."""

from dataclasses import dataclass

import torch
from scipy.spatial import cKDTree
from torch import Tensor

from flexavatar_cli.heads import HeadModel
from flexavatar_cli.heads.surface import surface
from flexavatar_cli.heads.texels import SKIN

RADIUS = 0.008  # metres of the template that a median looks around
NEAREST = 48  # texels at most; the neck's are 2.5 mm apart, 32 of them lie within the radius


@dataclass(frozen=True)
class Surroundings:
    """For each of N texels the K nearest ones of the skin, and their weights: a Gaussian that ends at RADIUS."""

    near: Tensor  # [N, K] int64
    weight: Tensor  # [N, K]; of texels that are not skin 1 for themselves


def surroundings(head: HeadModel, resolution: int) -> Surroundings:
    """The surroundings of the texels of `head`, made once."""
    key = f"surroundings_{resolution}"
    if key not in head.cache:
        head.cache[key] = _make_surroundings(head, resolution)
    return head.cache[key]


def _make_surroundings(head: HeadModel, resolution: int) -> Surroundings:
    grid = head.texels(resolution)
    near = torch.arange(len(grid))[:, None].repeat(1, NEAREST)
    weight = torch.zeros(len(grid), NEAREST)
    weight[:, 0] = 1
    parts = torch.tensor([name in SKIN for name in head.part_names])
    skin = torch.nonzero(parts[grid.part])[:, 0]
    places = surface(grid, head.template)[skin].numpy()
    distance, rank = cKDTree(places).query(places, k=min(NEAREST, len(places)))
    distance = torch.from_numpy(distance).float()
    near[skin, : distance.shape[1]] = skin[torch.from_numpy(rank)]
    weight[skin, : distance.shape[1]] = (-2 * (distance / RADIUS) ** 2).exp() * (distance < RADIUS)
    return Surroundings(near, weight)


def medians(values: Tensor, around: Surroundings, asked: Tensor) -> Tensor:  # [N, C], [M] int64 -> [M, C]
    """The weighted medians of each channel of `values` around the texels `asked`."""
    ordered, order = values[around.near[asked]].sort(1)
    weight = around.weight[asked, :, None].expand_as(ordered).gather(1, order).cumsum(1)
    middle = (weight >= weight[:, -1:] / 2).int().argmax(1, keepdim=True)
    return ordered.gather(1, middle)[:, 0]
