"""Frames to a Track: FaceMesh landmarks, a shared identity, pose and expression, registered looks, gaze and blinks."""

import dataclasses
import logging
import operator
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from flexavatar_cli.core.errors import InputError, UsageError
from flexavatar_cli.core.expression import ARKIT_NAMES, EXPRESSION_NAMES
from flexavatar_cli.core.options import TrackOptions
from flexavatar_cli.core.track import Track, name_frames
from flexavatar_cli.heads import HeadModel, load_head
from flexavatar_cli.stages.tracking import eyes, solver
from flexavatar_cli.stages.tracking.appearance import BROWS, Look, Skin, registered
from flexavatar_cli.stages.tracking.landmarks import FaceFollower, eye_distance, face_height, to_uint8
from flexavatar_cli.stages.tracking.smoothing import cuts, runs, smooth, smooth_rotations

__all__ = ["Track", "TrackOptions", "relative_error", "track", "track_landmarks"]

log = logging.getLogger(__name__)

CROP = 1.9  # side of the head crop, face heights
FOCAL = 2.9  # focal length in crop sides: landmarks cannot tell 2 from 6, and 2.9 fits selfies and portraits alike
# The expression prior shrinks these; undoing it brings the landmarks closer on both sample clips (brows .15 %IOD,
# mouth .02). Gains on jaw and smile make the mouth worse (1.4: twice the error), so they have none.
GAINS = {
    "browInnerUp": 1.25, "browOuterUpLeft": 1.25, "browOuterUpRight": 1.25,
    "mouthLeft": 1.15, "mouthRight": 1.15,
}  # fmt: skip
NEAREST_FOCAL = 0.7  # crop sides; the camera would be 24 cm from the head
FEWEST_LOOKS = 8  # frames whose mean look is better than each frame's landmarks; photos stay with the landmarks
OPEN_EYES = 1.0  # lid opening of a person at rest, relative to the model with that person's identity


def track(
    frames: Iterable[np.ndarray],  # RGB [H, W, 3] of one size, uint8 or float in 0..1
    options: TrackOptions | None = None,
    fov: float | None = None,  # vertical field of view, degrees
    focal_px: float | None = None,  # focal length in pixels, e.g. from the EXIF
    on_step: Callable[[int, int], None] | None = None,  # called with steps done, steps in all
    fps: float = 25.0,
    head: HeadModel | None = None,
) -> Track:
    """The head's camera and expression in each frame, and one identity for all.

    A frame without a face has confidence 0 and repeats its neighbour. Raises InputError if no frame shows a face.
    """
    options = options or TrackOptions()
    count = operator.length_hint(frames, 0)
    steps = _phases(count) * count
    looks: list[Look] = []
    seen: list[np.ndarray | None] = []
    size: tuple[int, int] | None = None
    # FaceMesh drifts with its own window: three looks take the yaw of a re-tracked render from .55-.78 to .84-.89,
    # and registration from there to .96 and more
    with FaceFollower(options.face, options.looks or (12 if count == 1 else 3)) as follow:
        for number, frame in enumerate(frames):
            if size not in (None, (frame.shape[1], frame.shape[0])):
                raise InputError(f"frame {number}: its size differs from the first frame's; track pictures one by one")
            size = (frame.shape[1], frame.shape[0])
            picture = to_uint8(frame)
            points = follow(picture)
            seen.append(points)
            if points is not None:
                looks.append(Look.of(picture, points))
            if on_step:
                on_step(number + 1, max(steps, number + 1))
    if size is None:
        raise InputError("no frames")
    found = np.array([points is not None for points in seen])
    if not found.any():
        raise InputError("no face found; try a frontal portrait")
    landmarks = np.array([np.full((478, 2), np.nan) if points is None else points for points in seen])
    return track_landmarks(landmarks, size, options, fov, focal_px, on_step, fps, head, looks)


