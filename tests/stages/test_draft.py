"""A draft: what photo and matte do not say."""

import numpy as np
import pytest
import torch

from flexavatar_cli.core.camera import Camera, look_at
from flexavatar_cli.stages.draft import TEETH, Draft
from flexavatar_cli.stages.encoding import load_prior
from flexavatar_cli.stages.observation import Observation

SIZE = 96


@pytest.fixture(scope="module")
def draft(tiny_instruments) -> Draft:
    """Of a grey picture without a face in it."""
    focal = SIZE / 0.4
    matrix = np.array([[focal, 0, SIZE / 2], [0, focal, SIZE / 2], [0, 0, 1]])
    camera = Camera(look_at(np.array([0, 0, 1.0]), np.zeros(3)), matrix[None], SIZE, SIZE)
    full, who = np.full((SIZE, SIZE), 255, np.uint8), np.zeros(len(tiny_instruments.head.identity_basis), np.float32)
    seen = Observation(np.full((SIZE, SIZE, 3), 128, np.uint8), full, full, camera, who, np.zeros(59, np.float32))
    return Draft(seen, load_prior(tiny_instruments), tiny_instruments, "3d")


def test_teeth_that_are_not_seen_get_the_hue_of_teeth(draft):
    grid = draft.head.texels(draft.model.resolution)
    teeth = (grid.part == draft.head.part_names.index("teeth")) & (draft.found.seen == 0)
    before = draft.attributes().color[0]
    draft.whiten_teeth()
    after = draft.attributes().color[0]
    assert teeth.sum() > 20
    hue = after[teeth] / after[teeth].sum(1, keepdim=True)
    own = before[teeth] / before[teeth].sum(1, keepdim=True)
    wanted = torch.tensor(TEETH) / sum(TEETH)
    assert (hue - wanted).abs().mean() < 0.5 * (own - wanted).abs().mean()
    far = grid.part == draft.head.part_names.index("scalp")
    assert (after - before)[far].abs().mean() < 0.05 * (after - before)[teeth].abs().mean()
