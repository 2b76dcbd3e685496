"""What a rendered head is compared with: pictures of one person with one expression, and their cameras."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flexavatar_cli.core.camera import Camera, Crop, look_at
from flexavatar_cli.heads import HeadModel
from flexavatar_cli.training.synthetic.pack import RESOLUTION, SUBDIVISIONS
from flexavatar_cli.training.synthetic.views import IMAGE_SIZE, draw, lifted_points, render_mesh

FRONTAL_DEGREES = 35.0  # standard deviation of the first camera's azimuth; the others stand anywhere
ELEVATION_DEGREES = (5.0, 12.0)  # mean and standard deviation
CLOSE, WIDE = 0.26, 0.48  # metres of the head that a picture spans
FACE = (0.0, -0.02, 0.06)  # metres, head space: what a close picture is centred on
SOFT = 0.7  # real pixels per pixel under which a portrait is compared at half the size
SIDES = 4  # front, left, back, right: quarters of the full circle


@dataclass(frozen=True)
class Target:
    """V pictures of one head, S x S pixels."""

    picture: Tensor  # [V, S, S, 3] on white
    alpha: Tensor  # [V, S, S]
    inside: Tensor  # [V, S, S] 0 where the photo ends
    camera: Camera  # V
    identity: Tensor  # [K] of the rig
    expression: Tensor  # [59] of the rig
    ground: Tensor  # [3] RGB behind both pictures, so that no Gaussian can pretend to be background
    one_sided: bool  # Gaussians that face away from the camera are not to learn from it

    def to(self, device: torch.device) -> "Target":
        """The same pictures on `device`."""
        moved: dict[str, Any] = {
            name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **moved)


class Studio:
    """Takes pictures of synthetic heads from any side."""

    def __init__(self, head: HeadModel) -> None:
        self.head, self.mesh = head, render_mesh(head, RESOLUTION, SUBDIVISIONS)

    def pictures(
        self,
        identity: np.ndarray,  # [K]
        expression: np.ndarray,  # [59]
        height: np.ndarray,  # [N] metres
        color: np.ndarray,  # [N, 3]
        camera: Camera,  # V
        ground: np.ndarray,  # [3]
        one_sided: bool = False,
    ) -> Target:
        """The head with this hair and these colours, seen by V cameras."""
        vertices = lifted_points(self.head, self.mesh, identity, expression, height)
        drawn = np.stack([draw(self.mesh, vertices, color, camera[view]) for view in range(len(camera))])
        alpha = torch.from_numpy(np.ascontiguousarray(drawn[..., 3]))
        return Target(
            picture=torch.from_numpy(drawn[..., :3] * drawn[..., 3:] + 1 - drawn[..., 3:]),
            alpha=alpha,
            inside=torch.ones_like(alpha),
            camera=camera,
            identity=torch.from_numpy(identity),
            expression=torch.from_numpy(expression),
            ground=torch.from_numpy(ground),
            one_sided=one_sided,
        )


def photo_target(
    photos: Sequence[Mapping[str, np.ndarray]],  # V rows of one person with one expression
    ground: np.ndarray,  # [3]
    one_sided: bool,
) -> Target:
    """The photos themselves, as tracked; soft ones are compared at half the size, so that their blur is not learned."""

    def stacked(name: str) -> Tensor:
        return torch.from_numpy(np.stack([photo[name] for photo in photos]))

    intrinsics = np.tile(np.eye(3), (len(photos), 1, 1))
    intrinsics[:, 0, 0] = intrinsics[:, 1, 1] = [float(photo["focal"]) for photo in photos]
    intrinsics[:, :2, 2] = [photo["centre"] for photo in photos]
    camera = Camera(stacked("cam2world").numpy(), intrinsics, IMAGE_SIZE, IMAGE_SIZE)
    image, alpha, inside = (stacked(name) / 255 for name in ("image", "alpha", "inside"))
    if min(photo["native"] for photo in photos) < SOFT * IMAGE_SIZE:
        camera = camera.cropped(Crop((0.0, 0.0), 0.5, IMAGE_SIZE // 2, IMAGE_SIZE // 2))
        image, alpha, inside = _halved(image), _halved(alpha[..., None])[..., 0], _halved(inside[..., None])[..., 0]
    identity, expression = (torch.from_numpy(photos[0][name]) for name in ("identity", "expression"))
    return Target(image, alpha, inside, camera, identity, expression, torch.from_numpy(ground), one_sided)


def _halved(picture: Tensor) -> Tensor:  # [V, S, S, C] -> [V, S / 2, S / 2, C]
    return torch.nn.functional.avg_pool2d(picture.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)


def random_cameras(count: int, generator: np.random.Generator, side: int | None = None) -> Camera:
    """One camera in front of the head, near or far, and others anywhere around it; all within a `side` if given."""
    matrices, intrinsics = [], []
    for number in range(count):
        frontal = number == 0 and side is None
        turn = generator.normal(0, FRONTAL_DEGREES) if frontal else generator.uniform(-180, 180)
        azimuth = turn if side is None else (side + turn / 360) * 360 / SIDES
        elevation = generator.normal(*ELEVATION_DEGREES)
        visible = generator.uniform(CLOSE, WIDE) if frontal else WIDE * generator.uniform(0.85, 1)
        near = (WIDE - visible) / (WIDE - CLOSE) if frontal else 0.0
        a, e, distance = np.radians(azimuth), np.radians(elevation), generator.uniform(0.8, 1.3)
        centre = near * np.array(FACE) + generator.normal(0, 0.005, 3)
        direction = np.array([np.sin(a) * np.cos(e), np.sin(e), np.cos(a) * np.cos(e)])
        matrices.append(look_at(centre + distance * direction, centre))
        focal = IMAGE_SIZE * distance / visible
        intrinsics.append([[focal, 0, IMAGE_SIZE / 2], [0, focal, IMAGE_SIZE / 2], [0, 0, 1]])
    return Camera(np.stack(matrices), np.array(intrinsics), IMAGE_SIZE, IMAGE_SIZE)


def random_ground(generator: np.random.Generator) -> np.ndarray:  # [3] float32
    """Any colour to put a head in front of."""
    return generator.uniform(0, 1, 3).astype(np.float32)
