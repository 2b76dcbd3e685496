"""A track on a FLAME head: shape, expression, jaw and camera from the landmarks of a track on the open head.

Levenberg-Marquardt on the 2-D landmarks with Huber weights, as in `solver`, with FLAME's own unknowns: Gaussian priors
on shape and expression, the jaw as a rotation. Gaze and lids are taken over, because a FLAME file has no lids. The neck
stays at rest: its turn is part of the head's motion, which the camera carries (SPEC 10.2).
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from flexavatar_cli.core.errors import WeightsError
from flexavatar_cli.core.expression import INDEX
from flexavatar_cli.core.flame import EXPRESSIONS, FLAME_NAMES, expression_code, rotation_to_6d
from flexavatar_cli.core.track import Track
from flexavatar_cli.heads.flame import LANDMARKS, FlameHead
from flexavatar_cli.stages.published import LID_CLOSED, gaze_rotation
from flexavatar_cli.stages.tracking import solver
from flexavatar_cli.stages.tracking.smoothing import cuts, runs, smooth, smooth_rotations

log = logging.getLogger(__name__)

SHAPES = 100  # of 300: the others move a landmark by less than its noise
SHAPE_FRAMES = 6  # whose shapes are averaged
SHAPE_WEIGHT, EXPRESSION_WEIGHT = 20.0, 10.0  # of the squared coefficients; landmark errors are correlated, so not 1
JAW_WEIGHT = np.array([100.0, 1000.0, 1000.0])  # of the squared radians about x (open), y, z
HUBER = 2.5  # sigmas
ITERATIONS = 25
TOLERANCE = 1e-4  # relative gain at which a frame is done
OUTER_EYES = (33, 263)  # landmarks


@dataclass(frozen=True)
class Rows:
    """FLAME at the three corners of each of U used landmarks; float64, metres."""

    base: np.ndarray  # [U, 3 corners, 3]
    shape: np.ndarray  # [U, 3, 3, S]
    expression: np.ndarray  # [U, 3, 3, P]
    corrective: np.ndarray  # [U, 3, 3, 9] by the entries of the jaw's R - 1
    skin: np.ndarray  # [U, 3] how much the corner follows the jaw
    bary: np.ndarray  # [U, 3]
    joint: np.ndarray  # [3] of the jaw
    joint_shape: np.ndarray  # [3, S]
    sigma: np.ndarray  # [U], fraction of the outer-eye distance
    used: np.ndarray  # [478] bool

    @staticmethod
    def of(head: FlameHead) -> "Rows":
        """Rows of `head`. Raises WeightsError if it has no landmarks."""
        if len(head.landmark_face) != LANDMARKS:
            raise WeightsError("the FLAME head has no landmarks; run `flexavatar models add flame PATH` again")
        used = head.landmark_used.numpy().copy()
        used[solver.IRISES] = False
        corners = head.faces[head.landmark_face].numpy()[used]

        def rows(basis: np.ndarray) -> np.ndarray:  # [K, V, 3] -> [U, 3, 3, K]
            return np.ascontiguousarray(np.moveaxis(basis[:, corners].astype(np.float64), 0, -1))

        shape = head.shape_basis[:SHAPES].numpy()
        regressor = head.joint_regressor[2].double().numpy()
        return Rows(
            base=head.template.double().numpy()[corners],
            shape=rows(shape),
            expression=rows(head.expression_basis[:EXPRESSIONS].numpy()),
            corrective=rows(head.pose_basis[9:18].numpy()),
            skin=head.skin_weights[:, 2].double().numpy()[corners],
            bary=head.landmark_bary.double().numpy()[used],
            joint=regressor @ head.template.double().numpy(),
            joint_shape=np.einsum("v,kvc->ck", regressor, shape),
            sigma=head.landmark_sigma.double().numpy()[used],
            used=used,
        )

    def points(self, shape: np.ndarray, expression: np.ndarray, jaw: np.ndarray) -> np.ndarray:  # -> [U, 3]
        """Landmarks in head space."""
        turn = solver.rotation_of(jaw) - np.eye(3)
        rest = self.base + self.shape @ shape + self.expression @ expression + self.corrective @ turn.ravel()
        arm = rest - (self.joint + self.joint_shape @ shape)
        return ((rest + self.skin[..., None] * (arm @ turn.T)) * self.bary[..., None]).sum(1)

    def slopes(self, jaw: np.ndarray, with_shape: bool) -> np.ndarray:  # -> [U, 3, P (+ S)]
        """Derivatives of `points` by expression and shape at a jaw rotation."""
        turn = solver.rotation_of(jaw) - np.eye(3)
        blend = self.bary[..., None, None] * (np.eye(3) + self.skin[..., None, None] * turn)  # [U, 3, 3, 3]
        result = np.einsum("ucij,ucjk->uik", blend, self.expression, optimize=True)
        if not with_shape:
            return result
        pivot = (self.bary * self.skin).sum(1)[:, None, None] * (turn @ self.joint_shape)
        return np.concatenate([result, np.einsum("ucij,ucjk->uik", blend, self.shape, optimize=True) - pivot], -1)


@dataclass
class State:
    """The unknowns of one frame."""

    rotation: np.ndarray  # [3, 3] head to camera
    translation: np.ndarray  # [3] metres
    jaw: np.ndarray  # [3] rotation vector
    expression: np.ndarray  # [P]
    shape: np.ndarray  # [S]


def track_flame(
    seen: Track,  # on the open head: landmarks, intrinsics, gaze, blinks
    head: FlameHead,
    smoothing: float = 0.0,  # frames, sigma of the Gaussian over pose, expression and jaw
    on_step: Callable[[int, int], None] | None = None,
) -> Track:
    """The same frames with FLAME's 135-d codes and head-centric cameras; frames without a face repeat a neighbour."""
    rows = Rows.of(head)
    faces = np.flatnonzero(seen.confidence > 0)
    pick = faces[np.unique(np.linspace(0, len(faces) - 1, SHAPE_FRAMES).astype(int))]
    shape = np.zeros(rows.shape.shape[-1])
    shape = np.mean([_solve(rows, seen, at, None, shape).shape for at in pick], 0)
    cut = cuts(seen.landmarks[faces].astype(np.float64))
    states: list[State] = []
    for number, at in enumerate(faces):
        near = states[-1] if states and faces[number - 1] == at - 1 and not cut[number] else None
        states.append(_solve(rows, seen, at, near, shape, free_shape=False))
        if on_step is not None:
            on_step(number + 1, len(faces))
    rotation, translation, jaw, expression = (
        np.stack([getattr(state, name) for state in states])
        for name in ("rotation", "translation", "jaw", "expression")
    )
    for run in runs(faces, cut):
        rotation[run] = smooth_rotations(rotation[run], smoothing)
        for values in (translation, jaw, expression):
            values[run] = smooth(values[run], smoothing)
    error = _errors(rows, seen, faces, rotation, translation, jaw, expression, shape)
    log.info("FLAME: landmark error %.2f px", error.mean())
    nearest = np.abs(np.arange(len(seen))[:, None] - faces).argmin(1)
    cam2world = solver.Poses(rotation, translation).cam2world()
    code = _codes(seen.expression_code[faces], cam2world, jaw, expression)
    return Track(
        cam2world=cam2world[nearest],
        intrinsics=seen.intrinsics,
        size=seen.size,
        fps=seen.fps,
        expression_code=code[nearest],
        expression_names=FLAME_NAMES,
        identity=shape.astype(np.float32),
        confidence=seen.confidence,
        reprojection_px=error[nearest].astype(np.float32),
        landmarks=seen.landmarks,
        head_model="flame",
    )


