"""The synthetic multi-view test set: where its cameras stand and what they see."""

import numpy as np
import pytest

pytest.importorskip("trimesh", reason="trimesh")

from flexavatar_cli.evaluation.scenes import open_calibrated
from flexavatar_cli.heads import load_head
from flexavatar_cli.training.synthetic import calibrated
from flexavatar_cli.training.synthetic.pack import RESOLUTION
from flexavatar_cli.training.synthetic.views import render_mesh


def test_cameras_stand_around_the_head():
    camera = calibrated.cameras(12.0)
    eyes = camera.cam2world[:, :3, 3]
    assert np.linalg.norm(eyes, axis=1) == pytest.approx(calibrated.DISTANCE)
    assert np.degrees(np.arctan2(eyes[0, 0], eyes[0, 2])) == pytest.approx(12)
    pixels, _ = camera.project(np.zeros((1, 3)))
    assert pixels[:, 0] == pytest.approx(np.full((len(camera), 2), calibrated.SIDE / 2))


def test_a_painted_head_is_opaque_inside_and_clear_outside():
    head = load_head()
    mesh = render_mesh(head, RESOLUTION, 0)
    color = np.full((len(head.texels(RESOLUTION).index), 3), (0.2, 0.4, 0.6), np.float32)
    camera = calibrated.cameras(0.0)
    for number in (0, 6, 12):
        picture = calibrated.draw(mesh, head.template.numpy().astype(np.float64), color, camera[number])
        assert picture[256, 256] == pytest.approx([0.2, 0.4, 0.6, 1], abs=1e-5)
        assert picture[2, 2].tolist() == [1, 1, 1, 0]
        edge = (picture[..., 3] > 0.1) & (picture[..., 3] < 0.9)
        assert edge.any()
        assert picture[edge][:, :3] == pytest.approx(np.full((edge.sum(), 3), (0.2, 0.4, 0.6)), abs=1e-4)


@pytest.mark.slow
def test_heads_come_by_seed_with_true_cameras(shared_dir, tmp_path):
    if not (shared_dir / "data" / "ict_hair.npz").is_file():
        pytest.skip("training material")
    calibrated.write_heads(shared_dir / "data", tmp_path / "heads", 1, 5)
    found = open_calibrated(tmp_path / "heads" / "head-000")
    assert found.source == 0
    assert found.azimuths[12] == pytest.approx(180, abs=1e-3)
    groups = [found.group(number) for number in range(len(found.pictures))]
    assert {"front", "side", "back"} == set(groups)
