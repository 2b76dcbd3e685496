"""Training configurations: what they may say, and what is named when it is wrong."""

from pathlib import Path

import pytest

from flexavatar_cli.core.errors import InputError, UsageError
from flexavatar_cli.training.config import network_card, read_config

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
