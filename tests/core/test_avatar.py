import io
import pickle
import zipfile

import numpy as np
import pytest
import torch
from safetensors.numpy import save as save_safetensors

from flexavatar_cli.core.avatar import HEADER, Avatar
from flexavatar_cli.core.camera import Camera, look_at
from flexavatar_cli.core.errors import InputError, WeightsError


def some_avatar() -> Avatar:
    rng = np.random.default_rng(0)
    camera = Camera(look_at(np.array([0.1, 0, 0.9]), np.zeros(3)), np.diag([1480.1, 1480.1, 1]), 512, 512)
    return Avatar(
        avatar_code=rng.standard_normal((16, 8), np.float32),
        identity=rng.standard_normal(5, np.float32),
        model="open-1",
        model_digest="ab" * 32,
        head_model="open-head",
        head_digest="cd" * 32,
        expression_names=("jawOpen", "eyeBlinkLeft"),
        bias_sink="3d",
        camera=camera,
        thumbnail=b"\x89PNG not really",
        provenance={"inputs": ["ef" * 32], "options": {"steps": 200}},
        extras={"gain": np.ones(3, np.float32)},
    )


@pytest.mark.parametrize("suffix", [".avatar", ".pt", ".anything"])
def test_round_trip_is_exact(tmp_path, suffix):
    avatar = some_avatar()
    back = Avatar.load(avatar.save(tmp_path / f"a{suffix}"))
    assert back.digest == avatar.digest
    np.testing.assert_array_equal(back.avatar_code, avatar.avatar_code)
    np.testing.assert_array_equal(back.camera.cam2world, avatar.camera.cam2world)
    assert (back.thumbnail, back.provenance) == (avatar.thumbnail, avatar.provenance)
    assert list(back.extras) == ["gain"]


@pytest.mark.parametrize("suffix", [".avatar", ".pt"])
def test_same_content_gives_same_bytes(tmp_path, suffix):
    first = some_avatar().save(tmp_path / f"first{suffix}").read_bytes()
    assert some_avatar().save(tmp_path / f"second{suffix}").read_bytes() == first


def test_content_decides_not_the_name(tmp_path):
    some_avatar().save(tmp_path / "a.pt").rename(tmp_path / "a.avatar")
    assert Avatar.load(tmp_path / "a.avatar").model == "open-1"


def test_with_code_changes_the_digest_and_keeps_the_rest():
    avatar = some_avatar()
    fitted = avatar.with_code(avatar.avatar_code + 1, loss=0.5)
    assert fitted.digest != avatar.digest
    assert fitted.provenance == {**avatar.provenance, "loss": 0.5}
    assert fitted.identity is avatar.identity


def test_other_weights_are_an_error():
    avatar = some_avatar()
    avatar.require("ab" * 32, "cd" * 32)
    with pytest.raises(WeightsError, match="made with open-1"):
        avatar.require("00" * 32, "cd" * 32)
    with pytest.raises(WeightsError, match="open-head"):
        avatar.require("ab" * 32, "00" * 32)


@pytest.mark.parametrize("suffix", [".avatar", ".pt"])
def test_every_truncation_is_one_line(tmp_path, suffix):
    whole = some_avatar().save(tmp_path / f"a{suffix}").read_bytes()
    for length in [0, 1, 7, 8, 9, *range(10, len(whole), max(1, len(whole) // 40)), len(whole) - 1]:
        (tmp_path / "cut").write_bytes(whole[:length])
        with pytest.raises(InputError, match="not an avatar file") as caught:
            Avatar.load(tmp_path / "cut")
        assert "\n" not in str(caught.value)


class Bomb:
    """Runs code when unpickled."""

    def __reduce__(self):
        return (open, ("PWNED", "w"))


def test_hostile_files_run_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stream = io.BytesIO()
    torch.save({HEADER: Bomb(), "arrays": {}}, stream)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as files:
        files.writestr("nothing.txt", "here")
    files = {
        "torch": stream.getvalue(),
        "pickle": pickle.dumps(Bomb()),
        "zip": archive.getvalue(),
        "text": b"hello there, this is no archive",
        "long header": (1 << 62).to_bytes(8, "little") + b"{}",
        "no header": save_safetensors({"avatar_code": np.zeros((1, 1), np.float32)}),
        "not json": save_safetensors({"a": np.zeros(1)}, metadata={HEADER: "{"}),
        "a list": save_safetensors({"a": np.zeros(1)}, metadata={HEADER: "[1]"}),
        "deep": save_safetensors({"a": np.zeros(1)}, metadata={HEADER: "[" * 100000}),
        "future": save_safetensors({"a": np.zeros(1)}, metadata={HEADER: '{"format_version": 99}'}),
    }
    for name, content in files.items():
        (tmp_path / "x.avatar").write_bytes(content)
        with pytest.raises(InputError, match="not an avatar file"):
            Avatar.load(tmp_path / "x.avatar")
        assert not (tmp_path / "PWNED").exists(), name


def test_values_that_are_not_finite_are_refused(tmp_path):
    avatar = some_avatar()
    code = avatar.avatar_code.copy()
    code[3, 3] = np.nan
    avatar.with_code(code).save(tmp_path / "a.avatar")
    with pytest.raises(InputError, match="finite"):
        Avatar.load(tmp_path / "a.avatar")


def test_wrong_shapes_are_our_own_bug():
    with pytest.raises(ValueError, match="avatar_code"):
        some_avatar().with_code(np.zeros(3, np.float32))
