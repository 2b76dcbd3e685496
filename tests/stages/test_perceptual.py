"""The published feature terms with random weights of their architectures; skipped without the extra."""

import pytest
import torch

from flexavatar_cli.stages.perceptual import FeatureDistance, dino_features, normalised, published_terms, sam_features

HERE = torch.device("cpu")


def test_what_is_missing_is_named_with_its_command(tmp_path, monkeypatch):
    monkeypatch.setenv("FLEXAVATAR_CACHE", str(tmp_path))
    terms, missing = published_terms(HERE)
    assert terms == []
    assert [entry.split()[0] for entry in missing] == ["SAM", "DINO"]
    assert all("pull" in entry or "pip install" in entry for entry in missing)


def test_distances_vanish_for_equal_pictures_and_reach_only_the_first():
    distance = FeatureDistance("sum", lambda picture: picture.cumsum(-1))
    picture, target = torch.rand(8, 8, 3, requires_grad=True), torch.rand(8, 8, 3, requires_grad=True)
    assert distance(picture, picture) == 0
    distance(picture, target).backward()
    assert picture.grad.abs().sum() > 0
    assert target.grad is None
    assert normalised(torch.full((2, 2, 3), 0.5)).shape == (1, 3, 2, 2)


def test_dino_looks_at_whole_patches_of_the_centre():
    transformers = pytest.importorskip("transformers", reason="flex1: transformers not installed")
    torch.manual_seed(0)
    config = transformers.Dinov2Config(
        hidden_size=24, num_hidden_layers=12, num_attention_heads=2, image_size=56, patch_size=14
    )
    network = transformers.Dinov2Model(config).eval()
    features = dino_features(network)
    picture = torch.rand(1, 3, 64, 64, requires_grad=True)
    found = features(picture)
    assert found.shape == (3, 1, 1 + 16, 24)
    found.square().sum().backward()
    border = picture.grad.clone()
    border[..., 4:-4, 4:-4] = 0
    assert border.abs().max() == 0, "4 pixels per side stay out"
    assert picture.grad[..., 4:-4, 4:-4].abs().max() > 0
    states = network(pixel_values=picture[..., 4:-4, 4:-4], output_hidden_states=True).hidden_states
    assert len(states) == 13
    torch.testing.assert_close(found[2], states[11])


def test_sam_gives_its_last_embedding_with_a_gradient():
    transformers = pytest.importorskip("transformers", reason="flex1: transformers not installed")
    torch.manual_seed(0)
    trunk = transformers.Sam2HieraDetConfig(
        hidden_size=8, embed_dim_per_stage=[8, 16, 32, 64], blocks_per_stage=[1, 2, 2, 2], global_attention_blocks=[4]
    )
    vision = transformers.Sam2VisionConfig(
        backbone_config=trunk, backbone_channel_list=[64, 32, 16, 8], fpn_hidden_size=256
    )
    network = transformers.Sam2Model(transformers.Sam2Config(vision_config=vision)).eval()
    with torch.no_grad():
        network.no_memory_embedding.normal_()
    features = sam_features(network)
    picture = torch.rand(1, 3, 64, 64, requires_grad=True)
    found = features(picture)
    large = torch.nn.functional.interpolate(picture, (1024, 1024), mode="bilinear", align_corners=False)
    with torch.no_grad():
        wanted = network.get_image_embeddings(large)[-1]
    assert wanted.shape == (1, 256, 64, 64)
    torch.testing.assert_close(found.permute(1, 2, 0).reshape(wanted.shape), wanted)
    found.square().mean().backward()
    assert picture.grad.abs().max() > 0
