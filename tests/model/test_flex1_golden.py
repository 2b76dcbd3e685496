"""Every golden tensor of the published model (SPEC 13), from hash-filled weights. Takes about a minute."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from flexavatar_cli.model import AvatarModel, plucker_map, template_from_obj
from flexavatar_cli.model.config import read_card
from flexavatar_cli.model.encoder import end_inclusive_grid, sample
from flexavatar_cli.model.loading import load_release_state
from flexavatar_cli.model.template import rasterise, read_obj

pytestmark = pytest.mark.slow

CARD = Path(__file__).parents[2] / "models" / "flex-1" / "model.yaml"
FORWARD, GRADIENT = 1e-5, 2e-4  # relative L2, the gates of SPEC 13.5


def rotation(axis: int, angle: float) -> np.ndarray:
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]] if axis == 0 else [[c, 0, s], [0, 1, 0], [-s, 0, c]])


@pytest.fixture(scope="module")
def config():
    return read_card(CARD).network


@pytest.fixture(scope="module")
def state(config, flex1_pack, release_shapes, hashed_state):
    return hashed_state(release_shapes(config))


@pytest.fixture(scope="module")
def model(config, flex1_pack, state):
    model = AvatarModel(config, template_from_obj(flex1_pack / "gghead_template.obj", 256, 32), fill_weights=False)
    unused = load_release_state(model, state)
    assert len(unused) == 17  # token table, six affine weights, four filters, 2 x 3 context queries of last blocks
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def inputs(hashed):
    x, y, c = np.arange(512)[None, None], np.arange(512)[None, :, None], np.arange(3)[:, None, None]
    image = 0.5 + 0.5 * np.sin(0.05 * x * (c + 1) + 0.031 * y + 0.7 * c)
    cam2world = np.eye(4)
    cam2world[:3, :3] = rotation(1, 0.25) @ rotation(0, 0.1) @ np.diag([1, -1, -1])
    cam2world[:3, 3] = 0.25, 0.1, 1.0
    intrinsics = np.array([[2.93, 0, 0.503], [0, 2.93, 0.497], [0, 0, 1]])

    def tensor(value):
        return torch.from_numpy(np.asarray(value, np.float32))

    return {
        "image": tensor(image)[None],
        "plucker": plucker_map(tensor(cam2world)[None], tensor(intrinsics)[None], 512, 512),
        "dino": tensor(math.sqrt(3) * hashed(1000, (1, 768, 16, 16))),
        "expression": tensor(0.5 * hashed(1001, (2, 135))),
        "code": tensor(math.sqrt(3) * hashed(1002, (1024, 1, 768))).transpose(0, 1),
    }


def caught(modules):
    """Record what the named modules return; call the result to stop."""
    seen = {}

    def hook(name):
        def keep(_module, _inputs, output):
            seen[name] = output

        return keep

    handles = [module.register_forward_hook(hook(name)) for name, module in modules.items()]
    return seen, handles


@pytest.fixture(scope="module")
def encoded(model, inputs):
    trunk, transformer = model.encoder.trunk, model.encoder.transformer
    modules = {f"ht{n}": block for n, block in enumerate(transformer.blocks)} | {"trunk": trunk}
    modules |= {"patch": trunk.patchify, "attention": trunk.blocks[0].out, "gpt": trunk.norm}
    with torch.no_grad():
        seen, handles = caught(modules)
        code = model.encode(inputs["image"], inputs["plucker"], None, inputs["dino"])
        for handle in handles:
            handle.remove()
        result = {
            "plucker_s32": inputs["plucker"][0, :, ::32, ::32],
            "plucker_corners": inputs["plucker"][0][:, [0, 0, -1, -1], [0, -1, 0, -1]],
            "patch_tokens_s16": seen["patch"][0].flatten(1).T[::16],
            "gpt_attn_out_s16": seen["attention"][0, ::16],
            "gpt_tokens_s8": seen["gpt"][0, ::8],
            "gpt_tokens_first4": seen["gpt"][0, :4],
            "dino_grid_s16": trunk.upsampled(inputs["dino"])[0, ::16],
            "dino_grid_first_rows_c8": trunk.upsampled(inputs["dino"])[0, :66, :8],
            "fimg_s8": seen["trunk"][0, ::8],
            "queries_s8": model.encoder.points(model.query_positions)[::8],
            "A_s4": code[0, ::4],
            "code": code,
        }
        for n in range(4):
            result |= {f"ht{n}_x_s32": seen[f"ht{n}"][0][0, ::32], f"ht{n}_ctx_s32": seen[f"ht{n}"][1][0, ::32]}
    return result


def decoded(model, code, expression, sink):
    """The decoder's stages for both expressions, named as in the golden files."""
    decoder = model.decoder
    modules = {f"et{n}": block for n, block in enumerate(decoder.transformer.blocks)}
    modules |= {"dec": decoder.transformer, "up_img": decoder.upsampler}
    for n, block in enumerate(decoder.upsampler.blocks):
        layers = {"conv0": block.conv0, "conv1": block.conv1, "torgb": block.to_image, "block": block}
        modules |= {f"b{n}_{name}": layer for name, layer in layers.items()}
    seen, handles = caught(modules)
    with torch.no_grad():
        sinks = torch.full((2,), sink)
        raw = model._raw(code.expand(2, -1, -1), expression, sinks, None)
        for handle in handles:
            handle.remove()
        attributes = decoder.heads.attributes(raw)
        nodes = end_inclusive_grid(256).flatten(0, 1)[model.texel_index]
        features = sample(seen["up_img"], nodes[None])[:, :, 0].transpose(1, 2)
        result = {
            "expr_tokens": decoder.context(expression, sinks)[:, 1:],
            "dec_s16": seen["dec"].transpose(0, 1)[::16],
            "up_img_s4": seen["up_img"][0, :, ::4, ::4],
            "up_img_corner8": seen["up_img"][0, :, :8, :8],
            "sampled_s64": features[:, ::64],
            "up_b0_img_s8": seen["b0_block"][1][0, :, ::8, ::8],
            "all_positions_s16": (model.base_positions + attributes.offset)[:, ::16],
            "all_scales_s16": attributes.scale[:, ::16],
            "all_rotations_s16": attributes.rotation[:, ::16],
            "all_colors_s16": raw.color[:, ::16],
            "all_opacities_s16": attributes.opacity[:, ::16, None],
        }
        for n in range(8):
            result |= {f"et{n}_x_s64": seen[f"et{n}"][0][:, ::64], f"et{n}_ctx": seen[f"et{n}"][1]}
        for n, stride in ((0, 8), (1, 16)):
            for name in ("conv0", "conv1", "torgb"):
                result[f"up_b{n}_{name}_s{stride}"] = seen[f"b{n}_{name}"][0, ::4, ::stride, ::stride]
    return result


