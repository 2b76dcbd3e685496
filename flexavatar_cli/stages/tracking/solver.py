"""Pose, identity and expression from 2-D landmarks: Levenberg-Marquardt with bounds and shared identity.

Per frame and landmark k the cost is Huber(|projected - seen| / (sigma_k IOD)), plus `identity` |w|^2 (once for the
mean over frames), plus |e|^2 + 2 lambda knee log(1 + e / knee) with 0 <= e <= 1 per frame. IOD, the outer-eye distance
in pixels, is that of the head seen frontally at its distance, so that a turned head does not weigh more. The prior
keeps faces at rest free of expression like an L1 norm, which a Gaussian does not, but shrinks strong ones less.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from flexavatar_cli.core.expression import ARKIT_NAMES
from flexavatar_cli.heads import HeadModel

FRONTAL = np.diag([1.0, -1.0, -1.0])  # head to camera axes of a head that faces the camera
IRISES = slice(468, 478)  # rows of the irises: they follow the gaze, not the head
HUBER = 2.5  # landmark errors, in sigmas, beyond which they count linearly
# How much less than others these shapes must explain to be used; less than 1 = more. Full lips are no pout. mouthClose
# undoes jawOpen: held back, jawOpen of a re-tracked render correlates .96 with what it was rendered from, else .56.
CHEAPNESS = {
    "jawOpen": 6.0, "eyeBlinkLeft": 6.0, "eyeBlinkRight": 6.0, "eyeSquintLeft": 2.0, "eyeSquintRight": 2.0,
    "mouthPucker": 0.5, "mouthClose": 0.1,
}  # fmt: skip
SOLVED = tuple(name for name in ARKIT_NAMES if not name.startswith("eyeLook") and name != "tongueOut")
# Together these pairs make lips that no one has, which a third of neutral faces would otherwise be given.
OPPOSED = (("mouthLeft", "mouthRight"), ("jawLeft", "jawRight"))
SOLVED_INDEX = np.array([ARKIT_NAMES.index(name) for name in SOLVED])
POSE = "pose"  # among the names of what `solve` holds: rotation and translation of every frame


@dataclass(frozen=True)
class LandmarkModel:
    """The head model where the landmarks are: small float64 arrays, metres."""

    mean: np.ndarray  # [478, 3]
    identity: np.ndarray  # [478, 3, K]
    expression: np.ndarray  # [478, 3, 52]
    sigma: np.ndarray  # [478], fraction of the outer-eye distance
    used: np.ndarray  # [478] bool, without the irises
    eye_centres: np.ndarray  # [2, 3] left, right
    eye_identity: np.ndarray  # [2, 3, K] how identity moves them

    @staticmethod
    def of(head: HeadModel) -> "LandmarkModel":
        """Rows of `head` at its landmark embedding."""
        bary = head.landmark_bary.double()
        corners = head.faces[head.landmark_face]  # [478, 3]

        def rows(field: np.ndarray) -> np.ndarray:  # [..., V, 3] -> [..., 478, 3]
            return np.einsum("...ijc,ij->...ic", field[..., corners.numpy(), :].astype(np.float64), bary.numpy())

        identity = head.identity_basis.numpy()
        weights = head.eye_vertices.numpy().astype(np.float64)
        weights /= np.maximum(weights.sum(-1, keepdims=True), 1)
        used = head.landmark_used.numpy().copy()
        used[IRISES] = False
        return LandmarkModel(
            mean=rows(head.template.numpy()),
            identity=np.ascontiguousarray(rows(identity).transpose(1, 2, 0)),
            expression=np.ascontiguousarray(rows(head.expression_basis.numpy()).transpose(1, 2, 0)),
            sigma=head.landmark_sigma.numpy().astype(np.float64),
            used=used,
            eye_centres=np.stack([head.joints["eye_left"].numpy(), head.joints["eye_right"].numpy()]).astype(
                np.float64
            ),
            eye_identity=np.einsum("ev,kvc->eck", weights, identity),
        )

    @property
    def modes(self) -> int:
        """K, the number of identity shapes."""
        return self.identity.shape[2]

    def points(self, identity: np.ndarray, expression: np.ndarray) -> np.ndarray:
        """Landmarks [..., 478, 3] in head space of identity [K] and ARKit weights [..., 52]; eyes look ahead."""
        person = self.mean + self.identity @ identity
        return person + np.tensordot(expression, self.expression, axes=(-1, 2))


@dataclass(frozen=True)
class Poses:
    """Rigid head to camera motion of T frames: camera point = rotation @ head point + translation."""

    rotation: np.ndarray  # [T, 3, 3]
    translation: np.ndarray  # [T, 3] metres

    def __len__(self) -> int:
        return len(self.rotation)

    def __getitem__(self, item: slice | np.ndarray | list[int]) -> "Poses":
        return Poses(self.rotation[item], self.translation[item])

    def cam2world(self) -> np.ndarray:  # [T, 4, 4]
        """The cameras in head space."""
        result = np.tile(np.eye(4), (len(self), 1, 1))
        back = self.rotation.transpose(0, 2, 1)
        result[:, :3, :3] = back
        result[:, :3, 3] = -(back @ self.translation[:, :, None])[..., 0]
        return result

    def camera_points(self, points: np.ndarray) -> np.ndarray:
        """Head space [T, N, 3] to camera space."""
        return points @ self.rotation.transpose(0, 2, 1) + self.translation[:, None]


@dataclass(frozen=True)
class Pinhole:
    """A camera's inside: one focal length for both axes, pixels."""

    focal: float
    centre: tuple[float, float]

    def project(self, points: np.ndarray) -> np.ndarray:
        """Camera space [..., 3] to pixels [..., 2]."""
        return self.focal * points[..., :2] / points[..., 2:] + self.centre


