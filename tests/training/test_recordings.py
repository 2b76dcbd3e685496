"""Calibrated recordings: one head at several moments, cameras in anybody's space, fed as multi-view data."""

import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("trimesh", reason="trimesh")

from flexavatar_cli.core.errors import InputError
from flexavatar_cli.media.frames import open_frames
from flexavatar_cli.media.images import write_png
from flexavatar_cli.stages.matting.nets import open_net
from flexavatar_cli.stages.registration import Similarity
from flexavatar_cli.stages.tracking.solver import rotation_of
from flexavatar_cli.stages.trajectories import load_cameras, save_cameras
from flexavatar_cli.training.config import Phase, TrainConfig
from flexavatar_cli.training.engine import Trainer
from flexavatar_cli.training.feed import Feed
from flexavatar_cli.training.people import sources_in
from flexavatar_cli.training.recordings import cameras_of, faces_in, is_recording, moments, recording_rows, tracked
from flexavatar_cli.training.rows import write_rows
from flexavatar_cli.training.synthetic import calibrated
from flexavatar_cli.training.synthetic.pack import RESOLUTION, read_pack
from flexavatar_cli.training.synthetic.painter import Painter
from flexavatar_cli.training.synthetic.views import render_mesh

DIRECTIONS = ((0, 0), (30, 0), (-30, 0), (180, 0))
ELSEWHERE = Similarity(1000.0, rotation_of(np.array([0.4, 2.0, -0.7])), np.array([300.0, -1200.0, 50.0]))


@pytest.fixture(scope="module")
def recording(head, points, styles, pack_folder, tmp_path_factory) -> Path:
    """Two moments of a painted head, in millimetres and turned, as a studio might have it."""
    folder = tmp_path_factory.mktemp("recording") / "person"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibrated, "DIRECTIONS", DIRECTIONS)
        pack, mesh = read_pack(pack_folder, head), render_mesh(head, RESOLUTION, 0)
        place = folder / "0"
        place.mkdir(parents=True)
        generator = np.random.default_rng(7)  # FaceMesh turns painted heads by 5 to 12 degrees; this one by 5.5
        calibrated.write_head(place, head, mesh, styles, points, Painter(head, pack), pack.skins, generator)
    camera = load_cameras(place / "cameras.json")
    (place / "cameras.json").unlink()
    save_cameras(camera, folder / "true.json")
    save_cameras(ELSEWHERE.camera(camera), folder / "cameras.json")
    shutil.copytree(place, folder / "1")
    return folder


@pytest.fixture(scope="module")
def rows(recording, head):
    return list(recording_rows(recording, 8, head, open_net("selfie")))


def test_a_folder_with_cameras_is_a_recording_and_not_a_clip(recording, tmp_path):
    assert list(sources_in(recording.parent)) == list(sources_in(recording)) == [recording]
    assert is_recording(recording)
    assert moments(recording) == [recording / "0", recording / "1"]
    assert moments(recording / "0") == [recording / "0"]
    assert not is_recording(tmp_path)


def test_cameras_come_into_head_space(recording, rows):
    true = load_cameras(recording / "true.json").cam2world
    assert len(rows) == 2 * len(DIRECTIONS)
    assert [int(row["moment"]) for row in rows] == [0] * 4 + [1] * 4
    assert [bool(row["input"]) for row in rows[:4]] == [True, True, True, False]
    for row, matrix in zip(rows, [*true, *true], strict=True):
        turned = np.degrees(np.arccos((np.trace(row["cam2world"][:3, :3].T @ matrix[:3, :3]) - 1) / 2))
        assert turned < 8
        assert np.linalg.norm(row["cam2world"][:3, 3] - matrix[:3, 3]) < 0.15
        np.testing.assert_array_equal(row["identity"], rows[0]["identity"])
    behind = rows[3]
    assert (behind["alpha"] > 128).mean() > 0.2
    assert 0.02 < (behind["seen"] > 128).mean() < 0.6


@pytest.fixture(scope="module")
def pack(rows, pack_folder, tmp_path_factory) -> Path:
    """The small training folder with the recording in it."""
    folder = tmp_path_factory.mktemp("with") / "pack"
    shutil.copytree(pack_folder, folder)
    write_rows(folder, "recordings", (row | {"clip": np.array(3, np.int32)} for row in rows), shard=3)
    return folder


def test_a_recording_can_be_learned_from(pack, card, tmp_path):
    phase = Phase(RESOLUTION, 1, 1e-3, steps=1, kind="rendered", views=3, recording_share=1.0)
    seen: list[dict[str, float]] = []
    trainer = Trainer(TrainConfig(model="", phases=(phase,)), card, pack, tmp_path / "run")
    trainer.run(lambda step, terms: seen.append(terms))
    assert np.isfinite(list(seen[0].values())).all()
    assert seen[0]["picture"] > 0


def test_recordings_are_fed_as_multi_view_data(head, pack):
    phase = Phase(RESOLUTION, 1, 1e-3, steps=1, kind="rendered", views=3, recording_share=1.0)
    for sinks in ("domain", "side"):
        config = TrainConfig(model="", phases=(phase,), sinks=sinks)
        feed = Feed(config, phase, head, read_pack(pack, head))
        batch = feed.batch(0, range(12))
        again = feed.batch(0, range(11, 12))
        np.testing.assert_array_equal(again.target[0].numpy(), batch.target[11].numpy())
        backs = 0
        for number, target in enumerate(batch.targets):
            assert not target.one_sided
            eyes = target.camera.cam2world[:, :3, 3]
            backs += (eyes[:, 2] < 0).any()
            if sinks == "domain":
                assert batch.sink[number] == 1
                assert len(eyes) == 3
            else:
                assert batch.sink[number] == (3 if eyes[0, 2] < 0 else 1)
                assert len({bool(eye[2] < 0) for eye in eyes}) == 1
        assert 0 < backs <= 12
    assert (batch.weight.amax(1) > 0.9).all()


def test_what_is_wrong_with_a_recording_is_named(recording, head, tmp_path):
    camera = load_cameras(recording / "cameras.json")
    folder = tmp_path / "one"
    folder.mkdir()
    save_cameras(camera[0:1], folder / "cameras.json")
    with pytest.raises(InputError, match="no pictures"):
        moments(folder)
    write_png(folder / "a.png", np.zeros((512, 512, 3), np.float32))
    with pytest.raises(InputError, match="one camera"):
        cameras_of(folder, [open_frames(folder)])
    save_cameras(camera[0:2], folder / "cameras.json")
    with pytest.raises(InputError, match="1 pictures for 2 cameras"):
        cameras_of(folder, [open_frames(folder)])
    write_png(folder / "b.png", np.zeros((256, 512, 3), np.float32))
    with pytest.raises(InputError, match=r"b\.png"):
        faces_in(open_frames(folder))
    with pytest.raises(InputError, match="no picture shows a face"):
        tracked(camera, np.full((1, 4, 478, 2), np.nan), head)
