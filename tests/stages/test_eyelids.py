"""Which texels an open eye folds away."""

import numpy as np
import pytest

from flexavatar_cli.core.expression import INDEX
from flexavatar_cli.heads import load_head
from flexavatar_cli.heads.surface import surface
from flexavatar_cli.stages.eyelids import BLINKS, folded_lids, lids


@pytest.fixture(scope="module")
def head():
    return load_head()


def test_lids_lie_above_the_eyes_on_both_sides(head):
    grid = head.texels(256)
    weight = lids(head, grid)
    points = surface(grid, head.template).numpy()[weight > 0.5]
    assert 50 < len(points) < 400
    for side in ("left", "right"):
        eye = head.joints[f"eye_{side}"].numpy()
        own = points[np.sign(points[:, 0]) == np.sign(eye[0])]
        assert len(own) > 20
        assert np.abs(own[:, 0] - eye[0]).max() < 0.025
        assert (own[:, 1] > eye[1] - 0.005).mean() > 0.9


def test_closed_eyes_fold_nothing_away(head):
    grid = head.texels(256)
    expression = np.zeros(len(INDEX))
    assert folded_lids(head, grid, expression).max() == 1
    expression[[INDEX[name] for name in BLINKS]] = 1
    assert folded_lids(head, grid, expression).max() == 0
