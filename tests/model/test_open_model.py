"""Laws of open-1: the skip path, its batches, its inputs, its gradients."""

from dataclasses import replace

import pytest
import torch

from flexavatar_cli.model import AvatarModel, ModelConfig, Template
from flexavatar_cli.model.config import DecoderConfig, UpsamplerConfig
from flexavatar_cli.model.encoder import cosine_basis, patchify, unpatchify


def photo_inputs(config: ModelConfig, count: int, seed: int = 0):
    """Random image, Pluecker map and UV features for `count` people."""
    generator = torch.Generator().manual_seed(seed)
    size, resolution = config.trunk.image_size, config.gaussians.resolution
    image = torch.rand(count, 3, size, size, generator=generator)
    plucker = torch.randn(count, 6, size, size, generator=generator)
    uv = torch.rand(count, config.uv_features.channels, resolution, resolution, generator=generator) - 0.5
    return image, plucker, uv


def expression_inputs(config: ModelConfig, count: int, seed: int = 1):
    """Random expressions and uv conditions."""
    generator = torch.Generator().manual_seed(seed)
    side = config.grid * config.decoder.condition_patch
    return torch.rand(count, 59, generator=generator), torch.randn(count, 4, side, side, generator=generator)


@pytest.fixture(scope="module")
def tiny():
    return AvatarModel.random(ModelConfig.tiny(64), seed=3)


@pytest.fixture(scope="module")
def tiny_decode(tiny):
    """A, expressions, sinks, conditions of two people."""
    with torch.no_grad():
        code = tiny.encode(*photo_inputs(tiny.config, 2))
    expression, condition = expression_inputs(tiny.config, 2)
    return code, expression, torch.tensor([0, 1]), condition


def smooth(maps: torch.Tensor, patch: int, order: int) -> torch.Tensor:
    """[B, C, R, R] with only the lowest cosines of each patch kept."""
    basis = cosine_basis(patch, order)
    c = maps.shape[1]
    tokens = patchify(maps, patch).unflatten(2, (c, -1))
    return unpatchify((tokens @ basis.T @ basis).flatten(2), patch)


def test_untrained_open_model_is_its_base_maps():
    config = ModelConfig()
    kept = torch.arange(0, 256 * 256, 3)
    sphere = Template.sphere(256, 32)
    model = AvatarModel(config, Template(256, kept, sphere.query_positions), torch.Generator().manual_seed(0))
    image, plucker, uv = photo_inputs(config, 1)
    expression, condition = expression_inputs(config, 1)
    with torch.no_grad():
        _, out = model(image, plucker, uv, expression, torch.tensor([1]), condition)
    assert out.color.shape == (1, len(kept), 3)
    torch.testing.assert_close(out.color[0], 0.5 + uv[0, :3].flatten(1).T[kept], atol=1e-5, rtol=0)
    displacement = smooth(uv[:, 3:4], 8, 4)[0].flatten(1).T[kept]
    torch.testing.assert_close(
        out.offset[0, :, 2:], config.gaussians.displacement_unit * displacement, atol=1e-6, rtol=0
    )
    assert (out.offset[..., :2] == 0).all()
    assert (out.scale == 1).all()
    torch.testing.assert_close(out.opacity, torch.full_like(out.opacity, 0.99))
    torch.testing.assert_close(out.rotation, torch.tensor([1.0, 0, 0, 0]).expand_as(out.rotation))


def test_a_displacement_that_is_linear_in_a_patch_survives_almost_unchanged():
    ramp = (torch.arange(64.0) / 64).expand(1, 1, 64, 64)
    assert (smooth(ramp, 8, 4) - ramp).abs().max() < 0.004  # of a step of 0.125 per patch


def test_open_model_fits_its_file_budget(tmp_path):
    model = AvatarModel(ModelConfig(), Template.sphere(256, 32), torch.Generator().manual_seed(0))
    card = model.save(tmp_path)
    assert (tmp_path / card.weights.file).stat().st_size <= 40e6


def test_patchify_is_undone():
    maps = torch.randn(2, 3, 24, 24)
    assert torch.equal(unpatchify(patchify(maps, 8), 8), maps)


def test_cosines_are_orthonormal():
    basis = cosine_basis(8, 5)
    torch.testing.assert_close(basis @ basis.T, torch.eye(25))


def test_a_batch_decodes_like_its_members(tiny, tiny_decode):
    with torch.no_grad():
        both = tiny.decode(*tiny_decode)
        for n in range(2):
            one = tiny.decode(*(part[n : n + 1] for part in tiny_decode))
            for name in vars(one):
                torch.testing.assert_close(getattr(one, name)[0], getattr(both, name)[n], atol=1e-5, rtol=1e-4)


