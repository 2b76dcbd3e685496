"""Training: losses of the right answer, a run that resumes, and weights that load."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from flexavatar_cli.cli.app import run
from flexavatar_cli.core.attributes import TexelAttributes
from flexavatar_cli.core.errors import InputError, UsageError
from flexavatar_cli.model import ModelCard, ModelConfig, load_model
from flexavatar_cli.model.config import UvFeaturesConfig, card_text
from flexavatar_cli.stages.uv_prior import CHANNELS
from flexavatar_cli.training.batches import collate
from flexavatar_cli.training.stage1 import Bench, Phase, TrainConfig, Trainer, evaluate, losses, read_config
from flexavatar_cli.training.synthetic.pack import RESOLUTION, read_pack


@pytest.fixture
def card() -> ModelCard:
    config = replace(ModelConfig.tiny(RESOLUTION), uv_features=UvFeaturesConfig(CHANNELS, patch=16))
    return ModelCard(name="small", network=config)


def settings(**changes) -> TrainConfig:
    return TrainConfig(model="", seed=1, phases=(Phase(RESOLUTION, 0.05, 1, 1e-3),), **changes)


def test_the_right_answer_costs_nothing(head, pack_folder):
    pack = read_pack(pack_folder, head)
    bench = Bench.make(head, pack, RESOLUTION, 16)
    sample = bench.batcher.synthetic(pack.views, pack.skins, 0, np.random.default_rng(0), augment=False)
    batch = collate([sample])
    count = batch.target.shape[1]
    offset = torch.stack([torch.zeros(1, count), torch.zeros(1, count), batch.height], -1)
    right = TexelAttributes(
        offset=offset,
        scale=torch.ones(1, count, 3),
        rotation=torch.tensor([1.0, 0, 0, 0]).expand(1, count, 4),
        opacity=torch.full((1, count), 0.99),
        color=batch.target,
    )
    assert sum(term.item() for term in losses(bench, batch, right).values()) < 1e-6
    wrong = replace(right, color=batch.target + 0.1)
    assert losses(bench, batch, wrong)["color"].item() == pytest.approx(0.1, abs=0.02)


def test_half_resolution_picks_texels_that_lie_where_they_should(head, pack_folder):
    from flexavatar_cli.heads.surface import surface
    from flexavatar_cli.training.batches import texel_rows

    rows = texel_rows(head, 128)
    fine = surface(head.texels(RESOLUTION), head.template)[torch.from_numpy(rows)]
    coarse = surface(head.texels(128), head.template)
    assert (fine - coarse).norm(dim=-1).median() < 0.002


def test_a_run_learns_stops_and_goes_on(head, pack_folder, card, tmp_path):
    trainer = Trainer(settings(), card, pack_folder, tmp_path / "run")
    seen: list[float] = []
    trainer.run(lambda step, terms: seen.append(terms["total"]))
    assert len(seen) == trainer.step >= 1
    again = Trainer(settings(), card, pack_folder, tmp_path / "run")
    assert again.step == trainer.step
    for name, value in trainer.model.state_dict().items():
        torch.testing.assert_close(again.model.state_dict()[name], value)
    model = load_model(tmp_path / "run" / "model")
    metrics = evaluate(model, head, trainer.pack, limit=1)
    assert np.isfinite(list(metrics.values())).all()
    again.run()  # all phases are done: nothing happens
    assert again.step == trainer.step


def test_the_command_trains_and_measures(pack_folder, card, tmp_path, capsys):
    folder = tmp_path / "small"
    folder.mkdir()
    (folder / "model.yaml").write_text(card_text(card))
    config = tmp_path / "train.yaml"
    config.write_text(
        f"model: {folder}\nseed: 0\nphases:\n  - {{resolution: 256, minutes: 0.02, batch: 1, rate: 1.0e-3}}\n"
    )
    assert run(["train", str(config), "--data", str(pack_folder), "-o", str(tmp_path / "run"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["steps"] >= 1
    assert "scalp_cm" in facts


def test_a_wrong_configuration_is_named(tmp_path):
    path = tmp_path / "train.yaml"
    path.write_text("model: x\nspeed: 3\nphases: []\n")
    with pytest.raises(UsageError, match="speed"):
        read_config(path)


def test_a_folder_that_is_no_pack_is_named(head, tmp_path):
    with pytest.raises(InputError, match="flexavatar prepare"):
        read_pack(tmp_path, head)
