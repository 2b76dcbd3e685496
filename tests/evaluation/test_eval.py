"""`flexavatar eval` from pictures to report with a tiny random model, and its loop on known answers."""

import json
import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from flexavatar_cli.cli.app import run
from flexavatar_cli.core.camera import Camera
from flexavatar_cli.core.errors import InputError
from flexavatar_cli.core.expression import EXPRESSION_NAMES
from flexavatar_cli.core.options import EvalOptions
from flexavatar_cli.evaluation import networks, protocols, runner, scenes, summary
from flexavatar_cli.evaluation.baselines import STILL, WARPED, StillPhoto, WarpedPhoto
from flexavatar_cli.media.images import read_photo, to_uint8
from flexavatar_cli.media.samples import sample_portrait
from flexavatar_cli.stages.trajectories import save_cameras, turn

SIDE = 256
# pyfvvdp's own, where that is installed; for SciPy 2
pytestmark = pytest.mark.filterwarnings("ignore:Please import `mat_struct`:DeprecationWarning")


@pytest.fixture(scope="module")
def picture_net(tmp_path_factory) -> Path:
    """An ONNX network of two pictures: their mean squared difference."""
    onnx = pytest.importorskip("onnx", reason="onnx")
    make = onnx.helper
    kinds = [make.make_tensor_value_info(name, 1, ["N", 3, "H", "W"]) for name in ("a", "b")]
    nodes = [
        make.make_node("Sub", ["a", "b"], ["d"]),
        make.make_node("Mul", ["d", "d"], ["s"]),
        make.make_node("ReduceMean", ["s"], ["m"], axes=[1, 2, 3], keepdims=0),
    ]
    graph = make.make_graph(nodes, "mse", kinds, [make.make_tensor_value_info("m", 1, ["N"])])
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 13)], ir_version=8)
    path = tmp_path_factory.mktemp("nets") / "lpips_mse.onnx"
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def scene() -> scenes.Scene:
    """A portrait that slides and turns through four frames."""
    photo = read_photo(sample_portrait()).rgb
    side = min(photo.shape[:2])
    photo = cv2.resize(photo[:side, :side], (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    face = networks.Judges().face(to_uint8(photo), None)
    assert face is not None
    matte = np.ones((SIDE, SIDE), np.float32)
    inside = matte.copy()
    targets = {}
    for number in range(4):
        moved = cv2.getRotationMatrix2D((SIDE / 2, SIDE / 2), 12 * number - 18, 1)
        moved[:, 2] += [9 * number - 13, 5 * number - 8]
        rgb = cv2.warpAffine(photo, moved, (SIDE, SIDE), borderMode=cv2.BORDER_REPLICATE)
        points = (face - 0.5) @ moved[:, :2].T + moved[:, 2] + 0.5
        camera: Camera = turn(np.zeros(1), SIDE)
        code = np.zeros(len(EXPRESSION_NAMES), np.float32)
        targets[number] = scenes.Target(number, rgb, matte, inside, camera, code, points)
    source = scenes.Portrait(photo, matte, face)

    def read(numbers):
        return (targets[number] for number in numbers)

    return scenes.Scene("self", "slide", source, [0, 1, 2, 3], [0, 1, 2, 3], read, EXPRESSION_NAMES, 25.0)


class Shifted:
    """A clip that answers with its own frames, `by` frames late: 0 = the truth."""

    def __init__(self, scene: scenes.Scene, by: int, name: str) -> None:
        self.scene, self.by, self.name = scene, by, name

    def show(self, target: scenes.Target):
        number = (target.number + self.by) % len(self.scene.numbers)
        (other,) = self.scene.targets([number])
        return other.shown(), other.matte


@pytest.fixture(scope="module")
def table(scene, tiny_instruments, picture_net):
    """Mean of each metric for the truth, a shuffled clip and the two photo baselines."""
    judges = networks.open_judges(picture_net, None, None, 1)
    bench = protocols.Bench(tiny_instruments, judges, EvalOptions())
    systems = [
        Shifted(scene, 0, "truth"), Shifted(scene, 2, "shuffled"), StillPhoto(scene.source), WarpedPhoto(scene.source),
    ]  # fmt: skip
    rows = protocols.measure(bench, scene, systems)
    return {line["system"]: {key: cell.mean for key, cell in line["cells"].items()} for line in summary.table(rows)}


def test_the_truth_is_perfect(table):
    truth = table["truth"]
    for metric in ("psnr", "psnr_black", "psnr_matte"):
        assert truth[metric] == 99.0
    for metric in ("ssim", "ssim_black", "ssim_matte", "iou", "flicker"):
        assert truth[metric] == pytest.approx(1)
    for metric in ("lpips", "akd", "aed", "apd"):
        assert truth[metric] == pytest.approx(0, abs=1e-6)


def test_a_shuffled_clip_is_terrible(table):
    shuffled = table["shuffled"]
    assert shuffled["psnr"] < 20
    assert shuffled["ssim"] < 0.7
    assert shuffled["lpips"] > 0.03
    assert shuffled["akd"] > 20
    assert shuffled["apd"] > 0.1


def test_a_warped_photo_follows_where_a_still_one_stays(table):
    assert table[WARPED]["akd"] < 6 < table[STILL]["akd"]
    assert table[WARPED]["psnr"] > table[STILL]["psnr"] + 2
    assert table[STILL]["flicker"] == 0


def test_missing_networks_are_named(tiny_instruments):
    words = networks.Judges().describe()
    assert words["lpips"] == "n/a: give --lpips FILE.onnx"
    assert "MediaPipe" in words["akd"]


def test_wrong_networks_are_refused(picture_net, tmp_path):
    with pytest.raises(InputError, match="not a face embedding"):
        networks.FaceEmbedding(picture_net)
    with pytest.raises(InputError, match="cannot be read"):
        networks.Lpips(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_bytes(b"hello")
    with pytest.raises(InputError, match="not an ONNX"):
        networks.Lpips(tmp_path / "text.onnx")


def test_frames_are_spread_as_published():
    assert scenes.spread(100, 5) == [0, 24, 49, 74, 99]
    assert scenes.spread(3, 50) == [0, 1, 2]


@pytest.fixture
def clip(tmp_path) -> Path:
    """Three frames of a slightly turning portrait."""
    frame = Image.open(sample_portrait()).convert("RGB").resize((320, 375))
    folder = tmp_path / "clips" / "turning"
    folder.mkdir(parents=True)
    for number in range(3):
        frame.rotate(4 * number - 4, fillcolor=(60, 90, 150)).save(folder / f"{number:08d}.png")
    return folder


def test_material_is_found_in_published_layouts(clip, tmp_path):
    (tmp_path / "clips" / "person" / "sequence").mkdir(parents=True)
    film = tmp_path / "clips" / "person" / "sequence" / "camera.mp4"
    film.write_bytes(b"film")
    assert scenes.find_material([tmp_path / "clips"]) == ([film, clip], [])
    tracked = tmp_path / "tracking" / "checkpoint"
    tracked.mkdir(parents=True)
    (tracked / "00000.frame").write_bytes(b"PK")
    with pytest.raises(InputError, match="FLAME"):
        scenes.find_material([tmp_path / "tracking"])
    assert runner.unique_names([Path("a/x.mp4"), Path("b/x.mp4")]) == ["a/x", "b/x"]


def test_aligned_cameras_keep_their_mutual_places(clip):
    known = turn(np.radians([20.0, 110.0, 200.0]), 64)
    from flexavatar_cli.stages import motion

    track = motion.demo_motion(5, 64)[:1]
    tracked = replace(track, cam2world=turn(np.radians([35.0]), 64).cam2world * np.array([1, 1, 1, 1.0]))
    moved = scenes.aligned(known, 0, tracked)
    assert moved.cam2world[0] == pytest.approx(tracked.cam2world[0], abs=1e-9)
    assert moved.cam2world == pytest.approx(turn(np.radians([35.0, 125.0, 215.0]), 64).cam2world, abs=1e-9)


@pytest.fixture
def evaluated(clip, tiny_model, tmp_path, monkeypatch, capsys):
    """`eval` on the clip: its folder and what it printed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def once(name: str) -> tuple[Path, dict]:
        command = ["eval", str(clip), "--model", str(tiny_model), "--frames", "3", "--steps", "2", "--sink", "3d"]
        command += ["--work", str(tmp_path / "work"), "-o", str(tmp_path / name), "--json", "-q"]
        assert run(command) == 0
        return tmp_path / name, json.loads(capsys.readouterr().out)

    return once


@pytest.mark.slow
def test_two_runs_agree_and_the_report_stands_alone(evaluated, capsys):
    folder, said = evaluated("one")
    again, _ = evaluated("two")
    one, two = (summary.read_result(path / "results.json") for path in (folder, again))
    assert one["rows"] == two["rows"]
    assert said["rows"] == one["rows"]
    systems = {line["system"] for line in one["table"]}
    assert systems == {STILL, WARPED, "photo on rig", "encoded, 3d sink", "fitted, 3d sink"}
    assert {line["protocol"] for line in one["table"]} == {"self", "completeness"}
    assert one["stages"]["fit"]["times"] == 1
    assert one["networks"]["lpips"].startswith("n/a")
    page = (folder / "report.html").read_text()
    assert not re.search(r"https?://|src=\"(?!data:)|href=|@import|url\(", page)
    assert page.count("data:image/jpeg;base64") > 10
    assert "<svg" in page
    assert (folder / "table.csv").read_text().startswith("protocol,group,system,psnr")
    assert run(["eval", "--compare", str(folder / "results.json"), str(again / "results.json")]) == 0
    assert "+0.00" in capsys.readouterr().out


@pytest.mark.slow
def test_a_calibrated_folder_is_a_novel_view_set(tiny_model, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "head"
    folder.mkdir()
    photo = Image.open(sample_portrait()).convert("RGB").resize((320, 320))
    for number in range(3):
        photo.save(folder / f"{number}.png")
    save_cameras(turn(np.radians([0, 90, 180]), 320), folder / "cameras.json")
    command = [
        "eval",
        str(folder),
        "--model",
        str(tiny_model),
        "--steps",
        "0",
        "--sink",
        "2d",
        "-o",
        str(tmp_path / "e"),
    ]
    assert run([*command, "-q"]) == 0
    out = capsys.readouterr().out
    for title in ("novel view input", "novel view side", "novel view back", "completeness"):
        assert title in out
    notes = summary.read_result(tmp_path / "e" / "results.json")["notes"]
    assert "camera alone" in notes["head"]  # the same picture thrice: no landmark has a depth
    assert run([*command, "-q"]) == 2  # exists already
    (folder / "2.png").unlink()
    assert run([*command, "-q", "--overwrite"]) == 3


def test_usage(tmp_path):
    assert run(["eval"]) == 2
    assert run(["eval", "--synthetic", "1"]) == 2
    assert run(["eval", "--compare", "a.json"]) == 2
    assert run(["eval", "x.mp4", "--sink", "4d"]) == 2
    assert run(["eval", "--synthetic", "1", "--data", str(tmp_path)]) == 3
