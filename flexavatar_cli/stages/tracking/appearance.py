"""Poses and brows from how the skin looks: FaceMesh's own drift is a degree, grey values tell a tenth of that.

Forehead, nose and cheekbones keep their looks while the head moves. Their mean over all frames, kept on the surface
of the head model, is the template. In each frame the pose and the brows are those under which the surface shows the
template: Gauss-Newton on grey values (Lucas and Kanade 1981, on a mesh), with what the landmarks say as the prior.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from flexavatar_cli.core.expression import ARKIT_NAMES
from flexavatar_cli.heads import HeadModel
from flexavatar_cli.heads.surface import surface, vertex_normals
from flexavatar_cli.stages.tracking.landmarks import BROW_TOP, CHIN, View, face_height
from flexavatar_cli.stages.tracking.solver import Pinhole, Poses, rotation_of

BROWS = tuple(k for k, name in enumerate(ARKIT_NAMES) if name.startswith("brow"))
LOOK_SIZE = 192  # pixels, side of the grey picture kept per frame
LOOK_SIDE = 1.5  # face heights
ATLAS = 64  # texels, side of the atlas that the skin points are taken from: about a thousand
STEADY = 0.002  # metres by which an expression other than the brows may move a point that still counts half
LOWEST = -0.03  # metres: upper lip and chin are below
ROUNDS = 8  # templates, one Gauss-Newton step to each: four with three steps cost the same and leave more
BLUR, SURROUNDINGS = 1.0, 8.0  # pixels of a look: noise filter; window whose mean and contrast are taken out
CONTRAST_STEPS = 32  # per unit of contrast
FAINT = 6.0  # grey levels of 255 that count as contrast everywhere
LIKENESS = 0.4  # correlation with the template below which the skin is hidden: hidden 0-.3, half hidden .55, real .6-1
OUTLIER = 1.5  # errors in units of the point's own noise that count in full; beyond them linearly
# One standard deviation of what the landmarks say, seen on re-tracked renders.
ROTATION_SD = np.radians(0.7)
PLACE_SD = (0.001, 0.002, 0.004)  # metres to the right, down and ahead
BROW_SD = 0.3


@dataclass(frozen=True)
class Skin:
    """N points of the face that hardly move with the mouth or the eyes; float64, metres."""

    mean: np.ndarray  # [N, 3]
    normal: np.ndarray  # [N, 3] outward
    identity: np.ndarray  # [N, 3, K]
    expression: np.ndarray  # [N, 3, 52]
    lever: np.ndarray  # [N, 3, B], the brows' share of it
    weight: np.ndarray  # [N] in 0..1, less where expressions move it

    @staticmethod
    def of(head: HeadModel) -> "Skin":
        """The points of `head`."""
        grid = head.texels(ATLAS)
        points, normals, identity, expression = (
            surface(grid, field).double().numpy()
            for field in (
                head.template,
                vertex_normals(head, head.template),
                head.identity_basis,
                head.expression_basis,
            )
        )
        motion = np.linalg.norm(np.delete(expression, BROWS, axis=0), axis=-1).max(0)
        weight = 1 / (1 + (motion / STEADY) ** 2)
        front = (grid.part == head.part_names.index("face")).numpy() & (normals[:, 2] > 0.2) & (points[:, 1] > LOWEST)
        rows = front & (weight > 0.1)
        identity, expression = (
            np.ascontiguousarray(basis[:, rows].transpose(1, 2, 0)) for basis in (identity, expression)
        )
        return Skin(points[rows], normals[rows], identity, expression, expression[..., list(BROWS)], weight[rows])


@dataclass(frozen=True)
class Look:
    """A face's local contrast: small enough to keep those of a whole video."""

    contrast: np.ndarray  # [LOOK_SIZE, LOOK_SIZE] uint8, 128 = as bright as its surroundings, CONTRAST_STEPS = 1
    view: View  # where in the frame it is

    @staticmethod
    def of(image: np.ndarray, points: np.ndarray) -> "Look":
        """The face with landmarks `points` [478, 2] in RGB `image` [H, W, 3] uint8."""
        import cv2

        centre = (points[BROW_TOP] + points[CHIN]) / 2
        view = View((float(centre[0]), float(centre[1])), LOOK_SIDE * float(face_height(points)), size=LOOK_SIZE)
        detail = _contrast(cv2.cvtColor(view.image(image), cv2.COLOR_RGB2GRAY))
        return Look(np.clip(detail * CONTRAST_STEPS + 128.5, 0, 255).astype(np.uint8), view)


