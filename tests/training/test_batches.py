"""Samples: half resolution, and the same whoever draws them."""

from dataclasses import fields

import pytest
import torch

from flexavatar_cli.core.errors import InputError
from flexavatar_cli.heads.surface import surface
from flexavatar_cli.training.batches import texel_rows
from flexavatar_cli.training.config import Phase, TrainConfig
from flexavatar_cli.training.feed import Feed
from flexavatar_cli.training.synthetic.pack import RESOLUTION, read_pack


def feed(head, pack_folder, **changes) -> Feed:
    phase = Phase(RESOLUTION, 2, 1e-3, steps=1, kind="rendered")
    return Feed(TrainConfig(model="", phases=(phase,), **changes), phase, head, read_pack(pack_folder, head))


def test_half_resolution_picks_texels_that_lie_where_they_should(head):
    rows = texel_rows(head, 128)
    fine = surface(head.texels(RESOLUTION), head.template)[torch.from_numpy(rows)]
    coarse = surface(head.texels(128), head.template)
    assert (fine - coarse).norm(dim=-1).median() < 0.002


def test_a_sample_depends_on_its_place_alone(head, pack_folder):
    together = feed(head, pack_folder).batch(3, range(2))
    alone = feed(head, pack_folder).batch(3, range(1, 2))
    for field in fields(together):
        if field.name != "targets":
            torch.testing.assert_close(getattr(together, field.name)[1:], getattr(alone, field.name))
    torch.testing.assert_close(together.targets[1].picture, alone.targets[0].picture)


def test_sinks_follow_the_configuration(head, pack_folder):
    assert feed(head, pack_folder).batch(0, range(4)).sink.tolist() == [1] * 4
    assert feed(head, pack_folder, sinks="none").batch(0, range(4)).sink.tolist() == [0] * 4
    sides = feed(head, pack_folder, sinks="side").batch(0, range(12)).sink
    assert set(sides.tolist()) <= {1, 2, 3, 4}
    assert len(set(sides.tolist())) > 2
    few = feed(head, pack_folder, multi_view_share=0.34).batch(0, range(8))
    assert 0 in few.sink
    assert all(target.one_sided == (sink == 0) for target, sink in zip(few.targets, few.sink.tolist(), strict=True))


def test_free_portraits_teach_by_pictures_alone(head, pack_folder):
    batches = [
        feed(head, pack_folder, multi_view_share=0.34, guarded_portraits=kept).batch(0, range(8))
        for kept in (True, False)
    ]
    guarded, free = batches
    alone = guarded.sink == 0
    assert 0 < alone.sum() < 8
    assert guarded.weight[alone].any()
    assert not free.weight[alone].any()
    assert not free.height_weight[alone].any()
    torch.testing.assert_close(free.weight[~alone], guarded.weight[~alone])
    assert not any(target.one_sided for target in free.targets)


def test_a_folder_that_is_no_pack_is_named(head, tmp_path):
    with pytest.raises(InputError, match="flexavatar prepare"):
        read_pack(tmp_path, head)