def assert_parity(found, golden, gate=FORWARD):
    """Every tensor of the golden file within `gate`; prints the table."""
    failed = []
    for name in golden.files:
        wanted = golden[name].astype(np.float64)
        mine = np.asarray(found[name].detach().cpu().numpy(), np.float64)
        assert mine.shape == wanted.shape, name
        error = np.linalg.norm(mine - wanted) / max(np.linalg.norm(wanted), 1e-30)
        print(f"  {name:28s} {error:.2e}")
        if not error < gate:
            failed.append((name, error))
    assert not failed


def test_names_and_shapes_are_the_published_ones(config, flex1_pack, release_shapes):
    listed = json.loads((flex1_pack / "state_dict.json").read_text())["tensors"]
    assert len(listed) == 448
    assert release_shapes(config) == {name: tuple(entry["shape"]) for name, entry in listed.items()}


def test_hash_fill_starts_as_stated(hashed):
    assert hashed(0, (3,)) == pytest.approx([0.76662159, -0.13694406, -0.94713247], abs=1e-8)
    assert hashed(447, (2,)) == pytest.approx([-0.99979341, 0.88345015], abs=1e-8)


def test_hash_filled_weights_have_the_stated_sums(state, flex1_pack):
    stated = json.loads((flex1_pack / "golden" / "stats.json").read_text())["weight_checksums"]
    for name, sums in stated.items():
        value = state[name].double()
        assert [value.sum().item(), value.square().sum().item()] == pytest.approx(sums, rel=1e-9, abs=1e-7), name


