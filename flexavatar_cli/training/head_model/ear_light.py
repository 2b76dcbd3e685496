"""Light in the folds of the template's ears, where photos from the front show hardly any: ambient occlusion.

`python -m flexavatar_cli.training.head_model.ear_light models/open-head` writes it anew.
"""

import math
import sys
from pathlib import Path

import numpy as np
import torch

from flexavatar_cli.heads import HeadModel, load_head
from flexavatar_cli.heads.files import EAR_LIGHT
from flexavatar_cli.heads.surface import frames, surface
from flexavatar_cli.heads.texels import SKIN
from flexavatar_cli.media.images import write_png
from flexavatar_cli.stages.hull import about_ears
from flexavatar_cli.training.head_model.raycast import Raycaster

RESOLUTION = 256
RAYS = 256
REACH = 0.03  # metres: what is further away takes no light
START = 3e-4  # metres off the surface where rays start, so that they do not meet it


def write_ear_light(head: HeadModel, folder: Path) -> Path:
    """Write the picture EAR_LIGHT [R, R], in the atlas, beside the head model."""
    return write_png(folder / EAR_LIGHT, head.texels(RESOLUTION).scatter(ear_light(head)[:, None], 1.0)[..., 0].numpy())


def ear_light(head: HeadModel) -> torch.Tensor:  # [N] in 0..1
    """The light that reaches each texel about the ears, the mean of both sides; 1 on all others."""
    grid = head.texels(RESOLUTION)
    places, axes = surface(grid, head.template), frames(head, grid, head.template).matrix()
    template = head.template[torch.from_numpy(about_ears(head.template.numpy()))]
    template = torch.stack([template[:, 0].abs(), *template.T[1:]], -1)
    mirrored = torch.stack([places[:, 0].abs(), *places.T[1:]], -1)
    near = ((mirrored > template.amin(0) - REACH) & (mirrored < template.amax(0) + REACH)).all(-1)
    skin = torch.tensor([name in SKIN for name in head.part_names])[grid.part]
    rows = torch.nonzero(near & skin)[:, 0]
    mesh = Raycaster(head.template.numpy(), head.faces.numpy())
    light = torch.ones(len(places))
    light[rows] = torch.from_numpy(unoccluded(mesh, places[rows].numpy(), axes[rows].numpy())).float()
    return (light + light[grid.mirror]) / 2


def unoccluded(mesh: Raycaster, points: np.ndarray, axes: np.ndarray) -> np.ndarray:  # [P, 3] metres, [P, 3, 3] -> [P]
    """Share of the light, cosine-weighted, that reaches points; what blocks it counts less, up to REACH away.

    The columns of `axes` are those of `Frames.matrix`: two tangents and the normal.
    """
    rays = np.einsum("rk,pck->prc", _hemisphere(), axes).reshape(-1, 3)
    starts = np.repeat(points + START * axes[..., 2], RAYS, 0)
    _, hits = mesh.first_hits(starts, rays)
    distance = np.nan_to_num(np.linalg.norm(hits - starts, axis=1), nan=REACH)
    return (distance.clip(0, REACH) / REACH).reshape(-1, RAYS).mean(1)


def _hemisphere() -> np.ndarray:  # [RAYS, 3] around +z, denser there by the cosine
    step = np.arange(RAYS) + 0.5
    height, angle = np.sqrt(step / RAYS), step * math.pi * (3 - math.sqrt(5))
    radius = np.sqrt(1 - height**2)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), height], 1)


if __name__ == "__main__":
    write_ear_light(load_head(sys.argv[1]), Path(sys.argv[1]))
