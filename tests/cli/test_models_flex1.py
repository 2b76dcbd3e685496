"""What the commands say and do about flex-1: doctor, models add, track on FLAME, hostile weights."""

import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from flexavatar_cli.cli.app import run
from flexavatar_cli.core.flame import FLAME_NAMES
from flexavatar_cli.core.track import Track

MODELS = Path(__file__).parents[2] / "models"


class Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("FLEXAVATAR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


def test_doctor_names_what_flex1_lacks_and_the_commands(cache, capsys):
    run(["doctor", "--json"])
    found = {entry["subject"]: entry for entry in json.loads(capsys.readouterr().out)["findings"]}
    parts = [name for name in found if name.startswith("flex-1")]
    assert len(parts) == 7
    for name, command in {
        "flex-1 ckpt-900k.pt": "flexavatar models add flex-1 FOLDER",
        "flex-1 gghead_template.obj": "flexavatar models add flex-1 FOLDER",
        "flex-1 FLAME": "flexavatar models add flame PATH",
        "flex-1 DINOv2": "flexavatar models pull dinov2 --accept-licence",
        "flex-1 SAM loss": "flexavatar models pull sam2-small --accept-licence",
        "flex-1 DINO loss": "flexavatar models pull dinov2-small --accept-licence",
    }.items():
        assert not found[name]["good"]
        assert not found[name]["needed"], "open-1 works without it"
        assert command in found[name]["advice"]
    assert "flex1" in found["flex-1 transformers"]["advice"]


def test_flame_is_added_and_then_tracks(cache, flame_file, portrait, tmp_path, capsys):
    arguments = ["track", str(portrait), "--head", "flame", "-o", str(tmp_path / "a.track.npz"), "--json"]
    assert run(arguments) == 4
    assert "flexavatar models add flame PATH" in capsys.readouterr().err
    assert run(["models", "add", "flame", str(flame_file), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["landmarks"] > 400
    assert (cache / "flame" / "flame.safetensors").is_file()
    assert run([*arguments, "--frames", str(tmp_path / "seq")]) == 0
    capsys.readouterr()
    track = Track.load(tmp_path / "a.track.npz")
    assert track.expression_names == FLAME_NAMES
    assert len(list((tmp_path / "seq" / "checkpoint").glob("*.frame"))) == 1
    assert run(["track", str(portrait), "--frames", str(tmp_path / "b"), "-o", str(tmp_path / "b.npz")]) == 2


def test_hostile_files_do_not_run_and_are_named(cache, tmp_path, capsys):
    mark = tmp_path / "ran"
    folder = tmp_path / "flex"
    folder.mkdir()
    shutil.copy(MODELS / "flex-1" / "model.yaml", folder)
    torch.save({"_conv_patchify.weight": Evil(mark)}, folder / "ckpt-900k.pt")
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps({"f": Evil(mark)}, protocol=2))
    torch.save({"flexavatar": Evil(mark)}, tmp_path / "evil.pt")
    (tmp_path / "frames").mkdir()
    torch.save({"flame": Evil(mark)}, tmp_path / "frames" / "evil.frame")
    np.save(tmp_path / "evil.npy", np.array([Evil(mark)], object))
    converted = ["models", "convert", str(folder), "-o", str(tmp_path / "out")]
    assert run(converted) == 4
    assert "gghead_template.obj: not there; name the head template with --template" in capsys.readouterr().err
    (folder / "gghead_template.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 0 1\nf 1/1 2/2 3/3\n")
    assert run(converted) == 4
    assert "ckpt-900k.pt: not readable as weights" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert run(["models", "convert", str(tmp_path / "none.pt"), "-o", str(tmp_path / "out")]) == 3
    assert run(["models", "convert", str(folder), "-o", str(tmp_path / "out"), "--model", "open-1"]) == 2
    capsys.readouterr()
    cases = {
        "ckpt-900k.pt": (4, ["encode", str(tmp_path / "evil.npy"), "--model", str(folder), "-o", str(tmp_path / "x")]),
        "evil.pkl": (4, ["models", "add", "flame", str(tmp_path / "evil.pkl")]),
        "evil.pt": (3, ["render", str(tmp_path / "evil.pt"), "-o", str(tmp_path / "x.mp4")]),
    }
    for name, (code, arguments) in cases.items():
        assert run(arguments) == code, name
        assert name in capsys.readouterr().err
    assert not mark.exists()


def test_hostile_drivers_and_codes_are_named(tiny_model, grey_avatar, tmp_path, capsys):
    mark = tmp_path / "ran"
    (tmp_path / "frames").mkdir()
    torch.save({"flame": Evil(mark)}, tmp_path / "frames" / "evil.frame")
    avatar = grey_avatar.save(tmp_path / "a.avatar")
    model = ["--model", str(tiny_model)]
    film = ["-o", str(tmp_path / "x.png")]
    assert run(["render", str(avatar), "--driver", str(tmp_path / "frames"), *model, *film]) == 3
    message = capsys.readouterr().err
    assert "evil.frame" in message
    assert "system" in message
    np.save(tmp_path / "evil.npy", np.array([Evil(mark)], object))
    assert run(["encode", str(tmp_path / "evil.npy"), *model, "-o", str(tmp_path / "b.avatar")]) == 3
    assert "evil.npy" in capsys.readouterr().err
    assert not mark.exists()


def test_presets_are_checked(portrait, tmp_path, capsys):
    assert run(["create", str(portrait), "--preset", "best", "-o", str(tmp_path / "a.avatar")]) == 2
    assert "paper" in capsys.readouterr().err
