"""Cameras of a video: closed forms, framing, files."""

import json

import numpy as np
import pytest

from flexavatar_cli.core.camera import Camera
from flexavatar_cli.core.errors import InputError, UsageError
from flexavatar_cli.stages import motion, trajectories


def test_orbit_starts_in_front_turns_once_and_loops():
    azimuths = trajectories.orbit_azimuths(150)
    assert azimuths[0] == 0
    steps = np.diff(np.append(azimuths, 2 * np.pi))
    assert (steps > 0).all()
    assert steps[0] == pytest.approx(steps[-1], rel=1e-6)  # symmetric, so the loop has no jerk
    assert steps.max() / steps.min() == pytest.approx(1.75 / 0.25, rel=0.02)  # slow in front, fast behind
    camera = trajectories.orbit(150, 64)
    assert camera.cam2world[0, :3, 3] == pytest.approx([0, 0, 1])


def test_quarter_turn_sees_the_subjects_left_side():
    camera = trajectories.turn(np.array([np.pi / 2]), 64)
    assert camera.cam2world[0, :3, 3] == pytest.approx([1, 0, 0])
    (pixels,), depth = camera.project(np.array([[0.1, 0, 0], [0, 0, 0.1]]))
    assert depth[0, 0] == pytest.approx(0.9)  # the left ear is near
    assert pixels[1, 0] < 32  # the nose points to the picture's left


def test_framing_holds_a_head_with_hair_and_shoulders():
    camera = trajectories.turn(np.linspace(0, 2 * np.pi, 12), 512)
    head = np.array([[0, 0.17, 0], [0.13, 0, 0], [-0.13, 0, 0], [0, 0, 0.14], [0, 0, -0.14], [0, -0.19, 0]])
    pixels, _ = camera.project(head)
    assert pixels.min() > 0
    assert pixels.max() < 512
    assert np.ptp(pixels[0, :, 1]) > 0.9 * 512 * 0.36 / 0.40


def test_circle_is_the_published_one():
    camera = trajectories.circle(12, 64)
    angle = 2 * np.pi * 5 / 12
    eye = [-0.3 * np.sin(angle), 0.3 * np.cos(angle), 1]
    assert camera.cam2world[5, :3, 3] - trajectories.HEAD_CENTRE == pytest.approx(eye)
    pixels, _ = camera.project(trajectories.HEAD_CENTRE[None])
    assert pixels == pytest.approx(np.full((12, 1, 2), 32))


@pytest.mark.parametrize("relative", [False, True])
def test_front_shows_the_head_turned_as_the_driver_did(relative):
    angles = np.array([[0.3, 0.1, -0.05], [0.1, -0.2, 0.1], [0.5, 0.0, 0.0]])
    driver = motion.motion_track(np.zeros((3, 59), np.float32), motion.turned_heads(angles, 300), 25, "test")
    camera = trajectories.following(driver, 200, relative)
    # a driver filmed by our own frontal camera: the same cameras come back
    seen = camera.world2cam[:, :3, :3]
    expected = motion.turned_heads(angles, 200).world2cam[:, :3, :3]
    if relative:
        facing = trajectories.front(1, 200).world2cam[0, :3, :3]
        expected = expected @ expected[0].T @ facing
    assert seen == pytest.approx(expected)
    pixels, _ = camera.project(trajectories.HEAD_CENTRE[None])
    assert pixels == pytest.approx(np.full((3, 1, 2), 100))


def test_front_follows_the_drivers_shift():
    cam2world = np.repeat(trajectories.front(1, 64).cam2world, 3, 0)
    cam2world[2, 0, 3] += 0.05  # the camera went to the subject's left by 5 cm: the head is seen 5 cm to the other side
    driver = motion.motion_track(np.zeros((3, 59), np.float32), trajectories.free_camera(cam2world, 64), 25, "test")
    camera = trajectories.following(driver, 64)
    assert camera.cam2world == pytest.approx(cam2world)


def test_file_round_trip_and_holding_one(tmp_path):
    path = tmp_path / "cameras.json"
    camera = trajectories.circle(3, 64)
    trajectories.save_cameras(camera, path)
    again = trajectories.load_cameras(path)
    assert again.cam2world == pytest.approx(camera.cam2world)
    assert again.intrinsics == pytest.approx(camera.intrinsics)
    trajectories.save_cameras(camera[0], path, source=0)
    assert json.loads(path.read_text())["source"] == 0
    drive = motion.demo_motion(4)
    assert len(trajectories.cameras_for(str(path), drive, 64)) == len(drive)


@pytest.mark.parametrize(
    "damage",
    [
        lambda c: c.update(convention="opengl"),
        lambda c: c.update(cameras=[]),
        lambda c: c["cameras"][0].pop("fx"),
        lambda c: c["cameras"][0].update(width=65),
        lambda c: c["cameras"][0].update(fx="wide"),
        lambda c: c["cameras"][0].update(cam2world=[[1, 2], [3, 4]]),
        lambda c: c["cameras"][0]["cam2world"][0].__setitem__(0, 2.0),
        lambda c: [entry.update(width=10**9) for entry in c["cameras"]],
    ],
)
def test_bad_files_are_named(tmp_path, damage):
    path = tmp_path / "cameras.json"
    trajectories.save_cameras(trajectories.circle(2, 64), path)
    content = json.loads(path.read_text())
    damage(content)
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"cameras\.json"):
        trajectories.load_cameras(path)


def test_wrong_count_and_unknown_name(tmp_path):
    path = tmp_path / "two.json"
    trajectories.save_cameras(trajectories.circle(2, 64), path)
    drive = motion.demo_motion(2)
    with pytest.raises(InputError, match="2 cameras for 12 frames"):
        trajectories.cameras_for(str(path), drive, 64)
    with pytest.raises(UsageError, match="--camera sideways"):
        trajectories.cameras_for("sideways", drive, 64)
    assert isinstance(trajectories.cameras_for("driver", drive, 64), Camera)
