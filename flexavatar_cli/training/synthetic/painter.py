"""Paints synthetic heads: skin, hair, hats, clothes, eyes and light of a random person."""

import numpy as np
import torch

from flexavatar_cli.core.expression import INDEX
from flexavatar_cli.heads import HeadModel
from flexavatar_cli.heads.surface import frames, surface
from flexavatar_cli.heads.texels import SKIN
from flexavatar_cli.training.synthetic.hair import smooth_noise
from flexavatar_cli.training.synthetic.materials import draw_eye
from flexavatar_cli.training.synthetic.pack import RESOLUTION, Pack


class Painter:
    """Paints views of a pack: skin, hair, hat, clothes, eyes, light. One instance a training run."""

    def __init__(self, head: HeadModel, pack: Pack) -> None:
        grid = head.texels(RESOLUTION)
        self.pack = pack
        with torch.no_grad():
            self.points = surface(grid, head.template).numpy()
            self.normals = frames(head, grid, head.template).normal.numpy()
        part = np.array(head.part_names)[grid.part.numpy()]
        self.skin = np.isin(part, SKIN)
        self.interior = np.isin(part, ("teeth", "gums", "tongue", "mouth_socket"))
        scalp = (head.scalp_weight[head.faces[grid.face]] * grid.bary).sum(-1).numpy()
        self.scalp = scalp * self.skin
        self.eyes, self.radius = [], []
        for side in ("left", "right"):
            rows = np.nonzero(part == f"eyeball_{side}")[0]
            arm = self.points[rows] - head.joints[f"eye_{side}"].numpy()
            self.eyes.append(rows)
            self.radius.append(np.where(arm[:, 2] > 0, np.hypot(arm[:, 0], arm[:, 1]), 1.0))

    def paint(
        self, view: dict[str, np.ndarray], skins: np.ndarray, generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Colours [N, 3], trust [N] and light [N, 1] of a random person with this view's hair."""
        materials = self.pack.materials
        row = int(generator.choice(skins))
        color = materials.skin[row].astype(np.float32) / 255
        trust = materials.confidence[row].astype(np.float32) / 255
        cover = view["cover"].astype(np.float32)[:, None] / 255
        shade = view["shade"].astype(np.float32)[:, None] / 128
        own = materials.hair_color[row]
        if view["hat"]:
            hair = generator.uniform(0.02, 0.9) * generator.dirichlet([3, 3, 3]) * 2
            under = own if own.min() >= 0 else _hair_color(generator)
        else:
            hair = own if own.min() >= 0 and generator.random() < 0.4 else _hair_color(generator)
            under = hair
        strands = np.clip(hair * (1 + generator.uniform(0.5, 1.2) * (shade - 1)), 0, 1)
        stubble = self.scalp[:, None] * (1 - cover) * (generator.random() < 0.7) * generator.uniform(0.4, 1)
        color = color * (1 - stubble) + stubble * under
        color = color * (1 - cover) + cover * strands
        trust = np.maximum(trust, cover[:, 0])
        collar = generator.uniform(-0.165, -0.105) + generator.uniform(-0.4, 0.4) * (self.points[:, 2] - 0.02)
        cloth = np.clip((collar - self.points[:, 1]) / 0.003, 0, 1)[:, None] * (1 - cover) * self.skin[:, None]
        fabric = np.clip(generator.uniform(0.02, 1.0) * generator.dirichlet([4, 4, 4]) * 3, 0, 1)
        weave = 1 + 0.12 * smooth_noise(self.points, generator.uniform(0.005, 0.03), generator)[:, None]
        color = color * (1 - cloth) + cloth * fabric * weave
        trust = np.maximum(trust, 0.5 * cloth[:, 0])
        level = np.clip(color[self.skin].mean() / 0.55, 0.5, 1.1)
        iris = _iris_color(generator)
        for rows, radius in zip(self.eyes, self.radius, strict=True):
            color[rows] = draw_eye(radius, iris) * level
        direction = generator.normal(0, 1, 3)
        direction /= np.linalg.norm(direction)
        strength = generator.uniform(0, 0.45) * (generator.random() < 0.6)
        light = 1 + strength * (self.normals @ direction)[:, None]
        gain = np.exp(generator.normal(0, [0.12, 0.08, 0.12]) + generator.normal(0, 0.12))
        return (color * gain).astype(np.float32), trust.astype(np.float32), light.astype(np.float32)

    def mouth_light(self, expression: np.ndarray) -> np.ndarray:
        """Gain [N, 1]: an open mouth lets light in."""
        open_share = np.clip(expression[INDEX["jawOpen"]] / 0.4, 0, 1)
        return np.where(self.interior, 0.55 + 0.45 * open_share, 1.0)[:, None].astype(np.float32)


def _hair_color(generator: np.random.Generator) -> np.ndarray:
    palette = np.array(
        [
            [0.05, 0.045, 0.045], [0.10, 0.07, 0.055], [0.20, 0.13, 0.09], [0.33, 0.22, 0.14], [0.48, 0.35, 0.22],
            [0.72, 0.58, 0.38], [0.42, 0.20, 0.11], [0.55, 0.54, 0.53], [0.80, 0.79, 0.77],
        ]
    )  # fmt: skip
    weights = np.array([0.2, 0.16, 0.15, 0.12, 0.1, 0.08, 0.05, 0.08, 0.06])
    return np.clip(palette[generator.choice(len(palette), p=weights)] * np.exp(generator.normal(0, 0.15, 3)), 0, 1)


def _iris_color(generator: np.random.Generator) -> np.ndarray:
    palette = np.array([[0.16, 0.09, 0.05], [0.30, 0.19, 0.11], [0.35, 0.42, 0.50], [0.36, 0.38, 0.26]])
    return palette[generator.choice(4, p=[0.4, 0.3, 0.18, 0.12])] * generator.uniform(0.7, 1.3)
