"""Losses: the right answer costs nothing, and portraits teach nothing about what they do not show."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from flexavatar_cli.core.attributes import TexelAttributes
from flexavatar_cli.model import ModelConfig
from flexavatar_cli.training.batches import Batcher, collate
from flexavatar_cli.training.bench import make_bench
from flexavatar_cli.training.objectives import picture_terms, uv_terms
from flexavatar_cli.training.synthetic.pack import RESOLUTION, read_pack
from flexavatar_cli.training.targets import Studio


def sample(head, pack_folder, one_sided: bool = False):
    pack = read_pack(pack_folder, head)
    batcher = Batcher(head, pack, RESOLUTION, Studio(head))
    generator = np.random.default_rng(0)
    return collate([batcher.synthetic(pack.views, pack.skins, 0, generator, augment=False, one_sided=one_sided)])


@pytest.fixture(scope="module")
def bench(head, pack_folder):
    return make_bench(head, read_pack(pack_folder, head), ModelConfig.tiny(RESOLUTION), RESOLUTION, torch.device("cpu"))


def right_answer(batch) -> TexelAttributes:
    count = batch.target.shape[1]
    return TexelAttributes(
        offset=torch.stack([torch.zeros(1, count), torch.zeros(1, count), batch.height], -1),
        scale=torch.ones(1, count, 3),
        rotation=torch.tensor([1.0, 0, 0, 0]).expand(1, count, 4),
        opacity=torch.full((1, count), 0.99),
        color=batch.target,
    )


def test_the_right_answer_costs_nothing_in_texels(head, pack_folder, bench):
    batch = sample(head, pack_folder)
    right = right_answer(batch)
    assert sum(term.item() for term in uv_terms(bench, batch, right).values()) < 1e-6
    wrong = replace(right, color=batch.target + 0.1)
    assert uv_terms(bench, batch, wrong)["color"].item() == pytest.approx(0.1, abs=0.02)


def test_the_right_answer_costs_least_in_pictures(head, pack_folder, bench):
    batch = sample(head, pack_folder)
    right = right_answer(batch)
    cost = picture_terms(bench, batch.targets, right)
    assert cost["picture"].item() < 0.03
    assert cost["outline"].item() < 0.06
    bald = replace(right, offset=torch.zeros_like(right.offset))
    assert picture_terms(bench, batch.targets, bald)["outline"] > 1.2 * cost["outline"]
    grey = replace(right, color=torch.full_like(right.color, 0.5))
    assert picture_terms(bench, batch.targets, grey)["picture"] > 2 * cost["picture"]


def test_one_camera_teaches_nothing_about_the_back(head, pack_folder, bench):
    batch = sample(head, pack_folder, one_sided=True)
    color = right_answer(batch).color.clone().requires_grad_(True)
    terms = picture_terms(bench, batch.targets, replace(right_answer(batch), color=color))
    (gradient,) = torch.autograd.grad(terms["picture"], color)
    grid = head.texels(RESOLUTION)
    from flexavatar_cli.heads.surface import surface

    depth = surface(grid, head.template)[:, 2]
    part = np.array(head.part_names)[grid.part.numpy()]
    back = torch.from_numpy(part == "scalp") & (depth < -0.08)
    assert back.any()
    assert gradient[0, back].abs().max() == 0
    assert gradient[0, depth > 0.09].abs().max() > 0


def test_bumps_cost_more_than_a_shift(head, pack_folder, bench):
    batch = sample(head, pack_folder)
    right = right_answer(batch)
    bumps = 0.002 * (-1.0) ** (bench.prior.index // 8)
    up = torch.tensor([0.0, 0, 1])
    costs = [
        uv_terms(bench, batch, replace(right, offset=right.offset + lift * up)) for lift in (0.002, bumps[:, None])
    ]
    assert costs[0]["height"].item() == pytest.approx(costs[1]["height"].item())
    assert costs[1]["relief"] > 10 * costs[0]["relief"]
