"""The published layout on a tiny network with hash-filled weights: runs everywhere, in a second."""

from pathlib import Path

import pytest
import torch
import yaml

from flexavatar_cli.core.errors import WeightsError
from flexavatar_cli.model import (
    AvatarModel,
    ModelConfig,
    Template,
    convert_release,
    load_model,
    plucker_map,
    template_from_obj,
)
from flexavatar_cli.model.config import (
    DecoderConfig,
    GaussiansConfig,
    ModelCard,
    TrunkConfig,
    UpsamplerConfig,
    WeightsFile,
    card_text,
)
from flexavatar_cli.model.loading import load_release_state, release_unused

TINY = ModelConfig(
    width=32,
    heads=2,
    grid=4,
    code_norm="layernorm",
    trunk=TrunkConfig(kind="gpt", image_size=32, patch=8, feature_dim=16),
    encoder=("joint", "joint"),
    uv_features=None,
    detail=None,
    decoder=DecoderConfig(
        blocks=("joint", "joint", "joint"),
        expression_dim=135,
        expression_hidden=(16, 16),
        input_norm=False,
        positions=False,
        condition_channels=0,
    ),
    upsampler=UpsamplerConfig(kind="stylegan", widths=(16, 8)),
    gaussians=GaussiansConfig(anchor="static", resolution=32, sampling="end_inclusive"),
)

# Two triangles that cover the left half of the atlas, and one on top of them that must lose.
OBJ = """v 0 0 0\nv 0.1 0 0\nv 0.1 0.2 0\nv 0 0.2 0.1\nv 9 9 9
vt 0 0\nvt 0.5 0\nvt 0.5 1\nvt 0 1
f 1/1/1 2/2/1 3/3/1\nf 1/1/1 3/3/1 4/4/1\nf 5/1/1 5/2/1 5/3/1\n"""


