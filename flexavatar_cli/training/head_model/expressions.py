"""Corrections to the source's expression shapes: the lips at rest, and the tongue."""

import numpy as np
from scipy.spatial import cKDTree

from flexavatar_cli.training.head_model.ict import SourceHead
from flexavatar_cli.training.head_model.register import Registration, seam_distance, vertices_of

LIP_LINE = -0.0335  # metres, y between the closed lips of the mean head
LIP_CLOSING = 0.0007  # metres that each lip moves: the source leaves 1 mm between them and shows teeth
LIP_INNER, LIP_OUTER = 0.003, 0.010  # metres from the lips' inner edge: moved in full, not at all
FLOOR_SHARE = 0.3  # of the tongue's way that the mouth's floor goes along


def tongue_out(registration: Registration) -> np.ndarray:
    """Displacement [V, 3] of tongueOut: MakeHuman's, looked up on the skin and by matched boxes on the tongue."""
    source, human, pairs = registration.source, registration.human, registration.correspondence
    weights = human.average()
    rest = pairs.moved(human.shape(weights))
    out = pairs.moved(human.shape(weights | {"arkit/tongueOut": 1.0}))
    moved = (out - rest)[human.faces]
    skin = registration.spread(np.einsum("nk,nkc->nc", pairs.bary, moved[pairs.face]))
    below = source.mean[:, 1] < LIP_LINE
    lower = vertices_of(source, ("face", "mouth_socket")) & below
    result = np.where(lower[:, None], skin, 0.0)
    upper, floor = vertices_of(source, ("tongue",)), vertices_of(source, ("tongue_under",))
    tongue = np.flatnonzero(upper | floor)
    rest_tongue = pairs.moved(human.proxy("tongue01", human.shape(weights))[0])
    out_tongue = pairs.moved(human.proxy("tongue01", human.shape(weights | {"arkit/tongueOut": 1.0}))[0])
    own = source.mean[tongue]
    low, high = source.mean[upper].min(0), source.mean[upper].max(0)
    target_low, target_high = rest_tongue.min(0), rest_tongue.max(0)
    place = target_low + (np.clip(own, low, high) - low) / (high - low) * (target_high - target_low)
    near, index = cKDTree(rest_tongue).query(place, 6)
    share = 1 / (near + 1e-3)
    share /= share.sum(1, keepdims=True)
    share *= np.where(upper[tongue], 1.0, FLOOR_SHARE)[:, None]
    result[tongue] = np.einsum("nk,nkc->nc", share, (out_tongue - rest_tongue)[index])
    return result.astype(np.float32)


def lips_together(source: SourceHead) -> np.ndarray:
    """Displacement [V, 3] that closes the slit between the lips of the neutral face."""
    distance = seam_distance(source, ("mouth_socket",))
    near = np.clip((LIP_OUTER - distance) / (LIP_OUTER - LIP_INNER), 0, 1)
    amount = LIP_CLOSING * near * near * (3 - 2 * near)
    lips = vertices_of(source, ("face", "mouth_socket"))
    shift = np.where(source.mean[:, 1] > LIP_LINE, -amount, amount) * lips
    return shift[:, None] * np.array([0.0, 1.0, 0.0])
