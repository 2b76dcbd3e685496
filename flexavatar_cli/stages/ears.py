"""Ears that stand off as far as the photo's do.

No landmark says anything about ears, so tracking leaves them average, and texels that reached for their outline one by
one made petals of them. How far both stand off is nearly a direction of the identity space: the head moves along it.
"""

import numpy as np
import torch
from torch import Tensor

from flexavatar_cli.core.sampling import sample_bilinear
from flexavatar_cli.heads import HeadModel
from flexavatar_cli.render.mesh import rasterize_mesh
from flexavatar_cli.stages.collars import unlikeness
from flexavatar_cli.stages.hull import MATTE_EDGE, OUTLINE_PIXELS, about_ears, membrane, signed_distance, skin_vertices
from flexavatar_cli.stages.observation import Observation, examine
from flexavatar_cli.stages.uv_prior import UVPrior

RIM = 0.85  # quantile of how far an ear's vertices stand out, from which on they are its rim
STEADY = 100.0  # weight of a square millimetre that the rest of the skin moves, against a standard deviation
FACE = 0.03  # metres, template: in front of it skin counts ...
FACE_COUNTS = 5.0  # ... so many times
FARTHEST = 0.015  # metres: an outline further from an ear than that is not the ear's
WITHIN = 0.002  # metres inside the outline, where its colour is looked at
BARE = 0.5  # distance of a colour's logarithm from those of the skin, up to which it is an ear's
ENOUGH = 8  # vertices of a rim on the outline
BOUNDS = (-0.006, 0.012)  # metres that ears may be moved


def rims(head: HeadModel) -> tuple[np.ndarray, np.ndarray]:
    """Vertices of the rims of the left (+x) and the right ear."""
    place, out, skin = head.template.numpy(), membrane(head).ears, skin_vertices(head)
    beside = skin[about_ears(place[skin])]
    left, right = (beside[place[beside, 0] * side > 0] for side in (1, -1))
    return _outmost(left, out), _outmost(right, out)


def _outmost(ear: np.ndarray, out: np.ndarray) -> np.ndarray:
    return ear[out[ear] > np.quantile(out[ear], RIM)]


def standing_off(head: HeadModel) -> Tensor:  # [K]
    """Change of the identity that moves the rims of both ears sideways, per metre, and all other skin the least."""
    if "standing_off" not in head.cache:
        head.cache["standing_off"] = _standing_off(head)
    return head.cache["standing_off"]


def _standing_off(head: HeadModel) -> Tensor:
    basis, place = head.identity_basis.numpy().astype(np.float64), head.template.numpy()
    skin = skin_vertices(head)
    rest = skin[~about_ears(place[skin])]
    counts = np.where(place[rest, 2] > FACE, FACE_COUNTS, 1.0)
    moved = 1e3 * basis[:, rest] * np.sqrt(counts / counts.sum())[:, None]
    energy = np.eye(len(basis)) + STEADY * np.einsum("kvc,lvc->kl", moved, moved)
    outward = np.stack([basis[:, rim, 0].mean(1) * side for rim, side in zip(rims(head), (1, -1), strict=True)])
    towards = np.linalg.solve(energy, outward.T)
    return torch.from_numpy(towards @ np.linalg.solve(outward @ towards, np.ones(2))).float()


def with_ears(seen: Observation, prior: UVPrior, head: HeadModel) -> np.ndarray:  # [K] float32
    """The identity of an observation, its bare ears as far off the head as the matte shows them."""
    found = examine(seen, head, prior.resolution, np.zeros(len(prior.index), np.float32))
    skin = found.seen * prior.plain_skin * prior.on_face
    picture = seen.image.astype(np.float32) / 255
    edge = signed_distance(seen.alpha > 255 * MATTE_EDGE)
    posed = head.vertices(torch.from_numpy(seen.identity), torch.from_numpy(seen.expression)).numpy().astype(np.float64)
    pixels, depth = (value[0] for value in seen.camera.project(posed))
    covered, _, _ = rasterize_mesh(pixels, depth, head.faces.numpy(), *edge.shape)
    outline = np.abs(signed_distance(covered >= 0)) < OUTLINE_PIXELS
    shift = 0.0
    for side, rim in zip((1, -1), rims(head), strict=True):
        at = pixels[rim]
        column, row = np.clip(at.astype(int), 1, np.array(edge.shape[::-1]) - 2).T
        per_metre = 1e3 * (seen.camera.project(posed[rim] + [side * 1e-3, 0, 0])[0][0] - at)
        off = -edge[row, column] / np.linalg.norm(per_metre, axis=1)
        asked = sample_bilinear(picture, at + per_metre * (off - WITHIN)[:, None])
        alike = unlikeness(found.color, torch.from_numpy(asked).float(), skin).numpy() < BARE
        own = outline[row, column] & (np.abs(off) < FARTHEST) & alike & (seen.inside[row, column] > 0)
        if own.sum() >= ENOUGH:  # of one ear alone only half is believed: a head that is a little aside looks the same
            shift += float(np.median(off[own])) / 2
    direction = standing_off(head)[: len(seen.identity)].numpy()
    return (seen.identity + np.clip(shift, *BOUNDS) * direction).astype(np.float32)