def track_landmarks(
    landmarks: np.ndarray,  # [T, 478, 2] source pixels, NaN where no face was seen
    size: tuple[int, int],  # width, height
    options: TrackOptions | None = None,
    fov: float | None = None,
    focal_px: float | None = None,
    on_step: Callable[[int, int], None] | None = None,
    fps: float = 25.0,
    head: HeadModel | None = None,
    looks: Sequence[Look] = (),  # of the frames that show a face; none or a few = landmarks alone
) -> Track:
    """`track` from landmarks that are already known; deterministic."""
    options = options or TrackOptions()
    head = head or load_head()
    model = solver.LandmarkModel.of(head)
    valid = np.isfinite(landmarks).all((1, 2))
    seen = landmarks[valid]
    lens = _lens(seen, size, fov, focal_px)
    weights = solver.Weights(options.identity_weight, options.expression_weight)
    identity = _identity(model, seen, lens, weights, options.identity_frames)
    total = _phases(len(looks)) * len(landmarks)
    cut = cuts(seen)
    solutions: list[solver.Solution] = []
    for k in range(len(seen)):
        start = solutions[-1] if solutions and not cut[k] else None
        solutions.append(solver.solve(model, seen[k : k + 1], lens, weights, identity, start))
        if on_step:
            on_step(len(landmarks) + k + 1, total)
    poses = solver.Poses(
        np.concatenate([s.poses.rotation for s in solutions]), np.concatenate([s.poses.translation for s in solutions])
    )
    expression = np.concatenate([s.expression for s in solutions])
    if len(looks) >= FEWEST_LOOKS:

        def tick(done: int, rounds: int) -> None:
            if on_step:
                on_step(total - len(landmarks) * (rounds - done) // rounds, total)

        poses, expression = registered(Skin.of(head), looks, lens, poses, identity, expression, tick)
        expression = _solved_again(model, seen, lens, weights, poses, identity, expression)
    for name, gain in GAINS.items():
        row = ARKIT_NAMES.index(name)
        expression[:, row] = np.minimum(expression[:, row] * gain, 1)
    frames = np.flatnonzero(valid)
    parts = runs(frames, cut)
    poses, expression = _smoothed(poses, expression, parts, options.smoothing)
    expression, gaze = _eyes(model, seen, lens, poses, identity, expression, parts, options.smoothing)
    error_px, error = solver.reprojection(model, seen, lens, poses, identity, expression)
    angles = solver.head_angles(poses)
    code = np.concatenate([expression, gaze.reshape(-1, 4), angles], -1)
    nearest = np.abs(np.arange(len(landmarks))[:, None] - frames).argmin(1)  # of two the earlier one
    confidence = np.where(valid, _confidence(error, angles)[nearest], 0)
    _tell(valid, error, angles)
    intrinsics = np.array([[lens.focal, 0, lens.centre[0]], [0, lens.focal, lens.centre[1]], [0, 0, 1]])
    return Track(
        cam2world=poses.cam2world()[nearest],
        intrinsics=np.tile(intrinsics, (len(landmarks), 1, 1)),
        size=np.array(size),
        fps=float(fps),
        expression_code=code[nearest].astype(np.float32),
        expression_names=EXPRESSION_NAMES,
        identity=identity.astype(np.float32),
        confidence=confidence.astype(np.float32),
        reprojection_px=error_px[nearest].astype(np.float32),
        landmarks=seen[nearest].astype(np.float32),
        head_model=head.name,
    )


def _phases(frames: int) -> int:
    """Times that every frame is worked on: seen, solved and, in a video, registered."""
    return 3 if frames >= FEWEST_LOOKS else 2


def _solved_again(
    model: solver.LandmarkModel,
    seen: np.ndarray,
    lens: solver.Pinhole,
    weights: solver.Weights,
    poses: solver.Poses,
    identity: np.ndarray,
    expression: np.ndarray,
) -> np.ndarray:  # [T, 52]
    """The expression that explains the landmarks under registered poses and brows, which stay as they are."""
    held = (solver.POSE, *(ARKIT_NAMES[row] for row in BROWS))
    result = np.empty_like(expression)
    for k in range(len(seen)):
        start = solver.Solution(poses[k : k + 1], identity, expression[k : k + 1], cost=0.0, iterations=0)
        result[k] = solver.solve(model, seen[k : k + 1], lens, weights, identity, start, held).expression[0]
    return result


def relative_error(result: Track) -> float:
    """Mean landmark error of the frames with a face as a fraction of the outer-eye distance seen."""
    seen = result.confidence > 0
    return float((result.reprojection_px / eye_distance(result.landmarks))[seen].mean())


def _lens(seen: np.ndarray, size: tuple[int, int], fov: float | None, focal_px: float | None) -> solver.Pinhole:
    """Known field of view, else known focal length, else the prior of 2.9 head crops."""
    centre = (size[0] / 2, size[1] / 2)
    if fov is not None:
        if not 0 < fov < 180:
            raise UsageError(f"the field of view must be between 0 and 180 degrees, not {fov}")
        return solver.Pinhole(size[1] / 2 / float(np.tan(np.radians(fov) / 2)), centre)
    crop = CROP * float(np.median(face_height(seen)))
    if focal_px is not None and focal_px < NEAREST_FOCAL * crop:
        log.info("the picture's stated focal length would put the camera into the face: it was cropped, prior used")
        focal_px = None
    return solver.Pinhole(focal_px or FOCAL * crop, centre)


def _identity(
    model: solver.LandmarkModel, seen: np.ndarray, lens: solver.Pinhole, weights: solver.Weights, most: int
) -> np.ndarray:  # [K]
    """One identity for frames spread over time and over head turns.

    The prior counts sqrt(frames) times: equal errors in all frames are no evidence, different ones are.
    """
    pick = _spread(seen, most)
    count = len(pick)
    joint = dataclasses.replace(weights, identity=weights.identity / np.sqrt(count))
    return solver.solve(model, seen[pick], lens, joint).identity


def _spread(seen: np.ndarray, most: int) -> np.ndarray:
    """At most `most` frame numbers, far apart in the shape of the landmarks: other head turns, other expressions."""
    if len(seen) <= most:
        return np.arange(len(seen))
    shape = seen - seen.mean(1, keepdims=True)
    shape = (shape / face_height(seen)[:, None, None]).reshape(len(seen), -1)
    typical = np.median(shape, axis=0)
    # the worst tenth is often motion blur or a hand before the face
    distance = np.linalg.norm(shape - typical, axis=-1)
    usable = np.flatnonzero(distance <= np.percentile(distance, 95))
    chosen = [int(usable[distance[usable].argmin()])]
    gap = np.linalg.norm(shape[usable] - shape[chosen[0]], axis=-1)
    while len(chosen) < most:
        chosen.append(int(usable[gap.argmax()]))
        gap = np.minimum(gap, np.linalg.norm(shape[usable] - shape[chosen[-1]], axis=-1))
    return np.array(sorted(set(chosen)))


def _smoothed(
    poses: solver.Poses, expression: np.ndarray, parts: list[np.ndarray], sigma: float
) -> tuple[solver.Poses, np.ndarray]:
    rotation, translation, result = poses.rotation.copy(), poses.translation.copy(), expression.copy()
    for run in parts:
        rotation[run] = smooth_rotations(rotation[run], sigma)
        translation[run] = smooth(translation[run], sigma)
        result[run] = smooth(expression[run], sigma)
    return solver.Poses(rotation, translation), result


def _eyes(
    model: solver.LandmarkModel,
    seen: np.ndarray,
    lens: solver.Pinhole,
    poses: solver.Poses,
    identity: np.ndarray,
    expression: np.ndarray,
    parts: list[np.ndarray],
    sigma: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Expression [T, 52] with eyeLook and blinks put in, and gaze [T, 2, 2] in radians."""
    expression = expression.copy()
    expression[:, [*eyes.BLINKS, *eyes.WIDES]] = 0
    opening = eyes.lid_opening(model, seen, lens, poses, identity, expression)
    reference = eyes.open_eyes(opening, OPEN_EYES)
    raw = eyes.seen_gaze(model, seen, lens, poses, identity, expression)
    gaze = eyes.true_gaze(raw, (opening / reference).min(1) > eyes.HALF_CLOSED)
    for run in parts:
        gaze[run] = smooth(gaze[run], sigma)
    for row, weight in eyes.look_shapes(gaze).items():
        expression[:, row] = weight
    blink, wide = eyes.blinks(opening, reference), eyes.wides(opening, reference)
    for run in parts:  # peaks stay, the rest is smoothed: blinks last a few frames only
        peak = np.clip((blink[run] - 0.15) / 0.2, 0, 1)
        blink[run] = peak * blink[run] + (1 - peak) * smooth(blink[run], sigma)
        wide[run] = smooth(wide[run], sigma)
    expression[:, list(eyes.BLINKS)] = blink
    expression[:, list(eyes.WIDES)] = wide
    return expression, gaze


def _confidence(error: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Trust [T] in frames with a face, 0.05..1: falls with errors over 1 %IOD and with yaw over 60 degrees."""
    fit = np.exp(-((np.maximum(error - 0.01, 0) / 0.03) ** 2))
    turned = np.interp(np.degrees(np.abs(angles[:, 0])), [60, 85], [1, 0.2])
    return np.clip(fit * turned, 0.05, 1)


def _tell(valid: np.ndarray, error: np.ndarray, angles: np.ndarray) -> None:
    missing = np.flatnonzero(~valid)
    if len(missing):
        log.warning("no face in %d of %d frames: %s", len(missing), len(valid), name_frames(missing))
    far = int((np.abs(angles[:, 0]) > np.radians(60)).sum())
    if far:
        log.warning("%d frames look more than 60 degrees aside; their pose is uncertain", far)
    log.info(
        "landmark error %.2f %% of the outer-eye distance (worst frame %.2f)", 100 * error.mean(), 100 * error.max()
    )
