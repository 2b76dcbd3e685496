"""`flexavatar track` from a photo to its files."""

import json

import numpy as np
from PIL import Image

from flexavatar_cli.cli.app import run
from flexavatar_cli.core.track import Track


def test_photo_to_track_and_overlay(tmp_path, capsys):
    import matplotlib.cbook

    with matplotlib.cbook.get_sample_data("grace_hopper.jpg") as stream:
        Image.open(stream).save(tmp_path / "grace.png")
    source, target, drawing = (tmp_path / name for name in ("grace.png", "g.track.npz", "g.png"))
    command = ["track", str(source), "-o", str(target), "--overlay", str(drawing), "--json"]
    assert run(command) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["missing_frames"] == []
    assert result["frames"] == len(Track.load(target)) == 1
    assert Image.open(drawing).size == Image.open(source).size
    assert run(command) == 2  # exists already


def test_picture_without_a_face(tmp_path, capsys):
    Image.fromarray(np.full((80, 60, 3), 77, np.uint8)).save(tmp_path / "wall.png")
    assert run(["track", str(tmp_path / "wall.png"), "-o", str(tmp_path / "w.track.npz")]) == 3
    assert "no face found" in capsys.readouterr().err
    assert not (tmp_path / "w.track.npz").exists()