class _Frame:
    """One look, its pose and its brows, and the normal equations of both."""

    def __init__(
        self, skin: Skin, look: Look, lens: Pinhole, rotation: np.ndarray, place: np.ndarray, expression: np.ndarray
    ) -> None:
        self.skin, self.look, self.lens = skin, look, lens
        self.rotation, self.place = rotation, place
        self.brows = expression[list(BROWS)]
        self.rest = skin.mean + skin.expression @ expression - skin.lever @ self.brows
        self.moved = np.zeros(6 + len(BROWS))  # since the landmarks' word

    def _posed(self) -> tuple[np.ndarray, np.ndarray]:
        turned = (self.rest + self.skin.lever @ self.brows) @ self.rotation.T
        return turned, turned + self.place

    def facing(self) -> np.ndarray:
        """How much [N] the points are turned to the camera: 0 from 73 degrees away, 1 up to 53."""
        _, seen = self._posed()
        cosine = -((self.skin.normal @ self.rotation.T) * seen).sum(-1) / np.linalg.norm(seen, axis=-1)
        return np.clip((cosine - 0.3) / 0.3, 0, 1)

    def values(self) -> np.ndarray:  # [N]
        """The texture at the points."""
        return self._sample(self.look.view.points(self.lens.project(self._posed()[1])))

    def _sample(self, pixels: np.ndarray) -> np.ndarray:  # [..., 2] of the look -> [...]
        import cv2

        texture = self.look.contrast.astype(np.float32)
        x, y = (pixels.reshape(-1, 2).T[..., None] - 0.5).astype(np.float32)  # cv2 puts pixel centres at integers
        values = cv2.remap(texture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return (values.reshape(pixels.shape[:-1]) - 128) / CONTRAST_STEPS

    def shows(self, template: np.ndarray) -> bool:
        """Whether the frame is like `template` [N] at all; a hand or a blur in front of the face is not."""
        weight = self.skin.weight * self.facing()
        weight = weight / max(float(weight.sum()), 1e-6)
        here = self.values()
        here, there = here - weight @ here, template - weight @ template
        power = float((weight @ here**2) * (weight @ there**2))
        return float(weight @ (here * there)) > LIKENESS * np.sqrt(power)

    def step(self, template: np.ndarray, noise: np.ndarray, prior: np.ndarray) -> None:
        """One Gauss-Newton step to `template` [N] with noise [N]; `prior` [6 + B] is 1 / variance."""
        turned, seen = self._posed()
        pixels = self.look.view.points(self.lens.project(seen))
        shifts = np.array([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
        here, right, left, below, above = self._sample(pixels + shifts[:, None])
        scale = self.look.view.size / self.look.view.side / noise
        slope = np.stack([right - left, below - above], -1) * (scale / 2)[:, None]  # [N, 2] per source pixel
        error = (here - template) / noise
        weight = self.skin.weight * self.facing() * np.minimum(1, OUTLIER / np.maximum(np.abs(error), 1e-6))
        along = self.lens.focal * slope / seen[:, 2:]
        by_place = np.column_stack([along, -(along * seen[:, :2]).sum(-1) / seen[:, 2]])
        by_rotation = np.cross(turned, by_place)
        by_brows = np.einsum("nc,ncb->nb", by_place @ self.rotation, self.skin.lever)
        jacobian = np.concatenate([by_rotation, by_place, by_brows], -1)
        matrix = (jacobian * weight[:, None]).T @ jacobian + np.diag(prior)
        gradient = jacobian.T @ (weight * error) + prior * self.moved
        pushed = gradient[6:]
        held = ((self.brows <= 0) & (pushed > 0)) | ((self.brows >= 1) & (pushed < 0))
        free = np.flatnonzero(np.append(np.ones(6, bool), ~held))
        change = np.zeros(len(prior))
        change[free] = -np.linalg.solve(matrix[np.ix_(free, free)], gradient[free])
        brows = np.clip(self.brows + change[6:], 0, 1)
        change[6:] = brows - self.brows
        self.rotation, self.place = rotation_of(change[:3]) @ self.rotation, self.place + change[3:6]
        self.brows, self.moved = brows, self.moved + change


def registered(
    skin: Skin,
    looks: Sequence[Look],  # T
    lens: Pinhole,
    poses: Poses,  # T, of the landmarks
    identity: np.ndarray,  # [K]
    expression: np.ndarray,  # [T, 52], of the landmarks
    on_step: Callable[[int, int], None] | None = None,  # called with rounds done, rounds in all
) -> tuple[Poses, np.ndarray]:
    """Poses and expression [T, 52] under which all frames show the same skin; of the expression only the brows change.

    Frames whose face is hidden keep what the landmarks say.
    """
    person = replace(skin, mean=skin.mean + skin.identity @ identity)
    frames = [
        _Frame(person, look, lens, poses.rotation[t], poses.translation[t], expression[t])
        for t, look in enumerate(looks)
    ]
    prior = np.concatenate([np.full(3, ROTATION_SD), PLACE_SD, np.full(len(BROWS), BROW_SD)]) ** -2.0
    for done in range(ROUNDS):
        template, noise = _template(frames)
        for frame in frames:
            if frame.shows(template):
                frame.step(template, noise, prior)
        if on_step:
            on_step(done + 1, ROUNDS)
    result = expression.copy()
    result[:, list(BROWS)] = [frame.brows for frame in frames]
    found = Poses(np.array([frame.rotation for frame in frames]), np.array([frame.place for frame in frames]))
    return found, result


def _template(frames: list[_Frame]) -> tuple[np.ndarray, np.ndarray]:
    """Robust mean [N] of the frames' textures where they face the camera, and the spread [N] about it."""
    values = np.array([frame.values() for frame in frames], np.float32)
    weight = np.array([frame.facing() for frame in frames], np.float32)
    total = np.maximum(weight.sum(0), 1e-6)
    mean = (weight * values).sum(0) / total
    for _ in range(2):
        robust = weight * np.minimum(1, 0.5 / np.maximum(np.abs(values - mean), 1e-6))
        mean = (robust * values).sum(0) / np.maximum(robust.sum(0), 1e-6)
    spread = (weight * np.minimum((values - mean) ** 2, 1)).sum(0) / total
    return mean, np.sqrt(np.maximum(spread, 0.05**2))


def _contrast(grey: np.ndarray) -> np.ndarray:
    """`grey` [S, S] uint8 without its local mean and contrast, float32: light changes, looks do not."""
    import cv2

    smooth = cv2.GaussianBlur(grey.astype(np.float32), (0, 0), BLUR)
    detail = smooth - cv2.GaussianBlur(smooth, (0, 0), SURROUNDINGS)
    power = cv2.GaussianBlur(detail**2, (0, 0), SURROUNDINGS)
    return detail / np.sqrt(power + FAINT**2)
