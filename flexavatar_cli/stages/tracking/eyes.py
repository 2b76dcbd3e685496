"""Gaze from the irises and blinks from the lid opening: what the landmark solver cannot see well.

Left eye first everywhere. The constants were measured on MediaPipe's points of rendered and real heads.
"""

import numpy as np

from flexavatar_cli.core.expression import ARKIT_NAMES, LOOK_RADIANS
from flexavatar_cli.stages.tracking.solver import LandmarkModel, Pinhole, Poses

IRIS_CENTRES = (473, 468)
UPPER_LIDS = ((386, 385, 387), (159, 158, 160))
LOWER_LIDS = ((374, 380, 373), (145, 153, 144))
CORNERS = ((362, 263), (133, 33))
# On renders MediaPipe's irises move .70 (yaw) and .27 (pitch) of the truth, but undoing that puts the drawn irises of
# real photos beside the real ones, by half an iris when the gaze is 5 degrees up. So hardly any gain.
GAZE_GAIN = (1.1, 1.2)  # yaw, pitch
CLOSED = 0.18  # lid opening that MediaPipe still sees on closed eyes, relative to the open eye (clips: .07-.21)
HALF_CLOSED = 0.55  # below this opening the irises are not believed
BLINKS = tuple(ARKIT_NAMES.index(f"eyeBlink{side}") for side in ("Left", "Right"))
WIDES = tuple(ARKIT_NAMES.index(f"eyeWide{side}") for side in ("Left", "Right"))


def seen_gaze(
    model: LandmarkModel, seen: np.ndarray, lens: Pinhole, poses: Poses, identity: np.ndarray, expression: np.ndarray
) -> np.ndarray:  # [T, 2, 2] radians
    """Yaw and pitch of each eye as the irises [T, 478, 2] show them: rays on the eyeball's sphere, uncorrected.

    The irises are first moved by the error of their eye's corners, so that a misfit of the face is no gaze.
    """
    projected = lens.project(poses.camera_points(model.points(identity, expression)))
    rest = model.mean + model.identity @ identity
    centres = model.eye_centres + model.eye_identity @ identity
    back = poses.rotation.transpose(0, 2, 1)
    origin = -(back @ poses.translation[:, :, None])[..., 0]
    result = np.zeros((len(seen), 2, 2))
    for eye, row in enumerate(IRIS_CENTRES):
        corners = list(CORNERS[eye])
        pixels = seen[:, row] - (seen[:, corners] - projected[:, corners]).mean(1)
        ray = np.column_stack([(pixels - lens.centre) / lens.focal, np.ones(len(seen))])
        ray = (back @ ray[:, :, None])[..., 0]
        ray /= np.linalg.norm(ray, axis=-1, keepdims=True)
        arm = rest[row] - centres[eye]
        towards = origin - centres[eye]
        along = (ray * towards).sum(-1)
        depth = np.maximum(along**2 - (towards**2).sum(-1) + arm @ arm, 0)  # 0: the ray passes beside the eyeball
        hit = towards + ray * (-along - np.sqrt(depth))[:, None]
        result[:, eye] = _angles(hit) - _angles(arm)
    return result


def _angles(direction: np.ndarray) -> np.ndarray:
    """Yaw and pitch [..., 2] of directions [..., 3] against +z."""
    x, y, z = np.moveaxis(direction, -1, 0)
    return np.stack([np.arctan2(x, z), np.arctan2(y, np.hypot(x, z))], -1)


def true_gaze(raw: np.ndarray, trusted: np.ndarray) -> np.ndarray:  # [T, 2, 2] radians
    """Gaze from `seen_gaze`: both eyes share the pitch and nearly the yaw; closed eyes keep their last gaze.

    `trusted` [T] says where the irises were visible; other frames are filled in between (0 if there are none).
    """
    both = raw.mean(1, keepdims=True)
    gaze = both + [0.5, 0.0] * (raw - both)
    gaze = gaze * GAZE_GAIN
    known = np.flatnonzero(trusted)
    if not len(known):
        return np.zeros_like(gaze)
    flat = gaze.reshape(len(gaze), -1)
    columns = [np.interp(np.arange(len(gaze)), known, column[known]) for column in flat.T]
    return np.clip(np.stack(columns, -1).reshape(gaze.shape), np.radians(-40), np.radians(40))


def look_shapes(gaze: np.ndarray) -> dict[int, np.ndarray]:
    """ARKit row -> weights [T] of the eight eyeLook shapes for gaze [T, 2, 2]: they move lids and sockets."""
    turns: dict[str, np.ndarray] = {}
    for eye, (side, out) in enumerate((("Left", 1), ("Right", -1))):
        yaw, pitch = gaze[:, eye, 0] / LOOK_RADIANS, gaze[:, eye, 1] / LOOK_RADIANS
        parts = {"Out": out * yaw, "In": -out * yaw, "Up": pitch, "Down": -pitch}
        turns |= {f"eyeLook{name}{side}": value for name, value in parts.items()}
    return {ARKIT_NAMES.index(name): np.clip(value, 0, 1) for name, value in turns.items()}


def lid_opening(
    model: LandmarkModel, seen: np.ndarray, lens: Pinhole, poses: Poses, identity: np.ndarray, expression: np.ndarray
) -> np.ndarray:  # [T, 2]
    """How far the lids are open in landmarks [T, 478, 2], relative to the posed model with this `expression`."""
    projected = lens.project(poses.camera_points(model.points(identity, expression)))
    result = np.zeros((len(seen), 2))
    for eye in range(2):
        upper, lower = list(UPPER_LIDS[eye]), list(LOWER_LIDS[eye])
        model_gap = projected[:, lower].mean(1) - projected[:, upper].mean(1)
        seen_gap = seen[:, lower].mean(1) - seen[:, upper].mean(1)
        result[:, eye] = (seen_gap * model_gap).sum(-1) / (model_gap**2).sum(-1)
    return result


def open_eyes(opening: np.ndarray, prior: float, prior_frames: float = 8.0) -> np.ndarray:  # [2]
    """The person's own open eyes: upper part of openings [T, 2], drawn to `prior` when there are few frames."""
    own = np.percentile(opening, 70, axis=0)
    trust = (len(opening) - 1) / (len(opening) - 1 + prior_frames)
    return trust * own + (1 - trust) * prior


def blinks(opening: np.ndarray, reference: np.ndarray, slack: float = 0.06) -> np.ndarray:  # [T, 2] in 0..1
    """Blink weights of openings [T, 2]: 0 from the person's open eyes (less `slack`) up, 1 when closed."""
    relative = opening / reference
    return np.clip((1 - slack - relative) / (1 - slack - CLOSED), 0, 1)


def wides(opening: np.ndarray, reference: np.ndarray, slack: float = 0.12, full: float = 0.3) -> np.ndarray:
    """eyeWide weights [T, 2] of openings: 0 up to the person's open eyes plus `slack`, 1 at `full` more."""
    return np.clip((opening / reference - 1 - slack) / full, 0, 1)
