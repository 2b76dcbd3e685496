"""The commands matte, info and doctor, from the command line to their files."""

import json

import numpy as np
import pytest
from PIL import Image

from flexavatar_cli.cli.app import run
from flexavatar_cli.core.avatar import Avatar
from flexavatar_cli.media.images import write_png
from flexavatar_cli.media.video import write_video


def result(capsys) -> dict:
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def clear(tmp_path, picture):
    """A picture with transparency of its own, so that no net runs."""
    return write_png(tmp_path / "clear.png", np.dstack([picture, picture[..., 0]]))


def test_matte_of_a_photo(tmp_path, capsys, clear, picture):
    assert run(["matte", str(clear), "-o", str(tmp_path / "m.png"), "--json"]) == 0
    assert result(capsys)["net"] == "the picture's own transparency"
    image = Image.open(tmp_path / "m.png")
    assert (image.mode, image.size) == ("L", (64, 48))
    np.testing.assert_array_equal(np.asarray(image), np.round(picture[..., 0] * 255))
    assert run(["matte", str(clear), "-o", str(tmp_path / "m.png")]) == 2
    assert run(["matte", str(clear), "-o", str(tmp_path / "m.png"), "--overwrite"]) == 0


def test_matte_of_many_frames_is_a_folder(tmp_path, capsys, picture):
    frame = np.dstack([picture, picture[..., 0]])
    folder = write_video(tmp_path / "in", [frame, frame], 25)
    assert run(["matte", str(folder), "-o", str(tmp_path / "out"), "--json"]) == 0
    assert result(capsys)["frames"] == 2
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["000000.png", "000001.png"]


def test_person_before_another_background(tmp_path, capsys, clear, picture):
    arguments = ["matte", str(clear), "--background"]
    assert run([*arguments, "#00b140", "-o", str(tmp_path / "green.png")]) == 0
    green = np.asarray(Image.open(tmp_path / "green.png").convert("RGB")).astype(int)
    assert np.abs(green[picture[..., 0] == 0] - (0x00, 0xB1, 0x40)).max(initial=0) <= 1
    solid = picture[..., 0] == 1
    assert np.abs(green[solid] - 255 * picture[solid]).max(initial=0) <= 1
    assert run([*arguments, "transparent", "-o", str(tmp_path / "cut.png")]) == 0
    assert Image.open(tmp_path / "cut.png").mode == "RGBA"
    assert run([*arguments, "blue-ish", "-o", str(tmp_path / "no.png")]) == 2
    assert not (tmp_path / "no.png").exists()


def test_mattes_made_elsewhere(tmp_path, capsys, picture):
    folder = write_video(tmp_path / "in", [picture, picture], 25)
    given = write_video(tmp_path / "mattes", [picture[..., 0], picture[..., 1]], 25)
    arguments = ["matte", str(folder), "--background", "transparent", "--json", "--matte"]
    assert run([*arguments, str(given), "-o", str(tmp_path / "cut.webm")]) == 0
    assert result(capsys)["net"] == "given (mattes)"
    assert (tmp_path / "cut.webm").stat().st_size > 0
    assert run([*arguments, str(given), "-o", str(tmp_path / "cut.mp4")]) == 2  # mp4 holds no transparency
    (given / "000001.png").unlink()
    assert run([*arguments, str(given), "-o", str(tmp_path / "out")]) == 3
    assert "1 mattes for the 2 frames" in capsys.readouterr().err


def test_photos_of_different_sizes(tmp_path, capsys, picture):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, rows in (("a", 48), ("b", 40)):
        write_png(photos / f"{name}.png", np.dstack([picture, picture[..., 0]])[:rows])
    assert run(["matte", str(photos), "-o", str(tmp_path / "out"), "--json"]) == 0
    assert result(capsys)["photos"] == 2
    assert Image.open(tmp_path / "out" / "b.png").size == (64, 40)
    write_png(photos / "c.png", picture).rename(photos / "a.jpg")
    assert run(["matte", str(photos), "-o", str(tmp_path / "twice")]) == 3
    assert "several photos are named a" in capsys.readouterr().err


def test_a_film_of_mattes(tmp_path, capsys, picture):
    folder = write_video(tmp_path / "in", [np.dstack([picture, picture[..., 0]])] * 2, 25)
    assert run(["matte", str(folder), "-o", str(tmp_path / "m.mp4")]) == 0
    assert (tmp_path / "m.mp4").is_file()


