"""Calibrated cameras in an avatar's head space, by the face landmarks that several of the cameras see."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flexavatar_cli.core.camera import Camera

HUBER = 2.0  # pixels of reprojection error beyond which a sighting counts linearly
OUTLYING, SHRINK = 1.5, 0.7  # median errors at which a landmark counts a quarter; per round of the way there
ROUNDS = 10  # of reweighting; the weights settle in five or six
BLIND = 0.03  # a view whose median error exceeds this share of the picture's width sees no face
ALIKE = 0.01  # metres RMS between a person's landmarks and the avatar's (2-5 mm were seen); more is no such face
APART = 5.0  # degrees between two lines of sight below which depth is a guess


@dataclass(frozen=True)
class Similarity:
    """x -> scale * rotation @ x + shift."""

    scale: float
    rotation: np.ndarray  # [3, 3]
    shift: np.ndarray  # [3]

    def points(self, points: np.ndarray) -> np.ndarray:  # [..., 3]
        """Moved points."""
        return self.scale * points @ self.rotation.T + self.shift

    def camera(self, camera: Camera) -> Camera:
        """The cameras that see the moved world as they saw it before."""
        moved = camera.cam2world.copy()
        moved[:, :3, :3] = self.rotation @ moved[:, :3, :3]
        moved[:, :3, 3] = self.points(camera.cam2world[:, :3, 3])
        return Camera(moved, camera.intrinsics, camera.width, camera.height)


@dataclass(frozen=True)
class Registration:
    """How calibrated cameras were brought into an avatar's head space."""

    camera: Camera
    views: list[int]  # the pictures whose faces it rests on; fewer than two: the source picture's tracked camera alone
    residual: float  # metres, root mean square between the two sets of landmarks; NaN for the source camera alone

    @property
    def words(self) -> str:
        """For the report."""
        if len(self.views) < 2:
            return "registered by the source picture's tracked camera alone: no two views agree on a face, or on FLAME"
        return (
            f"registered by 3-D face landmarks of {len(self.views)} views, one similarity, "
            f"{1000 * self.residual:.1f} mm RMS left"
        )


def similarity_between(source: np.ndarray, target: np.ndarray, weight: np.ndarray) -> Similarity:
    """The similarity that moves `source` [N, 3] best onto `target`, weights [N] (Umeyama 1991, Eq. 39-42)."""
    share = weight / weight.sum()
    from_mean, to_mean = share @ source, share @ target
    one, other = source - from_mean, target - to_mean
    u, stretch, vt = np.linalg.svd((other * share[:, None]).T @ one)
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = u * sign @ vt
    scale = float(stretch @ sign / (share @ (one**2).sum(-1)))
    return Similarity(scale, rotation, to_mean - scale * rotation @ from_mean)


def robust_similarity(source: np.ndarray, target: np.ndarray, sigma: np.ndarray) -> Similarity:
    """The same with landmarks [N, 3] off by `sigma` [N] metres, of which a part may be made up.

    Geman and McClure's weights with a scale that shrinks from all errors to the middle ones (graduated non-convexity,
    Blake & Zisserman 1987), so that the half of a face that hair covers, and that the landmark net makes up, does not
    turn the head.
    """
    trust = np.ones(len(source))
    for number in range(ROUNDS):
        moved = similarity_between(source, target, trust * sigma**-2.0)
        error = np.linalg.norm(moved.points(source) - target, axis=-1) / sigma
        width = max(OUTLYING * float(np.median(error)), float(error.max()) * SHRINK**number, 1e-9)
        trust = (width**2 / (width**2 + error**2)) ** 2
    return moved


def triangulated(camera: Camera, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # [V, N, 2]
    """Points [N, 3] nearest to the lines of sight of V views, and their reprojection errors [V, N] in pixels.

    Least squares of the distances to the lines, reweighted by Huber's rule on the errors in pixels, so that a landmark
    that a view had to guess, because the head hides it, bends its point little.
    """
    rays = np.concatenate([pixels, np.ones_like(pixels[..., :1])], -1)
    rays = np.einsum("vij,vnj->vni", camera.cam2world[:, :3, :3] @ np.linalg.inv(camera.intrinsics), rays)
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    across = np.eye(3) - rays[..., :, None] * rays[..., None, :]  # [V, N, 3, 3] onto the plane across each line
    eyes = camera.cam2world[:, :3, 3]
    weight = np.ones(pixels.shape[:2])
    for _ in range(ROUNDS):
        matrix = (weight[..., None, None] * across).sum(0)
        right = (weight[..., None] * np.einsum("vnij,vj->vni", across, eyes)).sum(0)
        points = np.linalg.solve(matrix, right[..., None])[..., 0]
        seen, _ = camera.project(points)
        error = np.linalg.norm(seen - pixels, axis=-1)
        weight = HUBER / np.maximum(error, HUBER)
    return points, error


def registered(
    known: Camera,
    faces: Sequence[np.ndarray | None],  # [478, 2] pixels of each view of `known`; None where it shows no face
    landmarks: np.ndarray,  # [478, 3] of the avatar, head space
    sigma: np.ndarray,  # [478] how far a landmark may be off; infinite = not used
    otherwise: Camera,  # what stands if fewer than two views show the face
) -> Registration:
    """The calibrated cameras in head space: triangulated landmarks moved onto the avatar's own by one similarity.

    Views that contradict the others (a face found on the back of a head) are dropped one by one. What comes out as no
    face at all, because the pictures are not of one moment, is not trusted either.
    """
    used = np.isfinite(sigma)
    views = [number for number, face in enumerate(faces) if face is not None]
    while len(views) > 1 and widest(known, views) >= APART:
        pixels = np.stack([np.asarray(faces[number])[used] for number in views])
        points, error = triangulated(chosen(known, views), pixels)
        middle = np.median(error, axis=-1)
        if middle.max() <= BLIND * known.width:
            moved = robust_similarity(points, landmarks[used], sigma[used])
            left = float(np.sqrt(((moved.points(points) - landmarks[used]) ** 2).sum(-1).mean()))
            if left > ALIKE:
                break
            return Registration(moved.camera(known), views, left)
        views.pop(int(middle.argmax()))
    return Registration(otherwise, [], float("nan"))


def chosen(camera: Camera, views: Sequence[int]) -> Camera:
    """Some of the cameras."""
    rows = list(views)
    return Camera(camera.cam2world[rows], camera.intrinsics[rows], camera.width, camera.height)


def widest(camera: Camera, views: Sequence[int]) -> float:
    """The largest angle between the optical axes of some cameras, degrees."""
    axes = camera.cam2world[list(views), :3, 2]
    return float(np.degrees(np.arccos(np.clip(axes @ axes.T, -1, 1)).max()))