@pytest.fixture(scope="module")
def obj(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("obj") / "head.obj"
    path.write_text(OBJ)
    return path


@pytest.fixture
def state(release_shapes, hashed_state):
    return hashed_state(release_shapes(TINY))


def run(model: AvatarModel, hashed) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A, positions, colours of hash-filled inputs."""

    def tensor(stream, shape):
        return torch.from_numpy(hashed(stream, shape)).float()

    cam2world = torch.diag(torch.tensor([1.0, -1, -1, 1]))[None]
    cam2world[:, 2, 3] = 1
    intrinsics = torch.tensor([[[2.9, 0, 0.5], [0, 2.9, 0.5], [0, 0, 1]]])
    image = 0.5 + 0.5 * tensor(1, (1, 3, 32, 32))
    with torch.no_grad():
        code = model.encode(image, plucker_map(cam2world, intrinsics, 32, 32), None, tensor(2, (1, 16, 2, 2)))
        out = model.decode(code, tensor(3, (1, 135)), torch.tensor([1]))
    return code, model.base_positions + out.offset, out.color


def test_a_checkpoint_folder_loads_and_decodes(tmp_path, obj, state, hashed):
    weights, template = WeightsFile("w.pt", layout="release"), WeightsFile("head.obj")
    card = ModelCard("tiny", weights=weights, template=template, network=TINY)
    torch.save(state, tmp_path / "w.pt")
    (tmp_path / "head.obj").write_text(OBJ)
    (tmp_path / "model.yaml").write_text(card_text(card))
    model = load_model(tmp_path)
    code, positions, color = run(model, hashed)
    sums = [value.double().abs().sum().item() for value in (code, positions, color)]
    assert sums == pytest.approx(RECORDED, rel=1e-5)
    assert load_model(tmp_path).digest == model.digest


# Sums of magnitudes of A, positions, colours, by the implementation that passed every full-size golden vector.
RECORDED = [407.396859, 103.325409, 567.328905]


def test_saved_as_our_own_format_it_stays_the_same_model(tmp_path, obj, state, hashed):
    model = AvatarModel(TINY, template_from_obj(obj, 32, 4))
    load_release_state(model, state)
    model.save(tmp_path)
    again = load_model(tmp_path)
    assert torch.equal(again.base_positions, model.base_positions)
    for mine, other in zip(run(model, hashed), run(again, hashed), strict=True):
        torch.testing.assert_close(mine, other, atol=3e-2, rtol=0)


def test_tensors_without_effect_are_required_and_reported(obj, state):
    model = AvatarModel(TINY, template_from_obj(obj, 32, 4))
    assert load_release_state(model, state) == sorted(release_unused(model))
    name = "_head_transformer._head_token_embeddings"
    with pytest.raises(WeightsError, match="missing"):
        load_release_state(model, {key: value for key, value in state.items() if key != name})
    with pytest.raises(WeightsError, match=r"not \(16, 1, 32\)"):
        load_release_state(model, state | {name: torch.zeros(2)})


def test_names_and_shapes_are_strict(obj, state):
    model = AvatarModel(TINY, template_from_obj(obj, 32, 4))
    with pytest.raises(WeightsError, match="unknown"):
        load_release_state(model, state | {"_extra.weight": torch.zeros(1)})
    with pytest.raises(WeightsError, match="missing"):
        load_release_state(model, {key: value for key, value in state.items() if key != "_conv_patchify.weight"})
    with pytest.raises(WeightsError, match="patchify"):
        load_release_state(model, state | {"_conv_patchify.weight": torch.zeros(32, 9, 4, 4)})
    filter_name = "_gaussian_decoder._stylegan_upsampler.blocks.0.conv0.resample_filter"
    with pytest.raises(WeightsError, match="filter"):
        load_release_state(model, state | {filter_name: torch.ones(4, 4)})


def test_style_affine_weights_have_no_effect(obj, state, hashed):
    model = AvatarModel(TINY, template_from_obj(obj, 32, 4))
    load_release_state(model, state)
    before = run(model, hashed)
    load_release_state(model, {k: v + 1 if k.endswith("affine.weight") else v for k, v in state.items()})
    assert all(torch.equal(a, b) for a, b in zip(before, run(model, hashed), strict=True))


def test_image_tokens_see_only_what_came_before(obj, state):
    model = AvatarModel(TINY, template_from_obj(obj, 32, 4))
    load_release_state(model, state)
    image = torch.rand(1, 9, 32, 32)
    changed = image.clone()
    changed[..., 16:, :] += 1  # lower half: tokens 8..15
    with torch.no_grad():
        before, after = model.encoder.trunk.tokens(image), model.encoder.trunk.tokens(changed)
    assert torch.equal(before[:, :8], after[:, :8])
    assert not torch.allclose(before[:, 8:], after[:, 8:])


def test_the_lowest_triangle_wins_and_the_rim_is_dropped(obj):
    template = template_from_obj(obj, 32, 4)
    assert template.base_positions.abs().max() < 1
    row, column = template.texel_index // 32, template.texel_index % 32
    assert (row.min(), column.min()) == (1, 1)
    assert column.max() < 16
    assert torch.equal(template.query_positions.reshape(4, 4, 3)[:, 2:], torch.zeros(4, 2, 3))


def test_a_template_that_is_no_triangle_mesh_is_refused(tmp_path):
    path = tmp_path / "x.obj"
    for text in ("", "v 0 0 0\nf 1 1 1\n", "v 0 0 0\nvt 0 0\nf 1/1 1/1 2/1\n", "v a b c\n"):
        path.write_text(text)
        with pytest.raises(WeightsError, match="OBJ"):
            template_from_obj(path, 32, 4)


def test_image_features_are_required(obj, state):
    model = AvatarModel(TINY, template_from_obj(obj, 32, 4))
    with pytest.raises(ValueError, match="image features"):
        model.encode(torch.rand(1, 3, 32, 32), torch.rand(1, 6, 32, 32))


def test_the_card_of_the_tiny_network_is_plain_yaml():
    assert yaml.safe_load(card_text(ModelCard("tiny", network=TINY)))["network"]["uv_features"] is None


def test_sphere_template_keeps_all_texels():
    assert len(Template.sphere(16, 4).texel_index) == 256


def test_a_checkpoint_is_converted_to_safetensors_bit_by_bit(tmp_path, obj, state, hashed):
    card = ModelCard("tiny", weights=WeightsFile("w.pt", layout="release"), template=WeightsFile("o"), network=TINY)
    torch.save(state, tmp_path / "w.pt")
    written, unused = convert_release(tmp_path / "w.pt", obj, card, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"model.yaml", "tiny.safetensors"}
    assert (written.weights.layout, written.template) == ("native", None)
    again, model = load_model(tmp_path / "out"), AvatarModel(TINY, template_from_obj(obj, 32, 4))
    assert load_release_state(model, state) == unused
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    for mine, other in zip(run(model, hashed), run(again, hashed), strict=True):
        torch.testing.assert_close(mine, other, atol=1e-6, rtol=1e-6)
    (tmp_path / "bad.pt").write_bytes(b"PK")
    torch.save(state | {"_extra.weight": torch.zeros(1)}, tmp_path / "more.pt")
    for name, words in (("bad.pt", "not readable"), ("more.pt", r"unknown: _extra\.weight")):
        with pytest.raises(WeightsError, match=f"{name}.*{words}"):
            convert_release(tmp_path / name, obj, card, tmp_path / "none")
    assert not (tmp_path / "none").exists()
