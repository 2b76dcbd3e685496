"""Eyeballs that stay behind closed lids for every identity."""

import numpy as np

from flexavatar_cli.core.expression import INDEX
from flexavatar_cli.training.head_model.ict import SourceHead
from flexavatar_cli.training.head_model.register import seam_distance, vertices_of

LID_WIDTH = 0.011  # metres from the lids' edge: the skin that covers the eyeball when closed
SETBACK = 0.0004  # metres that the eyeballs sit deeper than in the source


def eyes_behind_lids(
    source: SourceHead,
    expression: np.ndarray,  # [52, V, 3]
    identity: np.ndarray,  # [K, V, 3]
) -> np.ndarray:  # [K, V, 3]
    """Identity shapes whose eyeballs keep their size and follow the closed lids, by least squares on the distance."""
    result = identity.copy()
    near = seam_distance(source, ("eye_socket_left", "eye_socket_right")) < LID_WIDTH
    skin = vertices_of(source, ("face", "eye_socket_left", "eye_socket_right"))
    for side in ("left", "right"):
        eye = np.flatnonzero(vertices_of(source, (f"eyeball_{side}",)))
        centre = eye_centre(source, side)
        closed = source.mean + expression[INDEX[f"eyeBlink{side.capitalize()}"]]
        arm = closed - centre
        distance = np.linalg.norm(arm, axis=1)
        lid = np.flatnonzero(near & skin & (distance < 0.019) & (arm[:, 2] > 0.006))
        normal = arm[lid] / distance[lid, None]
        # a shift of the eyeball keeps its distance to a lid vertex if both move alike along the normal
        gram = normal.T @ normal + 1e-3 * np.eye(3)
        outward = np.einsum("vc,kvc->vk", normal, identity[:, lid])
        result[:, eye] = np.linalg.solve(gram, normal.T @ outward).T[:, None]
    return result


def eye_centre(source: SourceHead, side: str) -> np.ndarray:
    """Centre [3] of an eyeball: the sphere through the outer part of its sclera."""
    points = source.mean[vertices_of(source, (f"eyeball_{side}",))]
    white = points[points[:, 2] < points[:, 2].max() - 0.004]  # without the cornea
    columns = np.concatenate([2 * white, np.ones((len(white), 1))], 1)
    return np.linalg.lstsq(columns, (white**2).sum(1), rcond=None)[0][:3]


def set_back(source: SourceHead) -> np.ndarray:
    """Displacement [V, 3] of the eyeballs into the head."""
    eyes = vertices_of(source, ("eyeball_left", "eyeball_right"))
    return np.where(eyes[:, None], np.array([0.0, 0.0, -SETBACK]), 0.0)
