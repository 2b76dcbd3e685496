"""DINOv2 through transformers, with random weights of its architecture; skipped without the extra."""

import numpy as np
import pytest
import torch

from flexavatar_cli.core.errors import WeightsError
from flexavatar_cli.stages.image_features import dinov2_features, missing_parts, prepared

transformers = pytest.importorskip("transformers", reason="flex1: transformers not installed")


@pytest.fixture
def network(tmp_path, monkeypatch):
    """A narrow DINOv2 with registers in the cache, where `models pull dinov2` puts the real one."""
    monkeypatch.setenv("FLEXAVATAR_CACHE", str(tmp_path))
    config = transformers.Dinov2WithRegistersConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=518, patch_size=14, num_register_tokens=4
    )
    torch.manual_seed(0)
    made = transformers.Dinov2WithRegistersModel(config).eval()
    with torch.no_grad():
        for value in made.parameters():
            value.normal_(std=0.2)
    made.save_pretrained(tmp_path / "models" / "dinov2")
    return made


def test_the_patch_tokens_of_the_last_layer_come_out_normed(network):
    picture = np.random.default_rng(0).integers(0, 255, (512, 512, 3), dtype=np.uint8)
    found = dinov2_features(picture, 48)
    assert found.shape == (1, 48, 16, 16)
    with torch.no_grad():
        tokens = network.layernorm(network.encoder(network.embeddings(prepared(picture))).last_hidden_state)
    torch.testing.assert_close(found[0, :, 3, 5], tokens[0, 1 + 4 + 3 * 16 + 5])
    assert missing_parts() == []


def test_positions_are_interpolated_with_antialiasing_and_no_offset(network):
    """SPEC 4.4: 37 x 37 positions to 16 x 16, bicubic with antialias."""
    table = network.embeddings.position_embeddings[:, 1:].reshape(1, 37, 37, 48).permute(0, 3, 1, 2)
    wanted = torch.nn.functional.interpolate(table, (16, 16), mode="bicubic", antialias=True, align_corners=False)
    grey = torch.zeros(1, 3, 224, 224)
    with torch.no_grad():
        patches = network.embeddings.patch_embeddings(grey)
        tokens = network.embeddings(grey)[:, 5:] - patches
    torch.testing.assert_close(tokens[0], wanted.flatten(2)[0].T, atol=1e-5, rtol=1e-5)


def test_another_network_is_refused(network, tmp_path):
    with pytest.raises(WeightsError, match="not ViT-B/14"):
        dinov2_features(np.zeros((512, 512, 3), np.uint8), 768)
    file = tmp_path / "models" / "dinov2" / "model.safetensors"
    (tmp_path / "models" / "dinov2" / "recorded.json").unlink()
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(WeightsError, match="dinov2"):
        dinov2_features(np.zeros((512, 512, 3), np.uint8), 48)
