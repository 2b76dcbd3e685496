"""Upper eyelids: an open eye folds them away, so a photo says next to nothing about the skin that a blink unrolls."""

import numpy as np
import torch

from flexavatar_cli.core.expression import INDEX
from flexavatar_cli.heads import HeadModel
from flexavatar_cli.heads.surface import deformation
from flexavatar_cli.heads.texels import TexelGrid

GROWTH = (1.3, 1.8)  # of a texel's area from open to closed eyes, between which it turns from skin to lid
BLINKS = ("eyeBlinkLeft", "eyeBlinkRight")


def folded_lids(head: HeadModel, grid: TexelGrid, expression: np.ndarray) -> np.ndarray:  # [E] -> [N]
    """Weight in 0..1 of texels that `expression` keeps folded away."""
    blink = float(np.mean([expression[INDEX[name]] for name in BLINKS]))
    return lids(head, grid) * (1 - min(max(blink, 0.0), 1.0))


def lids(head: HeadModel, grid: TexelGrid) -> np.ndarray:  # [N]
    """Weight in 0..1 of texels on the upper lids, but for the lashes along the slit; made once per grid."""
    if "lids" not in grid.cache:
        grid.cache["lids"] = _make_lids(head, grid)
    return grid.cache["lids"]


def _make_lids(head: HeadModel, grid: TexelGrid) -> np.ndarray:
    closed = torch.zeros(len(INDEX))
    for name in BLINKS:
        closed[INDEX[name]] = 1
    with torch.no_grad():
        stretch = deformation(head, grid, head.vertices(None, None), head.vertices(None, closed)).stretch
    growth = stretch.prod(-1).numpy()
    lid = np.clip((growth - GROWTH[0]) / (GROWTH[1] - GROWTH[0]), 0, 1)
    lid *= grid.part.numpy() == head.part_names.index("face")
    valid = grid.valid.numpy()
    beneath = [np.roll(valid, -step, axis=0).ravel()[grid.index.numpy()] for step in (1, 2)]
    return lid * beneath[0] * (1 + beneath[1]) / 2
