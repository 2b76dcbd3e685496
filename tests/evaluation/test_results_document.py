"""docs/results.md is assembled from results.json files by benchmarks/results.py."""

from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def program(load_program):
    """The program as a module."""
    return load_program("results")


def row(protocol: str, system: str, group: str = "", scene: str = "a", **measures: float) -> dict:
    """One measurement."""
    return {"protocol": protocol, "scene": scene, "group": group, "system": system, "frame": 0, **measures}


def result(rows: list[dict], inputs: list[str], protocols: list[str], **changes: str) -> dict:
    """What `eval` writes, as far as the document needs it."""
    run = {"weights": "open-1 0123 (trained)", "head_model": "open-head", "matting": "selfie", "backend": "cpu"}
    run |= {"device": "cpu", "protocols": protocols, "frames": 3, "steps": 200, "sink": "both", "seed": 0}
    stage = {"times": 2, "seconds": 30.4, "cpu_seconds": 20.2, "peak_mb": 900.0}
    networks = {"lpips": "lpips_squeeze.onnx, backbone by its name: squeeze", "csim": "n/a: give a file", "akd": "ours"}
    facts = {"commit": "abc", "version": "1", "date": "2026-01-02T03:04:05+00:00", **changes}
    return {
        **facts,
        "format": 1,
        "run": run,
        "networks": networks,
        "inputs": inputs,
        "rows": rows,
        "stages": {"fit": stage},
    }


def test_bars_losses_and_sinks_are_told(program):
    clips = result(
        [row("self", "still photo", psnr=30.0), row("self", "fitted, 3d sink", psnr=25.0, psnr_black=24.0)],
        ["x.mp4"], ["self", "cross", "completeness"],
    )  # fmt: skip
    measured = {"2d": 15.0, "3d": 19.0}
    sides = result(
        [row("novel view", f"encoded, {sink} sink", "back", psnr=value) for sink, value in measured.items()],
        ["head-000"], ["self", "cross", "completeness"], commit="def",
    ) | {"notes": {"head-000": "registered by 3-D face landmarks"}}  # fmt: skip
    text = program.document([clips, sides], [[(Path("x.jpg"), "eval-self.jpg", "Frames")], []])
    assert "| program | clips: commit `abc`, version 1; all sides: commit `def`, version 1 |" in text
    assert "| weights | open-1 0123 (trained) |" in text
    assert "| >= 23.3 | mean 24.00 | met |" in text
    assert "**missed** against still photo 30.00" in text
    assert "- self, PSNR: still photo 30.00 against our best 25.00" in text
    assert "| back | encoded | PSNR | 15.00 | 19.00 | +4.00 to +4.00 | 3-D better |" in text
    assert "- head-000: registered by 3-D face landmarks" in text
    assert "![Frames](images/eval-self.jpg)" in text
    assert "flexavatar eval x.mp4 --frames 3 --steps 200 --sink both --seed 0 --lpips lpips_squeeze.onnx\n" in text
    assert "flexavatar eval --synthetic 1 --data FOLDER" in text
    assert "| fit | 2 | 30 | 20 | 900 |" in text


def test_the_worst_hidden_view_decides(program):
    rows = [
        row("portraits", "fitted, 3d sink", scene=scene, psnr_matte=31.0, hidden_90=value, hidden_135=30.0)
        for scene, value in (("a", 30.0), ("b", 20.0))
    ]
    text = program.document([result(rows, ["a.jpg", "b.jpg"], ["portraits"])], [[]])
    assert "| hid 90 dB | >= 24 | worst 20.0 | **missed** |" in text
    assert "| hid 135 dB | >= 24 | worst 30.0 | met |" in text
    assert "| b | fitted, 3d sink | 31.00 | 20.0 | 30.0 |" in text
    assert "--protocol portraits" in text


def test_pictures_are_those_that_eval_wrote(program, tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "self-my-clip.jpg").write_bytes(b"jpg")
    chosen = program.chosen_pictures(tmp_path / "results.json", {"rows": [row("self", "x", scene="my clip")]})
    assert [(path.name, name) for path, name, _ in chosen] == [("self-my-clip.jpg", "eval-self.jpg")]


def test_novel_views_are_told_on_both_grounds(program):
    sides = result(
        [row("novel view", "fitted, 3d sink", "front", psnr=20.0, psnr_black=24.0)], ["head-000"], ["completeness"]
    )
    text = program.bars([sides])
    assert (
        "| synthetic novel views on black (novel view front; fitted, 3d sink) | PSNR blk dB | >= 22 | mean 24.00"
        in text
    )
    assert "| synthetic novel views on white (novel view front; fitted, 3d sink) | PSNR dB | >= 22 | mean 20.00" in text


def test_the_dev_split_is_a_section_of_its_own(program):
    rows = [row("portraits", "encoded, 3d sink", scene="lon_002_n", psnr_matte=22.0)]
    held_out = result(rows, ["lon_002_n.png"], ["portraits"])
    others = result([row("portraits", "encoded, 3d sink", psnr_matte=24.0)], ["ride.jpg"], ["portraits"])
    text = program.document([held_out, others], [[], []])
    assert (
        "portraits that training never saw; encoded, 3d sink) | PSNR in dB | >= 23 | mean 22.00 | **missed** |" in text
    )
    assert "photos of different people; encoded, 3d sink) | PSNR in dB | >= 23 | mean 24.00 | met |" in text
    assert "flexavatar eval DEV_FOLDER --protocol portraits" in text
