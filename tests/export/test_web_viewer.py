"""The page holds what Python has, and its script computes what Python computes. No browser is needed."""

import base64
import dataclasses
import gzip
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
import torch
from safetensors.numpy import load

from flexavatar_cli.core.avatar import parse_safetensors
from flexavatar_cli.core.errors import UsageError
from flexavatar_cli.core.expression import EXPRESSION_NAMES, INDEX
from flexavatar_cli.core.options import PlaybackOptions
from flexavatar_cli.export import web_viewer
from flexavatar_cli.model import load_model
from flexavatar_cli.model.initialisation import perturb_zeros
from flexavatar_cli.stages import animation, motion, playback

RUN_HEAD = """
const fs = require("fs");
const { Head, backToFront } = require(process.argv[1]);
const whole = (path) => new Uint8Array(fs.readFileSync(path)).buffer;
const head = new Head(whole(process.argv[2]));
const codes = new Float32Array(whole(process.argv[3]));
const width = head.header.expression_names.length;
const parts = [];
for (let at = 0; at < codes.length; at += width) {
  const found = head.gaussians(codes.subarray(at, at + width));
  for (const name of ["positions", "quats", "scales", "opacities", "colors"]) {
    parts.push(Buffer.from(new Float32Array(found[name]).buffer));
  }
  const order = backToFront(found.positions, [0, 0, -1], new Uint32Array(head.count));
  parts.push(Buffer.from(Float32Array.from(order).buffer));
}
fs.writeFileSync(process.argv[4], Buffer.concat(parts));
"""


@pytest.fixture(scope="module")
def figure(tiny_model, tiny_instruments, grey_avatar):
    """A puppet whose random network says something else for every expression, on a head that is not the mean."""
    model = load_model(tiny_model).eval().requires_grad_(False)
    perturb_zeros(model, torch.Generator().manual_seed(1), 0.02)
    somebody = dataclasses.replace(grey_avatar, identity=grey_avatar.identity + np.float32(0.3))
    return animation.puppet(somebody, dataclasses.replace(tiny_instruments, model=model))


@pytest.fixture(scope="module")
def basis(figure, grey_avatar):
    return playback.build(grey_avatar, figure, PlaybackOptions(samples=64, held_out=2, size=48, error=5.0))


def test_the_page_is_one_file_that_needs_no_other(figure, basis, tmp_path):
    page = web_viewer.save_viewer(figure, basis, tmp_path / "a.html", "A & B").read_text()
    assert "<title>A &amp; B</title>" in page
    assert not re.search(r"""https?://|(src|href)\s*=|@import|\bimport\(|url\(""", page)
    assert "$" not in re.sub(r"\$\{", "", page)  # every placeholder is filled; template strings of the script stay


def test_arrays_decode_to_what_python_has(figure, basis):
    page = web_viewer.page(web_viewer.archive(figure, basis), "a")
    packed = re.search(r'id="avatar">([A-Za-z0-9+/=]+)</script>', page).group(1)
    content = gzip.decompress(base64.b64decode(packed))
    arrays, header = load(content), json.loads(parse_safetensors(content, web_viewer.HEADER)[0])
    truncated = basis.truncated(web_viewer.RANK)
    assert header["rank"] == truncated.rank
    for name, part in truncated.fields.items():
        steps = arrays[f"mean.{name}.step"]
        np.testing.assert_allclose(arrays[f"mean.{name}"] * steps, part.mean, atol=0.51 * steps.max())
        steps = arrays[f"basis.{name}.step"][:, None]
        assert (np.abs(arrays[f"basis.{name}"] * steps - part.basis.numpy()) <= 0.51 * steps).all()
    vertices = figure.instruments.head.vertices(figure.identity, None).numpy()
    np.testing.assert_allclose(arrays["neutral"] * arrays["neutral.step"], vertices, atol=1e-5)


def test_sliders_name_expressions_and_gaze_takes_the_lids_along():
    for ends in web_viewer.sliders().values():
        assert all(name in EXPRESSION_NAMES for end in ends.values() for name in end)
    gaze = web_viewer.sliders()["gaze"]
    assert gaze["plus"]["gazeLeftYaw"] == -gaze["minus"]["gazeLeftYaw"] == pytest.approx(web_viewer.GLANCE)
    assert "eyeLookOutLeft" in gaze["plus"]


def test_expressions_that_are_not_arkits_are_refused(figure, basis):
    other = dataclasses.replace(figure, expression_names=EXPRESSION_NAMES[:-1])
    with pytest.raises(UsageError, match="ARKit"):
        web_viewer.archive(other, basis)


def test_the_script_poses_and_sorts_as_python_does(figure, basis, tmp_path):
    node = shutil.which("node")
    if node is None:
        pytest.skip("node")
    codes = motion.demo_expression(np.array([0.0, 0.85, 1.5, 4.5]))
    codes[1, [INDEX["eyeBlinkLeft"], INDEX["eyeBlinkRight"]]] = 0.3, 1.0
    (tmp_path / "archive").write_bytes(web_viewer.archive(figure, basis))
    codes.astype(np.float32).tofile(tmp_path / "codes")
    script = str(web_viewer.FOLDER / "head.js")
    command = [node, "-e", RUN_HEAD, script, *(str(tmp_path / name) for name in ("archive", "codes", "out"))]
    subprocess.run(command, check=True, timeout=120)
    values = np.fromfile(tmp_path / "out", np.float32)
    heads = list(playback.playing(figure, basis.truncated(web_viewer.RANK)).gaussians(codes))
    count = len(heads[0])
    rows = values.reshape(len(codes), -1)
    for row, head in zip(rows, heads, strict=True):
        positions, quats, scales, opacities, colors, order = np.split(row, np.cumsum([3, 4, 3, 1, 3]) * count)
        np.testing.assert_allclose(positions.reshape(-1, 3), head.positions, atol=2e-4)  # metres
        np.testing.assert_allclose(scales.reshape(-1, 3), head.scales, atol=1e-4)
        np.testing.assert_allclose(opacities, head.opacities, atol=5e-3)
        assert np.abs(colors.reshape(-1, 3) - head.colors.numpy()).mean() < 2e-3
        theirs = torch.nn.functional.normalize(head.quats, dim=-1).numpy()
        same = np.abs((quats.reshape(-1, 4) * theirs).sum(1)) / np.linalg.norm(quats.reshape(-1, 4), axis=1)
        assert np.median(same) > 1 - 1e-4  # round cells have no axes to agree on
        assert (np.sort(order) == np.arange(count)).all()
        along = positions.reshape(-1, 3)[order.astype(int), 2]
        assert np.diff(along).min() > -1e-4  # far from a camera that looks along -z = small z
