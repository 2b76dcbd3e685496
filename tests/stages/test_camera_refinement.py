"""Cameras that are a little off are found while the avatar is fitted."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from flexavatar_cli.core.camera import Camera, look_at
from flexavatar_cli.core.options import FitOptions
from flexavatar_cli.render import render
from flexavatar_cli.stages import animation
from flexavatar_cli.stages.camera_refinement import LARGEST, CameraRefinement
from flexavatar_cli.stages.fitting import RiggedObjective
from flexavatar_cli.stages.observation import Observation
from flexavatar_cli.stages.optimisation import Optimisation
from flexavatar_cli.stages.published_fitting import PublishedObjective

SIZE = 96
OFF = 0.0015  # metres


@pytest.fixture(scope="module")
def observations(grey_avatar, tiny_instruments) -> list[Observation]:
    """Two front views of the avatar whose cameras are said to be OFF further to the left and right than they were."""
    intrinsics = np.array([[SIZE / 0.4, 0, SIZE / 2], [0, SIZE / 0.4, SIZE / 2], [0, 0, 1.0]])
    camera = Camera(look_at(np.array([0, 0, 1.0]), np.zeros(3)), intrinsics, SIZE, SIZE)
    expression = np.zeros(59, np.float32)
    rgb, alpha = render(animation.gaussians(grey_avatar, tiny_instruments, expression), camera)
    image, cover = ((value[0].clamp(0, 1).numpy() * 255).round().astype(np.uint8) for value in (rgb, alpha))
    inside = np.full((SIZE, SIZE), 255, np.uint8)
    seen = Observation(image, cover, inside, camera, grey_avatar.identity, expression)
    result = []
    for side in (OFF, -OFF):
        pose = camera.cam2world.copy()
        pose[0, 0, 3] += side
        result.append(replace(seen, camera=Camera(pose, intrinsics, SIZE, SIZE)))
    return result


def test_cameras_that_are_off_are_found(grey_avatar, observations, tiny_instruments):
    options = FitOptions(steps=40, learning_rate=0)
    work = Optimisation(RiggedObjective(grey_avatar, observations, tiny_instruments, options))
    work.run()
    left, right = (work.objective.cameras.offset(number).detach() for number in (0, 1))
    assert float(left[3]) == pytest.approx(OFF, abs=0.3 * OFF)
    torch.testing.assert_close(left, -right)  # the mean stays the tracker's
    assert np.mean(work.trace[-4:]) < 0.5 * np.mean(work.trace[:4])
    assert work.objective.facts(work.trace)["camera_shift_mm"] > 0.5


def test_nothing_moves_for_one_picture_or_as_published(grey_avatar, observations, tiny_instruments):
    for pictures, preset in ((observations[:1], "default"), (observations, "paper")):
        objective = PublishedObjective(grey_avatar, pictures, tiny_instruments, FitOptions(preset=preset))
        assert objective.cameras is None


def test_offsets_are_bounded_and_start_at_nothing(grey_avatar, tiny_instruments):
    refinement = CameraRefinement(3, torch.device("cpu"))
    head = animation.gaussians(grey_avatar, tiny_instruments)
    with torch.no_grad():
        torch.testing.assert_close(refinement.moved(head, 1).positions, head.positions)
    for _ in range(50):
        refinement.step(1, torch.full((6,), -1.0), 10)
    offset = refinement.offset(1).detach().abs()
    assert (offset <= 2 * torch.tensor(LARGEST)).all()
    assert (offset > 0.5 * torch.tensor(LARGEST)).all()


def test_a_killed_fit_remembers_its_cameras(grey_avatar, observations, tiny_instruments, tmp_path, monkeypatch):
    monkeypatch.setattr("flexavatar_cli.stages.optimisation.CHECKPOINT_STEPS", 3)

    def optimisation(checkpoint=None) -> Optimisation:
        objective = RiggedObjective(grey_avatar, observations, tiny_instruments, FitOptions(steps=5))
        return Optimisation(objective, checkpoint)

    def kill(done: int, _: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    whole = optimisation()
    code = whole.run().avatar_code
    with pytest.raises(KeyboardInterrupt):
        optimisation(tmp_path / "fit").run(kill)
    resumed = optimisation(tmp_path / "fit")
    assert resumed.step == 3
    np.testing.assert_array_equal(resumed.run().avatar_code, code)
    assert torch.equal(resumed.objective.cameras.offset(0), whole.objective.cameras.offset(0))