@dataclass(frozen=True)
class Weights:
    """How much the priors count."""

    identity: float = 20.0  # not 1: landmark errors are correlated
    lasso: float = 60.0  # lambda of the expression prior; less for the shapes of CHEAPNESS
    opposed: float = 1000.0  # of the product of two opposed shapes
    knee: float = 2.0  # expression at which the prior's pull has halved

    def lambdas(self) -> np.ndarray:  # [S]
        """L1 weight of each solved shape."""
        return self.lasso / np.array([CHEAPNESS.get(name, 1.0) for name in SOLVED])

    def opposition(self) -> np.ndarray:  # [S, S], symmetric
        """Weight of each product of two shapes."""
        matrix = np.zeros((len(SOLVED), len(SOLVED)))
        for one, other in OPPOSED:
            a, b = SOLVED.index(one), SOLVED.index(other)
            matrix[a, b] = matrix[b, a] = self.opposed
        return matrix


@dataclass(frozen=True)
class Solution:
    """What the solver found in T frames of one person."""

    poses: Poses
    identity: np.ndarray  # [K]
    expression: np.ndarray  # [T, 52] in 0..1, eyeLook and tongueOut 0
    cost: float
    iterations: int


def rotation_of(vector: np.ndarray) -> np.ndarray:
    """Rotations [..., 3, 3] by the axis-angle vectors [..., 3] (Rodrigues)."""
    angle = np.linalg.norm(vector, axis=-1)[..., None, None]
    cross = cross_matrix(vector)
    small = angle < 1e-8
    safe = np.where(small, 1.0, angle)
    first = np.where(small, 1.0, np.sin(safe) / safe)
    second = np.where(small, 0.5, (1 - np.cos(safe)) / safe**2)
    return np.eye(3) + first * cross + second * (cross @ cross)


def cross_matrix(vector: np.ndarray) -> np.ndarray:
    """[v]x [..., 3, 3] with [v]x u = v x u."""
    x, y, z = np.moveaxis(np.asarray(vector, np.float64), -1, 0)
    zero = np.zeros_like(x)
    return np.stack([np.stack(row, -1) for row in ((zero, -z, y), (z, zero, -x), (-y, x, zero))], -2)


def initial_poses(model: LandmarkModel, identity: np.ndarray, seen: np.ndarray, lens: Pinhole) -> Poses:
    """Poses that explain landmarks [T, 478, 2] under scaled orthography, in closed form."""
    rows = model.used
    points = (model.mean + model.identity @ identity)[rows]
    middle = points.mean(0)
    inverse = np.linalg.pinv(points - middle)  # [3, N]
    rotations, translations = [], []
    for pixels in seen[:, rows]:
        centre = pixels.mean(0)
        affine = (inverse @ (pixels - centre)).T  # [2, 3]
        left, singular, right = np.linalg.svd(affine, full_matrices=False)
        upper = left @ right
        rotation = np.vstack([upper, np.cross(upper[0], upper[1])])
        depth = lens.focal / max(float(singular.mean()), 1e-6)
        place = np.append((centre - lens.centre) / lens.focal, 1.0) * depth
        rotations.append(rotation)
        translations.append(place - rotation @ middle)
    return Poses(np.array(rotations), np.array(translations))


