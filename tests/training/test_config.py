"""Training configurations: what they may say, and what is named when it is wrong."""

import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from flexavatar_cli.core.errors import InputError, UsageError
from flexavatar_cli.model.config import ModelConfig, from_mapping
from flexavatar_cli.training.config import merged, network_card, read_config
from flexavatar_cli.training.engine import Trainer
from flexavatar_cli.training.measure import evaluate

PHASE = "phases:\n  - {resolution: 128, steps: 5, batch: 2, rate: 1.0e-3}\n"


def test_a_wrong_configuration_is_named(tmp_path):
    path = tmp_path / "train.yaml"
    path.write_text("model: x\nspeed: 3\nphases: []\n")
    with pytest.raises(UsageError, match="speed"):
        read_config(path)
    path.write_text("model: x\nphases:\n  - {resolution: 128, batch: 2, rate: 1.0e-3}\n")
    with pytest.raises(UsageError, match="steps or minutes"):
        read_config(path)
    path.write_text("[]")
    with pytest.raises(UsageError, match="mapping"):
        read_config(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_config(tmp_path / "none.yaml")


def test_a_base_is_overridden(tmp_path):
    (tmp_path / "base.yaml").write_text(f"model: models/open-1\nseed: 3\n{PHASE}")
    path = tmp_path / "other.yaml"
    path.write_text("base: base.yaml\nseed: 4\nnetwork: {decoder: {sinks: 5}}\n")
    config = read_config(path)
    assert config.seed == 4
    assert config.phases[0].steps == 5
    card = network_card(config)
    assert card.network.decoder.sinks == 5
    assert card.network.width == 256


def test_the_shipped_configuration_can_be_read():
    config = read_config(Path("models/open-1/train.yaml"))
    assert {phase.kind for phase in config.phases} == {"uv", "rendered"}
    assert network_card(config).name == "open-1"


ABLATIONS = sorted(Path("models/open-1/ablations").glob("*.yaml"))


def test_there_are_ablations():
    assert len(ABLATIONS) == 11


@pytest.mark.parametrize("path", ABLATIONS, ids=lambda path: path.stem)
def test_every_ablation_takes_a_step(path, pack_folder, card, tmp_path):
    config = read_config(path)
    wide = network_card(config)  # at its full width it can be built
    tiny = asdict(replace(card.network, width=64))  # StyleGAN blocks halve the width three times over, per axis
    network = from_mapping(ModelConfig, merged(tiny, config.network or {}), path.stem)
    assert wide.network.decoder.sinks == network.decoder.sinks
    phase = replace(config.phases[-1], steps=1, minutes=0.0, batch=2, views=1)
    quick = replace(config, phases=(phase,), preview_steps=1, bfloat16=False)
    seen: list[float] = []
    trainer = Trainer(quick, replace(card, network=network), pack_folder, tmp_path / "run")
    trainer.run(lambda step, terms: seen.append(terms["total"]))
    assert len(seen) == 1
    assert math.isfinite(seen[0])
    assert "seen_db" in evaluate(trainer, trainer.averaged(), limit=1)
