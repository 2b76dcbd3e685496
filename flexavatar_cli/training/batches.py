"""Training samples: synthetic heads painted on the fly, and real portraits, as tensors in UV, with pictures of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flexavatar_cli.heads import HeadModel
from flexavatar_cli.heads.surface import surface
from flexavatar_cli.model import plucker_map
from flexavatar_cli.training.rows import Column
from flexavatar_cli.training.synthetic.hair import smooth_noise
from flexavatar_cli.training.synthetic.pack import RESOLUTION, Pack
from flexavatar_cli.training.synthetic.painter import Painter
from flexavatar_cli.training.synthetic.views import BACKGROUND, IMAGE_SIZE, as_tracked, random_expression
from flexavatar_cli.training.targets import Studio, Target, photo_target, random_cameras, random_ground

MONOCULAR, MULTI_VIEW = 0, 1  # bias sinks


@dataclass(frozen=True)
class Batch:
    """B samples on N texels."""

    image: Tensor  # [B, 3, S, S]
    plucker: Tensor  # [B, 6, S, S]
    color: Tensor  # [B, N, 3] photo at each texel
    seen: Tensor  # [B, N]
    facing: Tensor  # [B, N]
    hull: Tensor  # [B, N] metres
    expression: Tensor  # [B, 59]
    sink: Tensor  # [B]
    target: Tensor  # [B, N, 3] the right colour
    weight: Tensor  # [B, N] how far it is to be trusted
    height: Tensor  # [B, N] the right displacement, metres
    height_weight: Tensor  # [B, N]
    targets: tuple[Target, ...] = ()  # B, where pictures are compared

    def __len__(self) -> int:
        return len(self.image)

    def to(self, device: torch.device) -> "Batch":
        """The same samples on `device`."""
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return Batch(**moved, targets=tuple(target.to(device) for target in self.targets))


class Batcher:
    """Draws samples at full or half texel resolution; with a studio, pictures to compare renders with as well."""

    def __init__(self, head: HeadModel, pack: Pack, resolution: int, studio: Studio | None = None) -> None:
        self.painter, self.pack, self.studio = Painter(head, pack), pack, studio
        self.rows = texel_rows(head, resolution)

    def synthetic(
        self,
        views: dict[str, Column],
        skins: np.ndarray,
        row: int,
        generator: np.random.Generator,
        augment: bool,
        pictures: int = 2,  # to compare renders with, where there is a studio
        side: int | None = None,  # of the head, that all of them stand on
        one_sided: bool = False,
    ) -> dict[str, Any]:
        """One painted view: the photo, what tracking sees of it, and the right answer.

        A head that is `one_sided` is supervised like a portrait: by one camera in front, and where the photo shows it.
        """
        view = _entry(views, row)
        albedo, trust, light = self.painter.paint(view, skins, generator)
        lit = albedo * light
        shown = np.clip(lit * self.painter.mouth_light(view["expression"]), 0, 1)
        same = generator.random() < 0.5
        expression = view["expression"] if same else random_expression(generator)
        target = np.clip(lit * self.painter.mouth_light(expression), 0, 1)
        table = np.concatenate([shown, np.ones((BACKGROUND + 1 - len(shown), 3), np.float32)])
        image = table[view["image_texel"]]
        color = table[view["seen_texel"]][self.rows]
        if augment:
            noise = generator.uniform(0, 0.03)
            image = np.clip(image + noise * generator.normal(size=image.shape), 0, 1)
            color = np.clip(color + noise * generator.normal(size=color.shape), 0, 1)
        rows = self.rows
        seen = view["seen"][rows].astype(np.float32) / 255
        compared: dict[str, Any] = {}
        if self.studio is not None:
            cameras = random_cameras(1 if one_sided else pictures, generator, side)
            ground = random_ground(generator)
            who, hair = view["identity"], view["height"].astype(np.float32)
            compared["compared"] = self.studio.pictures(who, expression, hair, target, cameras, ground, one_sided)
            expression = as_tracked(expression, generator)
        limit = seen if one_sided else np.ones_like(seen)
        return compared | {
            "image": image.astype(np.float32),
            "color": color.astype(np.float32),
            "seen": seen,
            "facing": view["facing"][rows].astype(np.float32) / 255,
            "hull": view["hull"][rows].astype(np.float32),
            "expression": expression,
            "cam2world": view["cam2world"],
            "intrinsics": _normalised(view["focal"], view["centre"]),
            "target": target[rows],
            "weight": (0.15 + 0.85 * trust[rows]) * limit,
            "height": view["height"][rows].astype(np.float32),
            "height_weight": self.painter.skin[rows].astype(np.float32) * limit,
            "sink": np.int64(MONOCULAR if one_sided else MULTI_VIEW),
        }

    def portrait(self, row: int, shown: int, generator: np.random.Generator) -> dict[str, Any]:
        """One real photo, part of which is hidden from the input.

        What it teaches is picture `shown` of the same person: the photo itself, or another frame of its clip.
        """
        people = self.pack.portraits
        return self._photographed(_entry(people, row), [_entry(people, shown)], generator, one_sided=True)

    def recorded(self, row: int, shown: Sequence[int], generator: np.random.Generator) -> dict[str, Any]:
        """One real photo, part of which is hidden; it teaches pictures `shown` of the person, of one moment."""
        people = self.pack.recordings
        answers = [_entry(people, at) for at in shown]
        return self._photographed(_entry(people, row), answers, generator, one_sided=False)

    def _photographed(
        self,
        photo: dict[str, np.ndarray],
        answers: list[dict[str, np.ndarray]],  # of one moment
        generator: np.random.Generator,
        one_sided: bool,
    ) -> dict[str, Any]:
        rows = self.rows
        seen = photo["seen"][rows].astype(np.float32) / 255
        hidden = np.ones_like(seen)
        dice = generator.random()
        if dice < 0.4:  # half a face
            side = generator.normal(0, 1, 3) * [1, 0.5, 0.2]
            hidden = ((self.painter.points[rows] @ side) > generator.uniform(-0.05, 0.01)).astype(np.float32)
        elif dice < 0.6:
            hidden = (smooth_noise(self.painter.points[rows], 0.03, generator) > -0.5).astype(np.float32)
        compared: dict[str, Any] = {}
        if self.studio is not None:
            compared["compared"] = photo_target(answers, random_ground(generator), one_sided)
        sight = np.stack([answer["seen"][rows] for answer in answers])  # [V, N]
        color = np.stack([answer["color"][rows] for answer in answers])  # [V, N, 3]
        best = sight.argmax(0)[None, :, None]  # each texel is taught by the picture that sees it best
        return compared | {
            "image": photo["image"].astype(np.float32) / 255,
            "color": photo["color"][rows].astype(np.float32) / 255,
            "seen": seen * hidden,
            "facing": photo["facing"][rows].astype(np.float32) / 255,
            "hull": photo["hull"][rows].astype(np.float32),
            "expression": answers[0]["expression"],
            "cam2world": photo["cam2world"],
            "intrinsics": _normalised(photo["focal"], photo["centre"]),
            "target": np.take_along_axis(color, best, 0)[0].astype(np.float32) / 255,
            "weight": sight.max(0).astype(np.float32) / 255,
            "height": np.mean([answer["hull"][rows] for answer in answers], 0, np.float32),
            "height_weight": 0.1 * self.painter.skin[rows].astype(np.float32),
            "sink": np.int64(MONOCULAR if one_sided else MULTI_VIEW),
        }


def _entry(columns: dict[str, Column], row: int) -> dict[str, np.ndarray]:
    return {name: np.array(values[row]) for name, values in columns.items()}


def collate(samples: list[dict[str, Any]]) -> Batch:
    """Samples stacked, with their Pluecker maps."""
    targets = tuple(sample.pop("compared") for sample in samples if "compared" in sample)
    stacked = {name: torch.from_numpy(np.stack([sample[name] for sample in samples])) for name in samples[0]}
    plucker = plucker_map(stacked.pop("cam2world"), stacked.pop("intrinsics"), IMAGE_SIZE, IMAGE_SIZE)
    stacked["image"] = stacked["image"].permute(0, 3, 1, 2).contiguous()
    return Batch(plucker=plucker, targets=targets, **stacked)


def texel_rows(head: HeadModel, resolution: int) -> np.ndarray:
    """For each texel at `resolution` the row of the nearest texel of the full grid."""
    full, grid = head.texels(RESOLUTION), head.texels(resolution)
    if resolution == RESOLUTION:
        return np.arange(len(full.index))
    with torch.no_grad():
        from scipy.spatial import cKDTree

        part = 10.0 * full.part.numpy()[:, None]
        tree = cKDTree(np.concatenate([surface(full, head.template).numpy(), part], 1))
        wanted = np.concatenate([surface(grid, head.template).numpy(), 10.0 * grid.part.numpy()[:, None]], 1)
        return tree.query(wanted)[1]


def _normalised(focal: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Intrinsics [3, 3] divided by the picture size (SPEC 1)."""
    f, (x, y) = float(focal) / IMAGE_SIZE, np.asarray(centre) / IMAGE_SIZE
    return np.array([[f, 0, x], [0, f, y], [0, 0, 1]], np.float32)