class _Frame:
    """Landmarks of one frame, ready for normal equations; only used rows."""

    def __init__(self, model: LandmarkModel, seen: np.ndarray, lens: Pinhole, scale: float) -> None:
        rows = model.used
        self.seen = seen[rows]
        self.lens = lens
        outer = np.linalg.norm(model.mean[33] - model.mean[263])
        self.weight = 1 / (model.sigma[rows] * outer * scale)  # per pixel

    def residuals(self, rotation: np.ndarray, translation: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Errors [N, 2] in sigmas at head points [N, 3]."""
        projected = self.lens.project(points @ rotation.T + translation)
        return (projected - self.seen) * self.weight[:, None]

    def jacobian(
        self, rotation: np.ndarray, translation: np.ndarray, points: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Derivatives of `residuals`: [N, 2, 6] by (left rotation, translation) and [N, 2, 3] by the head points."""
        turned = points @ rotation.T
        x, y, z = (turned + translation).T
        inverse = self.lens.focal * self.weight / z
        by_camera = np.zeros((len(points), 2, 3))
        by_camera[:, 0, 0] = by_camera[:, 1, 1] = inverse
        by_camera[:, 0, 2], by_camera[:, 1, 2] = -inverse * x / z, -inverse * y / z
        by_rotation = -by_camera @ cross_matrix(turned)
        return np.concatenate([by_rotation, by_camera], -1), by_camera @ rotation


def _huber(residuals: np.ndarray) -> tuple[float, np.ndarray]:
    """Cost and square roots of the weights [N] of errors [N, 2]."""
    length = np.linalg.norm(residuals, axis=-1)
    far = length > HUBER
    cost = np.where(far, HUBER * (2 * length - HUBER), length**2).sum()
    return float(cost), np.sqrt(np.where(far, HUBER / np.maximum(length, HUBER), 1.0))


def solve(
    model: LandmarkModel,
    seen: np.ndarray,  # [T, 478, 2] pixels
    lens: Pinhole,
    weights: Weights,
    identity: np.ndarray | None = None,  # [K]; given = held fixed
    start: Solution | None = None,  # poses and expression to start from
    held: Collection[str] = (),  # shapes, and POSE, that stay as they are in `start`
    most_iterations: int = 30,
    tolerance: float = 1e-4,
) -> Solution:
    """Least cost over the frames' poses and expressions, and over one identity for all of them unless it is given.

    The frames only meet in the identity, so their blocks are eliminated first (Schur complement).
    """
    frames, shapes = len(seen), len(SOLVED)
    person = np.zeros(model.modes) if identity is None else np.asarray(identity, np.float64)
    modes = model.modes if identity is None else 0
    poses = initial_poses(model, person, seen, lens) if start is None else start.poses
    rotation, translation = poses.rotation.copy(), poses.translation.copy()
    e = np.zeros((frames, shapes)) if start is None else start.expression[:, SOLVED_INDEX].copy()
    lambdas, knee, opposition = weights.lambdas(), weights.knee, weights.opposition()
    fixed = np.array([POSE in held] * 6 + [name in held for name in SOLVED])
    rows = model.used
    basis_e = np.ascontiguousarray(model.expression[rows][..., SOLVED_INDEX])  # [N, 3, S]
    basis_w = model.identity[rows]
    flat_e = basis_e.reshape(-1, shapes)
    views = [_Frame(model, seen[t], lens, lens.focal / translation[t, 2]) for t in range(frames)]
    prior_w = weights.identity * frames

    def head_points(w: np.ndarray, e_frame: np.ndarray, base: np.ndarray) -> np.ndarray:
        return base + (flat_e @ e_frame).reshape(-1, 3)

    def total(r: np.ndarray, t: np.ndarray, w: np.ndarray, e_all: np.ndarray) -> float:
        base = (model.mean + model.identity @ w)[rows]
        cost = prior_w * w @ w if modes else 0.0
        for k, view in enumerate(views):
            if t[k, 2] < 1e-3:
                return np.inf
            cost += _huber(view.residuals(r[k], t[k], head_points(w, e_all[k], base)))[0]
            cost += e_all[k] @ (e_all[k] + opposition @ e_all[k]) + 2 * lambdas @ (knee * np.log1p(e_all[k] / knee))
        return float(cost)

    cost = total(rotation, translation, person, e)
    damping, iteration = 1e-4, 0
    while iteration < most_iterations:
        base = (model.mean + model.identity @ person)[rows]
        blocks = []
        for k, view in enumerate(views):
            points = head_points(person, e[k], base)
            _, root = _huber(view.residuals(rotation[k], translation[k], points))
            by_pose, by_point = view.jacobian(rotation[k], translation[k], points)
            by_point = by_point * root[:, None, None]
            residual = (view.residuals(rotation[k], translation[k], points) * root[:, None]).ravel()
            own = np.concatenate([by_pose * root[:, None, None], by_point @ basis_e], -1).reshape(-1, 6 + shapes)
            gradient = own.T @ residual
            gradient[6:] += e[k] + opposition @ e[k] + lambdas * (knee / (knee + e[k]))
            hessian = own.T @ own
            hessian[range(6, 6 + shapes), range(6, 6 + shapes)] += 1
            stuck = ((e[k] <= 0) & (gradient[6:] > 0)) | ((e[k] >= 1) & (gradient[6:] < 0))
            free = np.flatnonzero(~fixed & np.append(np.ones(6, bool), ~stuck))
            shared = (by_point @ basis_w).reshape(-1, modes) if modes else np.zeros((len(residual), 0))
            blocks.append((free, hessian[np.ix_(free, free)], gradient[free], own[:, free], shared, residual))
        improved = False
        while damping < 1e8:
            step = _arrow_step(blocks, person if modes else person[:0], prior_w, damping)
            new_r, new_t, new_e = rotation.copy(), translation.copy(), e.copy()
            for k, (free, *_) in enumerate(blocks):
                full = np.zeros(6 + shapes)
                full[free] = step[1][k]
                new_r[k] = rotation_of(full[:3]) @ rotation[k]
                new_t[k] = translation[k] + full[3:6]
                new_e[k] = np.clip(e[k] + full[6:], 0, 1)
            new_w = person + step[0] if modes else person
            new_cost = total(new_r, new_t, new_w, new_e)
            if new_cost < cost:
                improved = True
                break
            damping = max(damping * 8, 1e-6)
        iteration += 1
        if not improved:
            break
        gain = (cost - new_cost) / cost
        rotation, translation, e, person, cost = new_r, new_t, new_e, new_w, new_cost
        damping = max(damping / 5, 1e-9)
        if gain < tolerance:
            break
    expression = np.zeros((frames, len(ARKIT_NAMES)))
    expression[:, SOLVED_INDEX] = e
    return Solution(Poses(rotation, translation), person, expression, cost, iteration)


def _arrow_step(
    blocks: Sequence[tuple[np.ndarray, ...]], person: np.ndarray, prior: float, damping: float
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Damped Gauss-Newton step of the shared identity [K] and of each frame's free unknowns."""
    modes = len(person)
    matrix = np.eye(modes) * prior * (1 + damping)
    right = -prior * person
    reduced: list[tuple[np.ndarray, np.ndarray | None]] = []
    for _, hessian, gradient, own, shared, residual in blocks:
        damped = hessian + np.diag(damping * np.diag(hessian))
        if not modes:
            reduced.append((-np.linalg.solve(damped, gradient), None))
            continue
        cross = own.T @ shared  # [P, K]
        solved = np.linalg.solve(damped, np.column_stack([cross, gradient]))
        block = shared.T @ shared
        matrix += block + np.diag(damping * np.diag(block)) - cross.T @ solved[:, :-1]
        right -= shared.T @ residual - cross.T @ solved[:, -1]
        reduced.append((-solved[:, -1], solved[:, :-1]))
    shift = np.linalg.solve(matrix, right) if modes else person
    return shift, [own if lever is None else own - lever @ shift for own, lever in reduced]


def reprojection(
    model: LandmarkModel, seen: np.ndarray, lens: Pinhole, poses: Poses, identity: np.ndarray, expression: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean error [T] of the used landmarks in pixels, and in fractions of the frontal outer-eye distance."""
    projected = lens.project(poses.camera_points(model.points(identity, expression)))
    error = np.linalg.norm(projected - seen, axis=-1)[:, model.used].mean(-1)
    person = model.mean + model.identity @ identity
    outer = np.linalg.norm(person[33] - person[263]) * lens.focal / poses.translation[:, 2]
    return error, error / outer


def head_angles(poses: Poses) -> np.ndarray:  # [T, 3] radians
    """Yaw (to the subject's left), pitch (up), roll (to the subject's right shoulder) against the line of sight.

    0 for a head that faces the camera, wherever it is in the picture; rolling the camera changes the roll alone.
    """
    sight = poses.translation / np.linalg.norm(poses.translation, axis=-1, keepdims=True)
    axis = np.cross(sight, [0.0, 0.0, 1.0])
    sine = np.linalg.norm(axis, axis=-1, keepdims=True)
    angle = np.arctan2(sine, sight[:, 2:])
    turned = rotation_of(axis / np.maximum(sine, 1e-12) * angle) @ poses.rotation
    matrix = FRONTAL @ turned  # = R_z(roll) R_y(yaw) R_x(-pitch)
    yaw = np.arcsin(np.clip(-matrix[:, 2, 0], -1, 1))
    pitch = np.arctan2(-matrix[:, 2, 1], matrix[:, 2, 2])
    roll = np.arctan2(matrix[:, 1, 0], matrix[:, 0, 0])
    return np.stack([yaw, pitch, roll], -1)
