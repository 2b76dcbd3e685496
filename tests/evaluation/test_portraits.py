"""The protocol of photos: who is told apart, what hidden views keep, and the heads between two people."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from flexavatar_cli.cli.app import run
from flexavatar_cli.core.errors import InputError
from flexavatar_cli.evaluation import portraits, scenes, summary
from flexavatar_cli.evaluation.sheet import HIDDEN
from flexavatar_cli.media.samples import sample_portrait


def person(name: str, photo, render) -> portraits.Person:
    """Somebody whose photo and one render have these embeddings."""
    return portraits.Person(name, None, [], photo, {"ours": render})  # type: ignore[arg-type]


def test_people_are_told_apart_by_the_share_of_less_alike_photos():
    x, y, z = np.eye(3)
    blend = np.array([0.8, 0.6, 0.0])
    people = [person("a", x, blend), person("b", y, blend), person("c", z, None), person("d", None, x)]
    rows = portraits.told_apart(people)
    assert rows["a", "ours"]["told_apart"] == 1  # 0.8 against 0.6 and 0
    assert rows["a", "ours"]["csim_wrong"] == pytest.approx(0.3)
    assert rows["b", "ours"]["told_apart"] == 0.5  # 0.6 against 0.8 and 0
    assert rows["c", "ours"]["told_apart"] == 0  # no face in the render
    assert ("d", "ours") not in rows  # no face in the photo
    assert portraits.told_apart(people[:1]) == {}


def test_hidden_views_keep_the_worse_side():
    black, white = np.zeros((4, 4, 3)), np.ones((4, 4))
    before = [(black, white)] * len(HIDDEN)
    after = [(black + 0.1 * (azimuth == 270), white) for azimuth in HIDDEN]
    row = portraits.kept(before, after)
    assert row == pytest.approx({"hidden_90": 20, "hidden_135": 99, "hidden_180": 99})


def test_pairs_are_all_or_spread():
    assert [(a, b) for a, b in portraits.chosen_pairs("abc")] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert len(portraits.chosen_pairs("abcdefgh")) == portraits.PAIRS
    assert portraits.chosen_pairs("a") == []


def test_photos_are_found(tmp_path):
    photo = tmp_path / "people" / "one.png"
    photo.parent.mkdir()
    Image.new("RGB", (8, 8)).save(photo)
    assert scenes.find_photos([photo.parent, photo]) == [photo, photo]
    film = tmp_path / "film.mp4"
    film.write_bytes(b"film")
    with pytest.raises(InputError, match="not a photo"):
        scenes.find_photos([film])


def test_portraits_stand_alone(tmp_path):
    assert run(["eval", str(sample_portrait()), "--protocol", "portraits", "--protocol", "self"]) == 2


@pytest.fixture(scope="module")
def face_net(tmp_path_factory) -> Path:
    """An ONNX network of a 112 x 112 crop: its means over 14 x 14 squares."""
    onnx = pytest.importorskip("onnx", reason="onnx")
    make = onnx.helper
    nodes = [
        make.make_node("AveragePool", ["image"], ["pooled"], kernel_shape=[14, 14], strides=[14, 14]),
        make.make_node("Flatten", ["pooled"], ["vector"]),
    ]
    image = make.make_tensor_value_info("image", 1, [1, 3, 112, 112])
    graph = make.make_graph(nodes, "squares", [image], [make.make_tensor_value_info("vector", 1, [1, 192])])
    path = tmp_path_factory.mktemp("nets") / "squares.onnx"
    onnx.save(make.make_model(graph, opset_imports=[make.make_opsetid("", 13)], ir_version=8), path)
    return path


@pytest.mark.slow
def test_photos_to_report(tiny_model, face_net, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    photo = Image.open(sample_portrait()).convert("RGB").resize((320, 375))
    photo.save(tmp_path / "light.png")
    ImageOps.mirror(ImageOps.posterize(photo, 3)).save(tmp_path / "other.png")
    command = ["eval", str(tmp_path / "light.png"), str(tmp_path / "other.png"), "--protocol", "portraits"]
    command += ["--model", str(tiny_model), "--steps", "2", "--sink", "3d", "--face-embedding", str(face_net)]
    assert run([*command, "-o", str(tmp_path / "out"), "-q"]) == 0
    said = capsys.readouterr().out
    result = summary.read_result(tmp_path / "out" / "results.json")
    cells = {(line["protocol"], line["system"]): line for line in result["table"]}
    fitted, encoded = cells["portraits", "fitted, 3d sink"], cells["portraits", "encoded, 3d sink"]
    assert {"psnr_matte", "iou_head", "csim", "told_apart", "holes"} <= set(encoded)
    assert {"hidden_90", "hidden_135", "hidden_180"} <= set(fitted) - set(encoded)
    assert fitted["hidden_180"]["total"] == 2
    steps = [cells["interpolation", f"{share:.2f}"] for share in portraits.SHARES]
    assert "monotonic" not in steps[0]
    assert all({"csim_a", "csim_b", "monotonic"} <= set(step) for step in steps[1:])
    page = (tmp_path / "out" / "report.html").read_text()
    assert "light to other" in page
    names = {path.name for path in (tmp_path / "out" / "pictures").iterdir()}
    assert names == {
        "portraits-light.jpg", "portraits-light-2.jpg", "portraits-other.jpg", "portraits-other-2.jpg",
        "interpolation-light-to-other.jpg",
    }  # fmt: skip
    assert "own > wrong" in said