def test_many_expressions_decode_like_each(tiny, tiny_decode):
    code = tiny_decode[0][0]
    expressions, conditions = expression_inputs(tiny.config, 5)
    with torch.no_grad():
        many = tiny.decode_expressions(code, expressions, sink=0, uv_condition=conditions, chunk=2)
        last = tiny.decode(code[None], expressions[4:], torch.tensor([0]), conditions[4:])
    torch.testing.assert_close(many.color[4:], last.color, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(many.offset[4:], last.offset, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("changed", ["code", "expression", "sink", "condition"])
def test_every_decoder_input_matters(tiny, tiny_decode, changed):
    code, expression, _, condition = (part[:1] for part in tiny_decode)
    sink = torch.tensor([0])
    with torch.no_grad():
        before = tiny.decode(code, expression, sink, condition)
        after = tiny.decode(
            code.flip(1) if changed == "code" else code,
            1 - expression if changed == "expression" else expression,
            sink + (changed == "sink"),
            -condition if changed == "condition" else condition,
        )
    for name in vars(before):
        assert (getattr(before, name) - getattr(after, name)).abs().max() > 1e-4, name


@pytest.mark.parametrize("changed", [0, 1, 2])
def test_every_encoder_input_matters(tiny, changed):
    inputs = list(photo_inputs(tiny.config, 1))
    with torch.no_grad():
        before = tiny.encode(*inputs)
        inputs[changed] = inputs[changed].flip(-1)
        assert (tiny.encode(*inputs) - before).abs().max() > 1e-3


def test_attributes_stay_in_their_ranges(tiny, tiny_decode):
    code, expression, sink, condition = tiny_decode
    with torch.no_grad():
        out = tiny.decode(100 * code, 10 * expression, sink, condition)
    assert out.offset[..., :2].abs().max() <= 0.03 + 1e-6
    assert out.scale.min() >= torch.tensor(-1.5).exp() - 1e-6
    assert out.scale.max() <= torch.tensor(1.0).exp() + 1e-6
    assert 0 <= out.opacity.min() <= out.opacity.max() <= 1
    torch.testing.assert_close(out.rotation.norm(dim=-1), torch.ones_like(out.opacity))


def test_every_parameter_of_a_random_model_learns():
    model = AvatarModel.random(ModelConfig.tiny(64), seed=1).train()
    expression, condition = expression_inputs(model.config, 2)
    code, out = model(*photo_inputs(model.config, 2), expression, torch.tensor([0, 1]), condition)
    (code.square().mean() + sum(value.square().mean() for value in vars(out).values())).backward()
    dead = [name for name, value in model.named_parameters() if value.grad is None]
    assert not dead


def test_half_resolution_needs_only_another_template(tiny):
    model = AvatarModel.random(ModelConfig.tiny(128), seed=2)
    model.set_template(Template.sphere(64, 4))
    image, plucker, _ = photo_inputs(model.config, 1)
    with torch.no_grad():
        code = model.encode(image, plucker, torch.rand(1, 24, 64, 64))
        out = model.decode(code, torch.rand(1, 59), torch.tensor([1]), torch.rand(1, 4, 32, 32))
    assert code.shape[1] == 16
    assert out.opacity.shape == (1, 64 * 64)


def test_a_narrow_stylegan_upsampler_is_a_valid_choice():
    config = replace(ModelConfig(), upsampler=UpsamplerConfig(kind="stylegan", widths=(32, 16)))
    config = replace(config, decoder=DecoderConfig(blocks=("dw", "joint")))
    model = AvatarModel.random(config)
    with torch.no_grad():
        out = model.decode(torch.randn(1, 1024, 256), torch.rand(1, 59), torch.tensor([1]))
    assert out.color.isfinite().all()


def test_the_same_seed_gives_the_same_model():
    first, second = (AvatarModel.random(ModelConfig.tiny(64), seed=5) for _ in range(2))
    other = AvatarModel.random(ModelConfig.tiny(64), seed=6)
    assert first.digest == second.digest != other.digest


def test_wrong_inputs_are_named(tiny):
    image, plucker, uv = photo_inputs(tiny.config, 1)
    with pytest.raises(ValueError, match="uv_features"):
        tiny.encode(image, plucker, uv[:, :5])
    with pytest.raises(ValueError, match="uv_features"):
        tiny.encode(image, plucker)