def _codes(arkit: np.ndarray, cam2world: np.ndarray, jaw: np.ndarray, expression: np.ndarray) -> np.ndarray:
    """The 135-d codes [T, 135]: the head's motion is the one before the published tracker's camera, 1 m in front."""
    fixed = np.diag([1.0, -1.0, -1.0, 1.0])
    fixed[2, 3] = 1
    pose = fixed @ np.linalg.inv(cam2world)
    eyes = [
        gaze_rotation(arkit[:, INDEX[f"gaze{side}Yaw"]], arkit[:, INDEX[f"gaze{side}Pitch"]])
        for side in ("Left", "Right")
    ]
    whole = np.zeros((len(expression), EXPRESSIONS))
    whole[:, : expression.shape[1]] = expression
    return expression_code(
        expression=whole,
        eye_left=rotation_to_6d(eyes[0]),
        eye_right=rotation_to_6d(eyes[1]),
        eyelids=LID_CLOSED * arkit[:, [INDEX["eyeBlinkLeft"], INDEX["eyeBlinkRight"]]],
        jaw=rotation_to_6d(solver.rotation_of(jaw)),
        head=rotation_to_6d(pose[:, :3, :3]),
        translation=pose[:, :3, 3],
    )


def _lens(seen: Track, at: int) -> solver.Pinhole:
    matrix = seen.intrinsics[at]
    return solver.Pinhole(float(matrix[0, 0]), (float(matrix[0, 2]), float(matrix[1, 2])))


def _start(rows: Rows, seen: Track, at: int, shape: np.ndarray) -> State:
    """A frame's pose under scaled orthography, face at rest."""
    none, jaw = np.zeros(rows.expression.shape[-1]), np.zeros(3)
    mean = np.zeros((LANDMARKS, 3))
    mean[rows.used] = rows.points(shape, none, jaw)
    empty = np.zeros((LANDMARKS, 3, 0))
    model = solver.LandmarkModel(
        mean, empty, empty, np.ones(LANDMARKS), rows.used, np.zeros((2, 3)), np.zeros((2, 3, 0))
    )
    poses = solver.initial_poses(model, np.zeros(0), seen.landmarks[at : at + 1].astype(np.float64), _lens(seen, at))
    return State(poses.rotation[0], poses.translation[0], jaw, none, shape.copy())


