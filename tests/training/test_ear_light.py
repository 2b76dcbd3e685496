"""Light in the folds of the template's ears."""

import numpy as np
import pytest
import torch

from flexavatar_cli.heads import load_head
from flexavatar_cli.heads.surface import surface
from flexavatar_cli.training.head_model.ear_light import REACH, RESOLUTION, START, ear_light, unoccluded
from flexavatar_cli.training.head_model.raycast import Raycaster


def below(height: float) -> float:
    """The light at the origin of a floor below one triangle that covers all of the sky within reach."""
    ceiling = np.array([[-1.0, height, -1.0], [1.0, height, -1.0], [0.0, height, 2.0]])
    up = np.array([[[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]]).swapaxes(1, 2)  # tangents, then the normal
    return unoccluded(Raycaster(ceiling, np.array([[0, 1, 2]])), np.zeros((1, 3)), up).item()


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_a_ceiling_takes_light_by_its_distance(part):
    """The integral of min(h / (R cos t), 1) 2 cos t sin t over the hemisphere is 2 p - p^2 with p = h / R."""
    assert below(START + part * REACH) == pytest.approx(2 * part - part**2, abs=0.01)


def test_what_is_out_of_reach_or_below_takes_none():
    assert below(2 * REACH) == 1
    assert below(-0.01) == 1


def test_the_shipped_picture_is_the_template_s():
    head = load_head()
    assert head.ear_light is not None
    shipped, made = head.ear_light.flatten()[head.texels(RESOLUTION).index], ear_light(head)
    assert (shipped - made).abs().max() < 0.01
    place = surface(head.texels(RESOLUTION), head.template)
    assert (shipped[place[:, 2] > 0.06] == 1).all()
    for side in (1, -1):
        ear = (place[:, 0] * side > 0.06) & (place[:, 1].abs() < 0.03) & (place[:, 2].abs() < 0.03)
        assert shipped[ear].min() < 0.5 < torch.quantile(shipped[ear], 0.4)
