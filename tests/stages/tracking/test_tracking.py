"""From landmarks and from a real picture to a Track."""

import logging

import numpy as np
import pytest

from flexavatar_cli.core.errors import InputError
from flexavatar_cli.core.expression import INDEX
from flexavatar_cli.core.options import TrackOptions
from flexavatar_cli.core.track import Track
from flexavatar_cli.stages import tracking

SIZE = (512, 512)


def video(faces, model, frames: int, **shapes: np.ndarray) -> np.ndarray:
    expression = np.zeros((frames, 52))
    for name, values in shapes.items():
        expression[:, INDEX[name]] = values
    return faces(np.zeros((frames, 3)), expression, np.zeros(model.modes))


def test_still_face_gives_a_still_track(faces, model, head):
    track = tracking.track_landmarks(video(faces, model, 6, jawOpen=0.4), SIZE, focal_px=1400, head=head)
    assert len(track) == 6
    assert np.abs(np.diff(track.expression_code, axis=0)).max() < 1e-3
    assert np.abs(np.diff(track.cam2world, axis=0)).max() < 1e-4
    assert track.confidence.min() > 0.95
    assert track.reprojection_px.max() < 1
    assert track.expression_code[0, INDEX["jawOpen"]] == pytest.approx(0.4, abs=0.1)
    np.testing.assert_allclose(track.expression_code[0, -3:], 0, atol=0.05)


def test_blink_is_seen_at_its_height(faces, model, head):
    closed = np.zeros(60)
    closed[30:33] = 0.5, 1.0, 0.5
    seen = video(faces, model, 60, eyeBlinkLeft=closed, eyeBlinkRight=closed)
    code = tracking.track_landmarks(seen, SIZE, focal_px=1400, head=head).expression_code
    blink = code[:, INDEX["eyeBlinkLeft"]]
    assert blink[31] > 0.9
    assert blink[:25].max() < 0.05
    assert np.corrcoef(blink, closed)[0, 1] > 0.95


def test_missing_frames_repeat_their_neighbour_and_are_named(faces, model, head, caplog):
    seen = video(faces, model, 9, jawOpen=np.linspace(0, 0.8, 9))
    seen[[0, 4, 5]] = np.nan
    with caplog.at_level(logging.WARNING):
        track = tracking.track_landmarks(seen, SIZE, head=head)
    assert "3 of 9 frames: 0, 4-5" in caplog.text
    assert list(np.flatnonzero(track.confidence == 0)) == [0, 4, 5]
    for missing, neighbour in ((0, 1), (4, 3), (5, 6)):
        np.testing.assert_array_equal(track.expression_code[missing], track.expression_code[neighbour])
        np.testing.assert_array_equal(track.cam2world[missing], track.cam2world[neighbour])


def test_focal_length_comes_from_the_view_the_exif_or_the_prior(faces, model, head):
    seen = video(faces, model, 1)

    def focal(**known: float) -> float:
        return float(tracking.track_landmarks(seen, SIZE, head=head, **known).intrinsics[0, 0, 0])

    assert focal(fov=20.0, focal_px=1000.0) == pytest.approx(256 / np.tan(np.radians(10)))
    assert focal(focal_px=1000.0) == 1000.0
    height = np.linalg.norm(seen[0, 10] - seen[0, 152])
    assert focal() == pytest.approx(2.9 * 1.9 * height)
    assert focal(focal_px=100.0) == focal()  # a cropped picture's EXIF


def test_shifted_picture_shifts_the_head_not_the_expression(faces, model, head):
    seen = video(faces, model, 1, mouthSmileLeft=0.6, mouthSmileRight=0.6)
    one = tracking.track_landmarks(seen, SIZE, focal_px=1400, head=head)
    two = tracking.track_landmarks(seen + np.array([100.0, 0.0]), SIZE, focal_px=1400, head=head)
    np.testing.assert_allclose(one.expression_code[:, :52], two.expression_code[:, :52], atol=0.06)
    pixels = [track.camera().project(np.zeros((1, 3)))[0][0, 0] for track in (one, two)]
    np.testing.assert_allclose(pixels[1] - pixels[0], [100, 0], atol=2)


def test_real_picture(portrait, head, capfd):
    steps: list[tuple[int, int]] = []
    track = tracking.track([portrait], on_step=lambda done, total: steps.append((done, total)), head=head)
    assert steps[-1] == (2, 2)
    assert tuple(track.size) == (portrait.shape[1], portrait.shape[0])
    assert tracking.relative_error(track) < 0.02
    assert track.confidence[0] > 0.9
    assert np.abs(np.degrees(track.expression_code[0, -3:])).max() < 15
    assert track.expression_code[0, INDEX["eyeBlinkLeft"]] < 0.3
    as_float = tracking.track([portrait.astype(np.float32) / 255], head=head)
    np.testing.assert_array_equal(as_float.landmarks, track.landmarks)
    np.testing.assert_array_equal(as_float.expression_code, track.expression_code)
    assert capfd.readouterr().err == ""  # MediaPipe is kept quiet


def test_video_with_a_gap(portrait, head, tmp_path):
    blank = np.full_like(portrait, 90)
    track = tracking.track([blank, portrait, portrait, blank, portrait], TrackOptions(), fps=30, head=head)
    assert list(track.confidence > 0) == [False, True, True, False, True]
    loaded = Track.load(track.save(tmp_path / "x.track.npz"))
    np.testing.assert_array_equal(loaded.expression_code, track.expression_code)
    assert loaded.fps == 30


def test_no_face_is_an_input_error(head):
    with pytest.raises(InputError, match="no face found; try a frontal portrait"):
        tracking.track([np.zeros((64, 64, 3), np.uint8)], head=head)
    with pytest.raises(InputError, match="no frames"):
        tracking.track([], head=head)


def test_frames_must_be_of_one_size(portrait, head):
    with pytest.raises(InputError, match="frame 1"):
        tracking.track([portrait, portrait[:-10]], head=head)


def test_identity_frames_are_spread(faces, model):
    angles = np.radians(np.stack([np.linspace(-30, 30, 50), np.zeros(50), np.zeros(50)], -1))
    seen = faces(angles, np.zeros((50, 52)), np.zeros(model.modes))
    pick = tracking._spread(seen, 8)
    assert len(pick) == 8
    assert np.diff(pick).max() < 15