def _solve(rows: Rows, seen: Track, at: int, start: State | None, shape: np.ndarray, free_shape: bool = True) -> State:
    """The likeliest state of frame `at`; the shape is held unless it is free."""
    lens = _lens(seen, at)
    points2d = seen.landmarks[at].astype(np.float64)[rows.used]
    state = start or _start(rows, seen, at, shape)
    state.shape = shape.copy()
    outer = np.linalg.norm(np.diff(seen.landmarks[at][list(OUTER_EYES)].astype(np.float64), axis=0))
    weight = 1 / (rows.sigma * max(float(outer), 1e-6))
    count = rows.expression.shape[-1]
    prior = np.concatenate([np.zeros(6), JAW_WEIGHT, np.full(count, EXPRESSION_WEIGHT)])
    if free_shape:
        prior = np.append(prior, np.full(len(shape), SHAPE_WEIGHT))

    def values(s: State) -> np.ndarray:
        known = np.concatenate([np.zeros(6), s.jaw, s.expression])
        return np.append(known, s.shape) if free_shape else known

    def residuals(s: State) -> np.ndarray:  # [U, 2] sigmas
        camera = rows.points(s.shape, s.expression, s.jaw) @ s.rotation.T + s.translation
        return (lens.project(camera) - points2d) * weight[:, None]

    def cost(s: State) -> float:
        if s.translation[2] < 1e-3:
            return np.inf
        length = np.linalg.norm(residuals(s), axis=-1)
        far = np.where(length > HUBER, HUBER * (2 * length - HUBER), length**2)
        return float(far.sum() + prior @ values(s) ** 2)

    now, damping = cost(state), 1e-3
    for _ in range(ITERATIONS):
        error = residuals(state)
        length = np.linalg.norm(error, axis=-1)
        root = np.sqrt(np.where(length > HUBER, HUBER / np.maximum(length, HUBER), 1.0))
        slope = _slopes(rows, state, lens, weight, free_shape) * root[:, None, None]
        flat = slope.reshape(-1, slope.shape[-1])
        gradient = flat.T @ (error * root[:, None]).ravel() + prior * values(state)
        hessian = flat.T @ flat + np.diag(prior)
        while damping < 1e8:
            step = -np.linalg.solve(hessian + damping * np.diag(np.diag(hessian)), gradient)
            tried = _moved(state, step, count, free_shape)
            then = cost(tried)
            if then < now:
                break
            damping = max(damping * 8, 1e-6)
        else:
            break
        gain, state, now = (now - then) / now, tried, then
        damping = max(damping / 5, 1e-9)
        if gain < TOLERANCE:
            break
    return state


def _moved(state: State, step: np.ndarray, count: int, free_shape: bool) -> State:
    return State(
        solver.rotation_of(step[:3]) @ state.rotation,
        state.translation + step[3:6],
        state.jaw + step[6:9],
        state.expression + step[9 : 9 + count],
        state.shape + step[9 + count :] if free_shape else state.shape,
    )


def _slopes(rows: Rows, state: State, lens: solver.Pinhole, weight: np.ndarray, free_shape: bool) -> np.ndarray:
    """Derivatives [U, 2, 9 + P (+ S)] of the residuals by left rotation, translation, jaw, expression, shape."""
    points = rows.points(state.shape, state.expression, state.jaw)
    turned = points @ state.rotation.T
    x, y, z = (turned + state.translation).T
    inverse = lens.focal * weight / z
    by_camera = np.zeros((len(points), 2, 3))
    by_camera[:, 0, 0] = by_camera[:, 1, 1] = inverse
    by_camera[:, 0, 2], by_camera[:, 1, 2] = -inverse * x / z, -inverse * y / z
    by_rotation = -by_camera @ solver.cross_matrix(turned)
    by_point = by_camera @ state.rotation
    tiny = 1e-5
    moved = [rows.points(state.shape, state.expression, state.jaw + tiny * axis) for axis in np.eye(3)]
    by_jaw = by_point @ ((np.stack(moved, -1) - points[..., None]) / tiny)
    return np.concatenate([by_rotation, by_camera, by_jaw, by_point @ rows.slopes(state.jaw, free_shape)], -1)


def _errors(
    rows: Rows,
    seen: Track,
    faces: np.ndarray,
    rotation: np.ndarray,
    translation: np.ndarray,
    jaw: np.ndarray,
    expression: np.ndarray,
    shape: np.ndarray,
) -> np.ndarray:  # [frames with a face] pixels
    """Mean distance of the projected landmarks from the seen ones."""
    result = []
    for number, at in enumerate(faces):
        points = rows.points(shape, expression[number], jaw[number]) @ rotation[number].T + translation[number]
        gap = _lens(seen, at).project(points) - seen.landmarks[at][rows.used]
        result.append(np.linalg.norm(gap, axis=-1).mean())
    return np.array(result)
