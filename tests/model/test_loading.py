"""model.yaml and weights files: what is read back, and what is refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from flexavatar_cli.core.errors import WeightsError
from flexavatar_cli.model import AvatarModel, ModelCard, ModelConfig, load_model
from flexavatar_cli.model.config import card_text, from_mapping, read_card

MODELS = Path(__file__).parents[2] / "models"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model = AvatarModel.random(ModelConfig.tiny(64), seed=4)
    model.save(folder)
    return model, folder


def edited(folder: Path, target: Path, change) -> Path:
    """A copy of a saved model whose yaml went through `change`."""
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    card = yaml.safe_load((target / "model.yaml").read_text())
    change(card)
    (target / "model.yaml").write_text(yaml.safe_dump(card))
    return target


def test_a_saved_model_decodes_the_same_up_to_half_precision(saved):
    model, folder = saved
    loaded = load_model(folder)
    code, expression = torch.randn(1, 16, 48), torch.rand(1, 59)
    with torch.no_grad():
        before = model.decode(code, expression, torch.tensor([1]))
        after = loaded.decode(code, expression, torch.tensor([1]))
    assert torch.equal(model.texel_index, loaded.texel_index)
    assert torch.equal(model.query_positions, loaded.query_positions)
    torch.testing.assert_close(before.color, after.color, atol=2e-2, rtol=0)


def test_the_digest_is_that_of_the_file_and_known_before_saving(saved):
    model, folder = saved
    assert load_model(folder).digest == model.digest == read_card(folder / "model.yaml").weights.sha256


def test_a_changed_byte_is_noticed(saved, tmp_path):
    folder = edited(saved[1], tmp_path, lambda card: None)
    file = next(folder.glob("*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(WeightsError, match="sha256"):
        load_model(folder)


def test_a_truncated_file_without_a_digest_is_noticed(saved, tmp_path):
    folder = edited(saved[1], tmp_path, lambda card: card["weights"].update(sha256=""))
    file = next(folder.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="not readable"):
        load_model(folder)


@pytest.mark.parametrize(
    ("where", "key", "value", "message"),
    [
        ((), "colour", 1, "unknown key colour"),
        (("network",), "dept", 3, "unknown key dept"),
        (("network", "trunk"), "kind", "resnet", "resnet"),
        (("network",), "width", "wide", "width"),
        (("network",), "heads", 5, "multiple of heads"),
        (("network",), "encoder", ["dw", "window"], "window"),
        (("network",), "width", 96, "weights"),
        (("network",), "encoder", ["dw", "joint", "dw"], "missing"),
        (("network", "decoder"), "positions", False, "unknown"),
        (("weights",), "file", "nothing.safetensors", "not found"),
    ],
)
def test_a_wrong_card_is_refused_with_its_reason(saved, tmp_path, where, key, value, message):
    def change(card):
        for part in where:
            card = card[part]
        card[key] = value

    with pytest.raises(WeightsError, match=message):
        load_model(edited(saved[1], tmp_path, change))


def test_pickles_that_are_not_weights_are_refused(saved, tmp_path):
    folder = edited(saved[1], tmp_path, lambda card: card["weights"].update(file="w.pt", sha256=""))
    torch.save({"a": Path("x")}, folder / "w.pt")
    with pytest.raises(WeightsError, match="not readable"):
        load_model(folder)
    torch.save({"state": {"a": torch.zeros(1)}}, folder / "w.pt")
    with pytest.raises(WeightsError, match="flat mapping"):
        load_model(folder)


def test_cards_survive_writing_and_reading(tmp_path):
    card = ModelCard(name="x", notes={"steps": 3}, network=ModelConfig.tiny())
    (tmp_path / "model.yaml").write_text(card_text(card))
    assert read_card(tmp_path / "model.yaml") == card


def test_shipped_cards_are_valid_and_open_1_is_the_default():
    shipped = read_card(MODELS / "open-1" / "model.yaml").network
    ours = ModelConfig()  # UV channels and the unit of displacement are training's
    unit = replace(ours.gaussians, displacement_unit=shipped.gaussians.displacement_unit)
    assert replace(shipped, uv_features=ours.uv_features) == replace(ours, gaussians=unit)
    flex = read_card(MODELS / "flex-1" / "model.yaml").network
    assert (flex.anchor, flex.width, len(flex.decoder.blocks)) == ("static", 768, 8)


def test_an_unreadable_card_is_named(tmp_path):
    with pytest.raises(WeightsError, match="cannot be read"):
        load_model(tmp_path)
    (tmp_path / "model.yaml").write_text("{: ")
    with pytest.raises(WeightsError, match="not YAML"):
        load_model(tmp_path)
    with pytest.raises(WeightsError, match="mapping"):
        from_mapping(ModelCard, [1], "here")


def test_detail_that_does_not_fit_the_width_is_refused():
    with pytest.raises(WeightsError, match="too small"):
        replace(ModelConfig(), width=192)
