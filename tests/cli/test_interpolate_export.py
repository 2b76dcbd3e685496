"""`interpolate` and `export` from the command line, on the tiny model."""

import json
from dataclasses import replace

import numpy as np
import pytest

from flexavatar_cli.cli.app import run
from flexavatar_cli.core.avatar import Avatar


@pytest.fixture
def pair(grey_avatar, tmp_path):
    other = replace(grey_avatar, identity=grey_avatar.identity + np.float32(0.5))
    return grey_avatar.save(tmp_path / "a.avatar"), other.save(tmp_path / "b.avatar")


def test_one_avatar_in_between(pair, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["interpolate", *map(str, pair), "--at", "0.5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"avatar": "a-b.avatar", "share": 0.5}
    between = Avatar.load(tmp_path / "a-b.avatar")
    np.testing.assert_allclose(between.identity, 0.25)
    assert between.provenance["interpolation"]["first"] == Avatar.load(pair[0]).digest


def test_a_film_of_the_morph(pair, tiny_model, tmp_path):
    film = tmp_path / "morph.mp4"
    arguments = ["interpolate", *map(str, pair), "--model", str(tiny_model), "--fps", "2", "--size", "64"]
    assert run([*arguments, "-o", str(film)]) == 0
    assert film.stat().st_size > 1000


@pytest.mark.parametrize("change", [{"model_digest": "00" * 32}, {"head_digest": "00" * 32}])
def test_other_models_are_one_line_and_exit_code_4(pair, grey_avatar, change, tmp_path, capsys):
    stranger = replace(grey_avatar, **change).save(tmp_path / "c.avatar")
    assert run(["interpolate", str(pair[0]), str(stranger), "--at", "0.5"]) == 4
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "model" in error


def test_ply_and_splat_hold_all_gaussians(pair, tiny_model, tiny_instruments, tmp_path):
    count = len(tiny_instruments.model.texel_index)
    for name, size in (("a.splat", 32 * count), ("a.ply", 17 * 4 * count)):
        assert run(["export", str(pair[0]), "--model", str(tiny_model), "-o", str(tmp_path / name)]) == 0
        assert 0 <= (tmp_path / name).stat().st_size - size < 1000


def test_unknown_formats_are_usage(pair, tmp_path):
    assert run(["export", str(pair[0]), "--format", "gif"]) == 2
    assert run(["export", str(pair[0]), "--format", "ply", "-o", str(tmp_path / "a.splat")]) == 2
