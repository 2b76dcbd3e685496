"""Cameras, crops, codes and trajectories of the published system, against its golden file and against laws."""

import os
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from flexavatar_cli.core.errors import InputError
from flexavatar_cli.core.expression import EXPRESSION_NAMES, INDEX
from flexavatar_cli.core.flame import FLAME_NAMES, neutral_code, rotation_from_6d
from flexavatar_cli.media.frame_files import TrackedFrame
from flexavatar_cli.stages import published


def hashed(stream: int, *shape: int) -> np.ndarray:
    """U(stream, k) of SPEC 13.1."""
    mask = (1 << 64) - 1
    values = []
    for k in range(int(np.prod(shape))):
        z = ((stream << 32) + k + 1) * 0x9E3779B97F4A7C15 & mask
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
        z ^= z >> 31
        values.append((z >> 40) * 2.0**-23 - 1)
    return np.array(values).reshape(shape)


def golden_frame(number: int) -> TrackedFrame:
    """The tracked values of crop case `number` (SPEC 13.4)."""

    def draw(stream: int, *shape: int) -> np.ndarray:
        return hashed(2000 + 100 * number + stream, *shape)

    joints = np.tile(np.eye(4), (5, 1, 1))
    joints[1, :3, :3] = Rotation.from_rotvec(0.3 * draw(9, 3)).as_matrix()
    joints[1, :3, 3] = 0.02 * draw(10, 3)
    return TrackedFrame(
        expression=draw(0, 100),
        shape=np.zeros(300),
        eyes=draw(1, 12),
        eyelids=draw(2, 2),
        jaw=draw(3, 6),
        neck=draw(4, 6),
        rotation=np.array([1, 0, 0, 0, 1, 0]) + 0.25 * draw(5, 6),
        translation=0.02 * draw(6, 3),
        base_rotation=np.eye(3),
        base_translation=np.array([0.0, 0, -1]),
        focal=3.8 + 0.3 * draw(7, 1),
        principal=0.01 * draw(8, 2),
        joint_transforms=joints,
    )


@pytest.fixture(scope="module")
def golden():
    named = os.environ.get("FLEXAVATAR_SHARED")
    shared = Path(named) if named else Path(__file__).parents[3] / "shared"
    path = shared / "flex1" / "golden" / "preprocess.npz"
    if not path.is_file():
        pytest.skip("flex1: golden vectors not found (set FLEXAVATAR_SHARED)")
    return np.load(path)


@pytest.mark.parametrize(("number", "case"), [(0, "inside"), (1, "bottom"), (2, "all_sides"), (3, "hires")])
def test_preprocessing_is_the_published_one(golden, number, case):
    frame = golden_frame(number)
    box = golden[f"{case}.crop_box"]
    height, width = (int(side) for side in golden[f"{case}.image_hw"])
    y, x, c = np.ogrid[:height, :width, :3]
    crop = published.crop_picture(((3 * x + 5 * y + 40 * c) % 256).astype(np.uint8), box)
    assert (crop[::8, ::8] == golden[f"{case}.crop_s8"]).all()
    intrinsics = published.tracker_intrinsics(frame)
    cropped = published.crop_intrinsics(intrinsics, box, height)
    scale = np.array([[512], [512], [1]])
    found = {
        "head_pose": (published.head_pose(frame), 1e-6),
        "tracker_cam2world": (published.tracker_cam2world(frame), 0),
        "headcentric_cam2world": (published.headcentric_cam2world(frame), 1e-6),
        "K_tracker_512": (intrinsics, 3e-4),
        "K_512": (cropped, 3e-4),
        "K_norm": (cropped / scale, 1e-6),
        "expression_code": (published.code_of(frame), 1e-7),
    }
    for name, (value, tolerance) in found.items():
        np.testing.assert_allclose(value, golden[f"{case}.{name}"], atol=tolerance, rtol=0, err_msg=name)


def test_trajectories_are_the_published_ones(golden):
    np.testing.assert_allclose(published.frontal_circle(12).cam2world, golden["traj_frontal_12"], atol=2e-7)
    np.testing.assert_allclose(published.full_turn(12).cam2world, golden["traj_360_12"], atol=2e-7)
    np.testing.assert_allclose(published.full_turn(1).intrinsics[0], golden["eval_K"])


def test_a_track_survives_being_written_as_frames(tmp_path):
    """Cameras come back; the head's motion in the code is the one that puts a fixed camera there (SPEC 10.2)."""
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_rotvec([0.1, 0.4, -0.05]).as_matrix() @ np.diag([1.0, -1, -1])
    turn[:3, 3] = 0.3, 0.05, 1.1
    frame = golden_frame(1)
    track = published.track_of([frame, golden_frame(2)])
    moved = type(track)(**(vars(track) | {"cam2world": np.stack([turn, track.cam2world[1]])}))
    again = published.load_tracked(published.save_tracked(moved, tmp_path))
    np.testing.assert_allclose(again.cam2world, moved.cam2world, atol=1e-5)
    np.testing.assert_allclose(again.intrinsics, moved.intrinsics, rtol=1e-5)
    np.testing.assert_allclose(again.expression_code[:, :114], moved.expression_code[:, :114])
    np.testing.assert_allclose(again.expression_code[:, 120:126], moved.expression_code[:, 120:126])
    assert again.expression_names == FLAME_NAMES
    assert (len(again), again.fps) == (2, 24.0)


def test_only_flame_tracks_become_frames(tiny_instruments, tmp_path):
    from flexavatar_cli.stages.motion import demo_motion

    with pytest.raises(InputError, match="FLAME"):
        published.save_tracked(demo_motion(2), tmp_path)


def test_a_folder_without_frames_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no \.frame files"):
        published.load_tracked(tmp_path)


def test_a_bad_frame_in_a_folder_is_named(tmp_path):
    published.save_tracked(published.track_of([golden_frame(0)] * 2), tmp_path)
    (tmp_path / "checkpoint" / "00001.frame").write_bytes(b"x")
    with pytest.raises(InputError, match=r"00001\.frame"):
        published.load_tracked(tmp_path)


def test_arkit_curves_move_jaw_lids_and_gaze():
    code = np.zeros((3, len(EXPRESSION_NAMES)), np.float32)
    assert np.array_equal(published.code_from_arkit(code)[0], neutral_code())
    code[1, INDEX["jawOpen"]] = 1
    code[2, [INDEX["gazeLeftYaw"], INDEX["eyeBlinkRight"]]] = 0.3, 1
    found = published.code_from_arkit(code)
    chin = np.array([0, -0.05, 0.08])  # relative to the jaw joint
    assert (rotation_from_6d(found[1, 120:126]) @ chin)[1] < chin[1] - 0.02, "the chin drops"
    ahead = rotation_from_6d(found[2, 100:106]) @ [0, 0, 1]
    np.testing.assert_allclose(ahead, [np.sin(0.3), 0, np.cos(0.3)], atol=1e-6)
    np.testing.assert_allclose(found[2, 112:114], [0, published.LID_CLOSED])
