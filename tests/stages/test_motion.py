"""The built-in motion, motion files and their transfer."""

from pathlib import Path

import numpy as np
import pytest

from flexavatar_cli.core.errors import InputError
from flexavatar_cli.core.expression import ARKIT_NAMES, EXPRESSION_NAMES, INDEX
from flexavatar_cli.stages import motion, trajectories


def weights(code: np.ndarray) -> np.ndarray:
    return code[:, : len(ARKIT_NAMES)]


def test_demo_is_periodic_smooth_and_starts_neutral():
    seconds = np.linspace(0, motion.DEMO_SECONDS, 1000, endpoint=False)
    code = motion.demo_expression(seconds)
    assert motion.demo_expression(seconds + motion.DEMO_SECONDS) == pytest.approx(code, abs=1e-5)
    assert (code[0] == 0).all()
    assert weights(code).min() == 0
    assert weights(code).max() <= 1
    speed = np.abs(np.diff(np.vstack([code, code[:1]]), axis=0)).max() * 1000 / motion.DEMO_SECONDS
    assert speed < 14  # a blink of 0.12 s is the fastest: 1.5 / 0.12 = 12.5 a second


SHOWN = ("eyeBlinkLeft", "mouthSmileRight", "jawOpen", "browInnerUp", "mouthPucker", "tongueOut")


@pytest.mark.parametrize("name", SHOWN)
def test_demo_shows_each_expression_while_the_face_is_in_view(name):
    track = motion.demo_motion()
    assert len(track) / track.fps >= 4
    visible = np.cos(trajectories.orbit_azimuths(len(track))) > np.cos(np.radians(60))
    assert track.expression_code[visible, INDEX[name]].max() > 0.4
    assert track.expression_code[visible, INDEX["gazeLeftYaw"]].max() > 0.2


def test_lids_and_gaze_say_the_same():
    code = motion.demo_motion().expression_code
    assert motion.with_gaze(code) == pytest.approx(code, abs=1e-6)


def write_csv(path, names, rows, stamps=None):
    lines = [",".join((["Timecode"] if stamps else []) + [name[0].upper() + name[1:] for name in names])]
    for number, row in enumerate(rows):
        lines.append(",".join(([stamps[number]] if stamps else []) + [repr(float(value)) for value in row]))
    path.write_text("\n".join(lines) + "\n")


def test_arkit_curves_round_trip(tmp_path):
    path = tmp_path / "take.csv"
    demo = motion.demo_motion(30).expression_code
    demo[:, INDEX["headYaw"]] = 0.2
    names = (*ARKIT_NAMES, "headYaw", "headPitch", "headRoll")
    columns = [INDEX[name] for name in names]
    stamps = [f"11:{i // 1800:02d}:{i // 30 % 60:02d}:{2 * (i % 30):02d}.250" for i in range(len(demo))]
    write_csv(path, names, demo[:, columns], stamps)
    track = motion.load_arkit(path, 128)
    assert track.fps == 30
    assert track.expression_names == EXPRESSION_NAMES
    assert track.expression_code == pytest.approx(demo, abs=1e-6)
    (pixels, *_), _ = track.camera().project(np.array([[0, 0, 0.1]]))
    assert pixels[0, 0] > 64  # the nose turned to the subject's left, the picture's right


def test_head_angles_have_their_signs():
    eye = motion.turned_heads(np.array([[0.2, 0, 0], [0, 0.2, 0], [0, 0, 0.2]]), 100)
    nose, _ = eye.project(np.array([[0, 0, 0.1]]))
    crown, _ = eye.project(np.array([[0, 0.15, 0]]))
    assert nose[0, 0, 0] > 50  # to the subject's left; up
    assert nose[1, 0, 1] < 50
    assert crown[2, 0, 0] < 50  # roll > 0 turns +x towards +y: the crown goes to the picture's left


@pytest.mark.parametrize(
    "text", ["", "jawOpen\n", "a,b\n1,2\n", "jawOpen\nwide\n", "jawOpen,mouthLeft\n0.5\n", "jawOpen\nnan\n", "\x00"]
)
def test_bad_curves_are_named(tmp_path, text):
    path = tmp_path / "take.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=r"take\.csv"):
        motion.load_arkit(path)


def test_rates():
    assert motion.timecode_fps([]) == 60
    assert motion.timecode_fps([f"00:00:0{i // 60}:{i % 60:02d}" for i in range(120)]) == 60
    assert motion.timecode_fps([f"00:00:0{i // 24}:{i % 24:02d}" for i in range(240)]) == 24
    assert motion.timecode_fps(["x", "y"]) == 60


def test_motion_file_round_trip(tmp_path):
    track = motion.demo_motion()
    again = motion.load_motion(track.save(tmp_path / "motion.npz"))
    assert (again.expression_code == track.expression_code).all()
    assert again.fps == track.fps


def test_missing_faces_hold_the_last_pose():
    track = motion.demo_motion(2)
    track.confidence[[0, 4, 5]] = 0
    held, missing = motion.hold_missing(track)
    assert missing == [0, 4, 5]
    expected = track.expression_code[[1, 1, 2, 3, 3, 3, 6, 7, 8, 9, 10, 11]]
    assert (held.expression_code == expected).all()
    track.confidence[:] = 0
    with pytest.raises(InputError, match="no frame"):
        motion.hold_missing(track)


def test_relative_motion_starts_at_the_avatars_rest():
    code = motion.demo_motion().expression_code + 0.1
    neutral = np.zeros(len(EXPRESSION_NAMES), np.float32)
    neutral[INDEX["eyeSquintLeft"]] = 0.2
    moved = motion.transfer(code, EXPRESSION_NAMES, neutral, relative=True)
    assert moved[0] == pytest.approx(neutral, abs=1e-6)
    assert weights(moved).min() >= 0
    assert weights(moved).max() <= 1
    jaw = INDEX["jawOpen"]
    assert moved[:, jaw] == pytest.approx(code[:, jaw] - 0.1, abs=1e-6)
    assert moved[:, INDEX["gazeLeftYaw"]].min() < -0.2  # angles may be negative
    assert motion.transfer(code, EXPRESSION_NAMES, neutral, relative=False) is code


def test_recoding_goes_by_name():
    code = np.array([[1.0, 2.0]], np.float32)
    assert (motion.recoded(code, ("a", "b"), ("b", "c", "a")) == [[2, 0, 1]]).all()
    with pytest.raises(InputError):
        motion.recoded(code, ("a", "b"), ("c",))


def test_the_shipped_curves_are_the_built_in_motion():
    """assets/demo_motion.csv, written with three decimals, reads back as what `render` plays without a driver."""
    path = Path(__file__).parents[2] / "assets" / "demo_motion.csv"
    shipped, built_in = motion.load_motion(path), motion.demo_motion()
    assert shipped.fps == pytest.approx(built_in.fps)
    np.testing.assert_allclose(shipped.expression_code[:, :52], built_in.expression_code[:, :52], atol=6e-4)
