"""The shipped head at its landmarks, and pictures with a real face."""

from collections.abc import Callable

import numpy as np
import pytest

from flexavatar_cli.heads import HeadModel, load_head
from flexavatar_cli.stages.tracking import solver


@pytest.fixture(scope="session")
def head() -> HeadModel:
    return load_head()


@pytest.fixture(scope="session")
def model(head: HeadModel) -> solver.LandmarkModel:
    return solver.LandmarkModel.of(head)


@pytest.fixture(scope="session")
def lens() -> solver.Pinhole:
    return solver.Pinhole(1400.0, (256.0, 256.0))


@pytest.fixture(scope="session")
def portrait() -> np.ndarray:
    """Grace Hopper, the sample picture of matplotlib, RGB uint8 [H, W, 3]."""
    cbook = pytest.importorskip("matplotlib.cbook")
    from PIL import Image

    with cbook.get_sample_data("grace_hopper.jpg") as stream:
        return np.asarray(Image.open(stream).convert("RGB"))


@pytest.fixture(scope="session")
def faces(model: solver.LandmarkModel, lens: solver.Pinhole) -> Callable[..., np.ndarray]:
    """Exact landmarks [T, 478, 2] of angles [T, 3] (yaw, pitch, roll), expressions [T, 52] and one identity."""

    def make(angles: np.ndarray, expression: np.ndarray, identity: np.ndarray, place=(0.02, -0.01, 1.0)) -> np.ndarray:
        poses = make_poses(np.asarray(angles), np.asarray(place))
        return lens.project(poses.camera_points(model.points(identity, expression)))

    return make


def make_poses(angles: np.ndarray, place: np.ndarray) -> solver.Poses:
    """Poses with head axes R_z(roll) R_y(yaw) R_x(-pitch), against the camera's axis."""
    yaw, pitch, roll = np.asarray(angles, np.float64).T
    zero = np.zeros_like(yaw)
    turns = [np.stack(v, -1) for v in ((zero, yaw, zero), (-pitch, zero, zero), (zero, zero, roll))]
    rotation = solver.rotation_of(turns[2]) @ solver.rotation_of(turns[0]) @ solver.rotation_of(turns[1])
    return solver.Poses(solver.FRONTAL @ rotation, np.tile(place, (len(angles), 1)))


@pytest.fixture(scope="session")
def poses_of() -> Callable[[np.ndarray, np.ndarray], solver.Poses]:
    return make_poses
