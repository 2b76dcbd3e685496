"""Playback says what the network says, and only for the avatar it was made of."""

import dataclasses
import json
import logging

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save

from flexavatar_cli.cli.app import run
from flexavatar_cli.core.avatar import PLAYBACK_HEADER
from flexavatar_cli.core.errors import InputError, UsageError
from flexavatar_cli.core.options import PlaybackOptions
from flexavatar_cli.media.frames import open_frames
from flexavatar_cli.model import load_model
from flexavatar_cli.model.initialisation import perturb_zeros
from flexavatar_cli.stages import animation, motion, playback

OPTIONS = PlaybackOptions(samples=96, held_out=4, size=64, error=0.25)


@pytest.fixture(scope="module")
def figure(tiny_model, tiny_instruments, grey_avatar):
    """A puppet whose random network says something else for every expression."""
    model = load_model(tiny_model).eval().requires_grad_(False)
    perturb_zeros(model, torch.Generator().manual_seed(1), 0.02)
    return animation.puppet(grey_avatar, dataclasses.replace(tiny_instruments, model=model))


@pytest.fixture(scope="module")
def built(grey_avatar, figure):
    return playback.build(grey_avatar, figure, OPTIONS)


@pytest.fixture
def parts(built, tmp_path):
    """Header and arrays of a good file, to be spoilt."""
    content = built.save(tmp_path / "good.playback.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(json.loads(content[8 : 8 + length])["__metadata__"][PLAYBACK_HEADER])
    return header, load(content)


def write(path, header, arrays):
    path.write_bytes(save(arrays, metadata={PLAYBACK_HEADER: json.dumps(header)}))
    return path


def test_playback_is_the_network_to_the_stated_error(figure, built):
    """On speech that it has never seen, other than that which the stated error was measured on."""
    seconds = np.linspace(3.8, 5.2, 7)
    code = motion.demo_expression(seconds + 0.01)
    network = playback.film(figure, code, OPTIONS.size)
    ours = playback.film(playback.playing(figure, built), code, OPTIONS.size)
    error = playback.image_error(ours, network)["head"]
    rest = figure.attributes(torch.zeros(1, 59))
    frozen = dataclasses.replace(figure, decode=lambda batch: rest.map(lambda x: x.expand(len(batch), *x.shape[1:])))
    still = playback.image_error(playback.film(frozen, code, OPTIONS.size), network)["head"]
    assert built.notes["mean_abs_255"] <= OPTIONS.error
    assert error < 1.5 * built.notes["mean_abs_255"]
    assert error < 0.7 * still  # than the same rig with attributes that stay at rest


def test_sampled_expressions_come_back(figure, built):
    code = torch.from_numpy(playback.sample_expressions(OPTIONS.samples, OPTIONS.seed)[::10])
    theirs, ours = figure.decoded(code), built.attributes(code)
    for name, unit in playback.UNITS.items():
        a, b = getattr(theirs, name), getattr(ours, name)
        a, b = (a.log(), b.log()) if name == "scale" else (a, b)
        assert ((a - b) / unit).square().mean().sqrt() < 1, name


def test_samples_are_seeded_and_proper():
    code = playback.sample_expressions(120, 3)
    assert (code == playback.sample_expressions(120, 3)).all()
    assert (code[0] == 0).all()
    assert ((code[:, :52] >= 0) & (code[:, :52] <= 1)).all()
    assert not np.array_equal(code[60:], playback.sample_expressions(120, 4)[60:])


def test_a_network_that_ignores_the_expression_is_played_back(tiny_instruments, grey_avatar):
    figure = animation.puppet(grey_avatar, tiny_instruments)
    built = playback.build(grey_avatar, figure, PlaybackOptions(samples=60, held_out=2, size=48))
    assert built.notes["mean_abs_255"] < 0.05
    assert built.rank == 1


def test_the_file_brings_back_what_was_built(built, tmp_path):
    loaded = playback.Playback.load(built.save(tmp_path / "a.playback.safetensors"))
    code = torch.from_numpy(motion.demo_expression(np.array([0.85, 4.8])))
    for name, value in vars(built.attributes(code)).items():
        torch.testing.assert_close(getattr(loaded.attributes(code), name), value, atol=2e-4, rtol=1e-3)
    assert loaded.notes == json.loads(json.dumps(built.notes))


def test_another_avatars_playback_is_refused_and_built_anew(built, figure, grey_avatar, tmp_path, caplog):
    other = dataclasses.replace(grey_avatar, avatar_code=grey_avatar.avatar_code + np.float32(1))
    texels = len(figure.instruments.model.texel_index)
    assert built.require(grey_avatar, texels) is built
    with pytest.raises(InputError, match="another avatar"):
        built.require(other, texels)
    with pytest.raises(InputError, match="texels"):
        built.require(grey_avatar, texels + 1)
    path = built.save(tmp_path / "other.playback.safetensors")
    assert playback.find_or_build(grey_avatar, path, figure).rank == built.rank
    options = PlaybackOptions(samples=54, held_out=2, size=48)
    with caplog.at_level(logging.WARNING):
        assert playback.find_or_build(other, path, figure, options).avatar == other.digest
    assert "another avatar" in caplog.text
    assert playback.Playback.load(path).avatar == other.digest


def test_the_playback_of_another_version_is_built_anew(built, figure, grey_avatar, tmp_path, caplog):
    old = dataclasses.replace(built, notes=built.notes | {"program": "0" * 64})
    path = old.save(tmp_path / "old.playback.safetensors")
    options = PlaybackOptions(samples=54, held_out=2, size=48)
    with caplog.at_level(logging.WARNING):
        assert playback.find_or_build(grey_avatar, path, figure, options).notes["program"] == built.notes["program"]
    assert "another version" in caplog.text


def spoil(name):
    """One way each in which a file can lie."""

    def change(header, arrays):
        if name == "no header":
            header.clear()
        elif name == "version":
            header["format_version"] = 99
        elif name == "nan":
            arrays["basis.color"][0, 0] = np.nan
        elif name == "index":
            arrays["moving.color"][-1] = 1 << 30
        elif name == "order":
            arrays["moving.color"][:2] = arrays["moving.color"][1::-1]
        elif name == "shape":
            arrays["basis.color"] = arrays["basis.color"][:, :-1].copy()
        elif name == "kind":
            arrays["mean.offset"] = arrays["mean.offset"].astype(np.float64)
        elif name == "missing":
            del arrays["support"]
        elif name == "layer":
            arrays["layer.1.weight"] = arrays["layer.1.weight"][:, :-1].copy()
        elif name == "length":
            header["length"] = 0.0
        elif name == "names":
            header["expression_names"] = [1] * 59

    return change


@pytest.mark.parametrize(
    "name",
    ["no header", "version", "nan", "index", "order", "shape", "kind", "missing", "layer", "length", "names"],
)
def test_hostile_files_are_refused(parts, tmp_path, name):
    header, arrays = parts
    arrays = {key: array.copy() for key, array in arrays.items()}
    spoil(name)(header, arrays)
    with pytest.raises(InputError, match="not a playback file"):
        playback.Playback.load(write(tmp_path / "bad.playback.safetensors", header, arrays))


def test_files_of_another_kind_are_refused(grey_avatar, tmp_path):
    with pytest.raises(InputError, match="not a playback file"):
        playback.Playback.load(grey_avatar.save(tmp_path / "a.avatar"))
    (tmp_path / "text").write_text("no")
    with pytest.raises(InputError, match="not a playback file"):
        playback.Playback.load(tmp_path / "text")
    with pytest.raises(InputError, match="cannot be read"):
        playback.Playback.load(tmp_path / "missing")


def test_avatars_of_other_expressions_are_refused(grey_avatar, figure):
    flame = dataclasses.replace(grey_avatar, expression_names=tuple(f"flame{n}" for n in range(59)))
    with pytest.raises(UsageError, match="--fast"):
        playback.build(flame, figure)


def test_render_fast_films_as_many_frames(tiny_model, grey_avatar, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    avatar = grey_avatar.save(tmp_path / "grey.avatar")
    command = ["render", str(avatar), "--model", str(tiny_model), "--fps", "4", "--size", "48", "--camera", "front"]
    assert run([*command, "-o", "slow.mp4"]) == 0
    assert run([*command, "--fast", "-o", "fast.mp4", "--json"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["playback"]["rank"] == 1
    slow, fast = (open_frames(tmp_path / f"{name}.mp4") for name in ("slow", "fast"))
    assert len(slow) == len(fast) == 24
    assert slow.fps == fast.fps
    kept = tmp_path / "grey.playback.safetensors"
    written = kept.read_bytes()
    assert run([*command, "--fast", "-o", "fast.mp4", "--overwrite", "-q"]) == 0
    assert kept.read_bytes() == written  # used, not made again
    assert run(["info", str(kept), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["avatar_digest"] == grey_avatar.digest
    kept.write_bytes(b"PK\x03\x04 something else")
    assert run([*command, "--fast", "-o", "fast.mp4", "--overwrite", "-q"]) == 3
    assert "not a playback file" in capsys.readouterr().err