def test_bad_inputs_leave_nothing_behind(tmp_path, capsys, clear):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("hello")
    wall = write_png(tmp_path / "wall.png", np.full((64, 64, 3), 0.5, np.float32))
    out = tmp_path / "out"
    cases = [
        (["matte", str(tmp_path / "empty.jpg"), "-o", str(out)], 3, "empty"),
        (["matte", str(tmp_path / "text.jpg"), "-o", str(out)], 3, "neither a photo nor a video"),
        (["matte", str(tmp_path / "none.jpg"), "-o", str(out)], 3, "No such file"),
        (["matte", str(wall), "-o", str(out / "m.png")], 3, "no person"),
        (["matte", str(clear), "-o", str(clear / "m.png")], 3, "cannot be written"),
        (["matte", str(clear), "-o", str(out), "--matte", "bogus"], 4, "unknown matting net"),
        (["info", str(tmp_path / "text.jpg")], 3, "neither"),
    ]
    for arguments, code, words in cases:
        assert run(arguments) == code, arguments
        captured = capsys.readouterr()
        assert words in captured.err
        assert captured.err.count("\n") == 1
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix not in (".jpg", ".png")]
    assert not (out / "m.png").exists()


def test_info_of_every_kind(tmp_path, capsys, clear, picture):
    assert run(["info", str(clear), "--json"]) == 0
    assert result(capsys) == {
        "kind": "photo",
        "file": str(clear),
        "size": [64, 48],
        "transparency": True,
        "exif_focal_35mm": None,
    }
    film = write_video(tmp_path / "a.mp4", [picture] * 5, 25)
    assert run(["info", str(film), "--json"]) == 0
    assert result(capsys) == {
        "kind": "video",
        "file": str(film),
        "size": [64, 48],
        "frames": 5,
        "fps": 25.0,
        "seconds": 0.2,
    }
    code, identity = np.zeros((4, 2), np.float32), np.zeros(3, np.float32)
    avatar = Avatar(code, identity, "open-1", "ab", "open-head", "cd", ("jawOpen",), "3d")
    for name in ("a.avatar", "a.pt"):
        avatar.save(tmp_path / name)
        assert run(["info", str(tmp_path / name), "--json"]) == 0
        facts = result(capsys)
        assert (facts["kind"], facts["avatar_code"], facts["digest"]) == ("avatar", [4, 2], avatar.digest)
    assert run(["info", str(tmp_path / "a.avatar")]) == 0
    assert "kind" in capsys.readouterr().out
    np.savez(tmp_path / "arrays.npz", a=np.zeros(3))
    assert run(["info", str(tmp_path / "arrays.npz"), "--json"]) == 0
    assert result(capsys)["arrays"] == {"a": [3]}


def test_info_of_shipped_models(capsys):
    from flexavatar_cli.core.paths import models_dir

    for folder in sorted(path.parent for name in ("model", "head") for path in models_dir().glob(f"*/{name}.yaml")):
        assert run(["info", str(folder), "--json"]) == 0
        assert result(capsys)["name"] == folder.name


def test_doctor_names_everything(capsys):
    code = run(["doctor", "--json"])
    facts = result(capsys)
    subjects = {finding["subject"] for finding in facts["findings"]}
    assert {"python", "torch", "cuda", "ffmpeg", "open-1", "open-head", "matting"} <= subjects
    assert code == (0 if facts["ready"] else 4)


def test_doctor_says_what_to_do_about_missing_models(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("FLEXAVATAR_MODELS", str(tmp_path))
    assert run(["doctor"]) == 4
    captured = capsys.readouterr()
    assert "clone it again" in captured.out
    assert captured.err == "error: not ready: open-1, open-head\n"


def test_info_of_a_network(tmp_path, capsys):
    from flexavatar_cli.core.paths import models_dir

    folder = models_dir() / "matting"
    assert run(["info", str(folder), "--json"]) == 0
    facts = result(capsys)
    assert (facts["kind"], list(facts["outputs"])) == ("network", ["output"])
    (broken := tmp_path / "broken.onnx").write_bytes(b"no network")
    assert run(["info", str(broken)]) == 4
    assert "not an ONNX net" in capsys.readouterr().err
