"""Picture sheets of a batch: what the network is fed, and what it makes of it."""

import numpy as np
import torch

from flexavatar_cli.core.attributes import TexelAttributes
from flexavatar_cli.core.camera import Camera, look_at
from flexavatar_cli.media.images import sheet
from flexavatar_cli.render import render
from flexavatar_cli.training.batches import Batch
from flexavatar_cli.training.bench import Bench

AZIMUTHS = (0, 60, 120, 180)  # degrees
SIDE = 256  # pixels of a picture
VISIBLE, DISTANCE = 0.46, 1.0  # metres: what the free cameras see, and how far they stand


def fed_sheet(bench: Bench, batch: Batch) -> np.ndarray:  # [h, w, 3] in 0..1
    """One row per sample: the photo, its colours in UV, the right answer, its trust and displacement, the targets."""
    rows = []
    for number in range(len(batch)):
        maps = {
            "color": batch.color[number] * batch.seen[number, :, None],
            "target": batch.target[number],
            "weight": batch.weight[number, :, None].expand(-1, 3),
            "height": (batch.height[number, :, None] / 0.1).expand(-1, 3),
        }
        row = [batch.image[number].permute(1, 2, 0).numpy()]
        row += [_in_uv(bench, values) for values in maps.values()]
        row += list(batch.targets[number].picture.numpy()) if batch.targets else []
        rows.append(row)
    return _sheet(rows, [f"sink {int(sink)}" for sink in batch.sink])


def preview_sheet(bench: Bench, batch: Batch, attributes: TexelAttributes) -> np.ndarray:  # [h, w, 3] in 0..1
    """One row per sample: the photo, the targets beside their renders, and the head from AZIMUTHS."""
    size = len(bench.head.identity_basis), len(bench.head.expression_names)
    neutral = [attributes.color.new_zeros(count) for count in size]
    rows = []
    for number in range(len(batch)):
        row = [batch.image[number].permute(1, 2, 0).cpu().numpy()]
        head = attributes.map(lambda values, at=number: values[at : at + 1])  # type: ignore[misc]
        if batch.targets:
            target = batch.targets[number].to(attributes.color.device)
            posed = bench.gaussians(head, target.identity, target.expression)
            rendered, _ = render(posed, target.camera)
            row += [picture.cpu().numpy() for pair in zip(target.picture, rendered, strict=True) for picture in pair]
        else:
            posed = bench.gaussians(head, *neutral)
        row += list(render(posed, _turn())[0].cpu().numpy())
        rows.append(row)
    return _sheet(rows, [f"sink {int(sink)}" for sink in batch.sink])


def _turn() -> Camera:
    angles = np.radians(AZIMUTHS)
    eyes = DISTANCE * np.stack([np.sin(angles), np.zeros(len(angles)), np.cos(angles)], -1)
    focal = SIDE * DISTANCE / VISIBLE
    matrix = np.array([[focal, 0, SIDE / 2], [0, focal, SIDE / 2], [0, 0, 1]])
    return Camera(np.stack([look_at(eye, np.zeros(3)) for eye in eyes]), matrix, SIDE, SIDE)


def _in_uv(bench: Bench, values: torch.Tensor) -> np.ndarray:  # [N, 3] -> [R, R, 3]
    size = bench.prior.resolution
    picture = values.new_ones(size * size, 3)
    picture[bench.prior.index] = values
    return picture.reshape(size, size, 3).numpy()


def _sheet(rows: list[list[np.ndarray]], labels: list[str]) -> np.ndarray:

    filled = [[np.clip(picture, 0, 1) for picture in row] for row in rows]
    return sheet(filled, labels, SIDE)