def test_geometry(model, flex1_pack):
    golden = np.load(flex1_pack / "golden" / "geometry.npz")
    mesh = read_obj(flex1_pack / "gghead_template.obj")
    points, covered = rasterise(*mesh, 256)
    mask = np.zeros(256 * 256, bool)
    mask[model.texel_index.numpy()] = True
    assert (covered == golden["raster_valid_256"]).all()
    assert (mask.reshape(256, 256) == golden["gaussian_mask_256"]).all()
    assert len(model.texel_index) == 58361
    nodes = end_inclusive_grid(256).flatten(0, 1)[model.texel_index]
    found = {
        "position_map_32": model.query_positions.reshape(32, 32, 3),
        "position_map_256_s4": torch.from_numpy(points)[::4, ::4],
        "gaussian_mask_256": torch.from_numpy(mask.reshape(256, 256)),
        "raster_valid_256": torch.from_numpy(covered),
        "uv_samples_s16": nodes[::16],
        "initial_positions_s16": model.base_positions[::16],
        "point_embed_basis": model.encoder.points.basis(),
    }
    assert_parity(found, golden)


def test_encoder(encoded, flex1_pack):
    assert_parity(encoded, np.load(flex1_pack / "golden" / "encoder.npz"))


@pytest.mark.parametrize("sink", [0, 1])
def test_decoder(model, inputs, flex1_pack, sink):
    found = decoded(model, inputs["code"], inputs["expression"], sink)
    assert_parity(found, np.load(flex1_pack / "golden" / f"decoder_id{sink}.npz"))


def test_end_to_end(model, encoded, inputs, flex1_pack):
    found = decoded(model, encoded["code"], inputs["expression"], 1)
    assert_parity(found, np.load(flex1_pack / "golden" / "end_to_end.npz"))


def objective(model, code, expression):
    """J of SPEC 13.4; its colour is the spherical-harmonic constant."""
    raw = model._raw(code, expression, torch.tensor([1]), None)
    out = model.decoder.heads.attributes(raw)
    position = model.base_positions + out.offset
    return (
        100 * position.square().mean()
        + 100 * out.scale.mean()
        + raw.color.square().mean()
        + out.opacity.square().mean()
        + out.rotation[..., 1].mean()
    )


def test_gradients_and_three_fitting_steps(model, inputs, flex1_pack):
    golden = np.load(flex1_pack / "golden" / "fitting.npz")
    code = inputs["code"].clone().requires_grad_()
    expression = inputs["expression"][:1].clone().requires_grad_()
    loss = objective(model, code, expression)
    loss.backward()
    found = {
        "objective": loss,
        "grad_A_s32": code.grad[0, ::32],
        "grad_A_norm": code.grad.norm(),
        "grad_expr": expression.grad[0],
    }
    code = inputs["code"].clone().requires_grad_()
    adam = torch.optim.Adam([code], lr=1e-2)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(adam, 200, 5e-4)
    losses, rates = [], []
    for step in range(200):
        rates.append(cosine.get_last_lr()[0])
        if step < 3:
            adam.zero_grad()
            loss = objective(model, code, inputs["expression"][:1])
            loss.backward()
            losses.append(loss.item())
        adam.step()
        cosine.step()
    found |= {"adam3_losses": torch.tensor(losses), "lr_schedule_200": torch.tensor(rates)}
    found |= dict(zip(("l1", "ssim"), image_losses(), strict=True))
    assert_parity(found, golden, GRADIENT)


def image_losses():
    """L1 and SSIM (11 x 11 window of sigma 1.5, zero padding) of the two pictures of SPEC 13.4."""
    x, y, c = torch.arange(128.0)[None, None], torch.arange(128.0)[None, :, None], torch.arange(3.0)[:, None, None]
    a = 0.5 + 0.5 * torch.sin(0.1 * x + 0.07 * y + c)
    b = 0.5 + 0.5 * torch.sin(0.11 * x + 0.065 * y + c + 0.2)
    line = torch.exp(-((torch.arange(11.0) - 5) ** 2) / (2 * 1.5**2))
    line /= line.sum()

    def blur(value):
        return torch.nn.functional.conv2d(value[:, None], torch.outer(line, line)[None, None], padding=5)[:, 0]

    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b, cov = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2, blur(a * b) - mean_a * mean_b
    top = (2 * mean_a * mean_b + 1e-4) * (2 * cov + 9e-4)
    return (a - b).abs().mean(), (top / ((mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4))).mean()
