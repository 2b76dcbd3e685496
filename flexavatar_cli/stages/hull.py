"""How far hair, hats and clothes stand off the head, from the matte's outline alone.

The displacement along the vertex normals is the smoothest one whose outline meets the matte's: a membrane with a little
bending stiffness on the head's surface, pulled by the outline and held by the face. One sparse solve a round.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import scipy.sparse as sparse
from scipy.sparse.linalg import splu
from scipy.spatial import cKDTree

from flexavatar_cli.core.camera import Camera
from flexavatar_cli.heads import HeadModel
from flexavatar_cli.heads.surface import surface, vertex_normals
from flexavatar_cli.heads.texels import SKIN, TexelGrid
from flexavatar_cli.render.mesh import rasterize_mesh

MATTE_EDGE = 0.5
REACH = 0.12  # metres a vertex may be moved outwards
CHIN = -0.07  # metres, head space
FLOOR = -0.012  # metres a vertex may be moved inwards above the chin ...
FLOOR_BELOW = -0.03  # ... and below it, where the bust is a guess
ROUNDS = 8
PROBES = 128  # texel resolution of the points that are compared with the matte
RIM_COSINES = (-0.3, 0.6)  # normal . view between which a point may be on the rim
OUTSIDE_COSINE = 0.8  # the same for points that stick out of the matte
OUTLINE_PIXELS = 2.5  # from the outline of the displaced mesh, within which a point is on it
STEP = (-0.03, 0.05)  # metres, bounds of what one round may ask for
BENDING = 0.01**2  # square metres: features smaller than this length are ironed out
PULL = 3.0  # of one point of the outline, against the membrane
HOLD = 0.02  # of one vertex that is seen frontally where no hair should be
SLACK = 0.3  # tension of the membrane beside the scalp: hair rises steeply from the hairline, then keeps its thickness
EAR = (0.057, -0.032, 0.054, -0.036, 0.02)  # metres of the template: least |x|, bounds of y and of z about an ear
EAR_BURIED = 0.02  # metres of hair that bury it
NAPE = (-0.13, -0.11, -0.01, 0.01)  # metres of height between which hair behind the neck is told from its sides
ALIKE_HEIGHT = 0.008  # metres: sigma of what counts as the same height
JAW_HELD = 0.7  # share of its freedom that the jaw lacks: a lock beside the neck is not the jaw's
STIFFNESS = 30.0  # of vertices that may not be lifted at all


@dataclass(frozen=True)
class Membrane:
    """What the solve needs of one head model; built once by `membrane`."""

    energy: sparse.csc_matrix  # [V, V] membrane and bending energy of a displacement
    free: np.ndarray  # [V] weight in 0..1 of vertices that may be lifted
    ears: np.ndarray  # [V] metres that the ears stand out
    probes: sparse.csr_matrix  # [P, V] takes vertex values to the points that are compared with the matte


def membrane(head: HeadModel) -> Membrane:
    """The membrane over the head's surface."""
    if "membrane" not in head.cache:
        head.cache["membrane"] = _make_membrane(head)
    return head.cache["membrane"]


def _make_membrane(head: HeadModel) -> Membrane:
    faces, count = head.faces.numpy(), len(head.template)
    corners = head.template.numpy().astype(np.float64)[faces]
    tension = SLACK + head.scalp_weight.numpy()[faces].mean(1) * (1 - SLACK)
    below = corners[..., 1].mean(1) < CHIN
    tension = np.where(below, 1.0, tension)
    laplacian, mass = _laplacian(faces, corners, tension, count)
    energy = laplacian + BENDING * _bending(laplacian, mass) + 1e-6 * sparse.identity(count)
    grid = head.texels(PROBES)
    rows = np.repeat(np.arange(len(grid)), 3)
    probes = sparse.csr_matrix((grid.bary.numpy().ravel(), (rows, grid.corners.numpy().ravel())), (len(grid), count))
    share = np.zeros((count, 2))
    weight = _liftable(np.array(head.part_names)[head.face_part.numpy()][:, None], corners)
    np.add.at(share, faces, np.stack([weight, np.ones_like(weight)], -1))
    return Membrane(energy.tocsc(), share[:, 0] / np.maximum(share[:, 1], 1), _ears(head), probes.tocsr())


def _laplacian(
    faces: np.ndarray,  # [F, 3]
    corners: np.ndarray,  # [F, 3, 3] metres
    tension: np.ndarray,  # [F]
    count: int,
) -> tuple[sparse.csr_matrix, np.ndarray]:  # [V, V], [V]
    """The mesh's Laplacian by cotangents, weighted by tension, and the area that belongs to each vertex."""
    laplacian, mass = sparse.csr_matrix((count, count)), np.zeros(count)
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) / 2
    for at in range(3):
        first, second = corners[:, at - 2] - corners[:, at], corners[:, at - 1] - corners[:, at]
        cotangent = np.clip((first * second).sum(1) / np.maximum(2 * area, 1e-12), 0, 10) / 2
        i, j = faces[:, at - 2], faces[:, at - 1]
        edge = sparse.csr_matrix((tension * cotangent, (i, j)), (count, count))
        edge = edge + edge.T
        laplacian = laplacian + sparse.diags(np.asarray(edge.sum(1)).ravel()) - edge
        np.add.at(mass, faces[:, at], area / 3)
    return laplacian.tocsr(), mass


def _bending(laplacian: sparse.csr_matrix, mass: np.ndarray) -> sparse.csr_matrix:  # [V, V], [V] -> [V, V]
    """Bending energy of a thin plate on the mesh."""
    return laplacian @ sparse.diags(1 / np.maximum(mass, 1e-7)) @ laplacian


def about_ears(points: np.ndarray) -> np.ndarray:  # [..., 3] of the template -> [...] bool
    """True in the boxes that hold the ears."""
    x, y, z = np.moveaxis(points, -1, 0)
    return (np.abs(x) > EAR[0]) & (y > EAR[1]) & (y < EAR[2]) & (z > EAR[3]) & (z < EAR[4])


def _ears(head: HeadModel) -> np.ndarray:  # [V] metres
    """How far the ears stand out of the smoothest surface that closes the head where they are."""
    points = head.template.numpy().astype(np.float64)
    beside = about_ears(points)
    faces = head.faces.numpy()
    laplacian, mass = _laplacian(faces, points[faces], np.ones(len(faces)), len(points))
    bending = (_bending(laplacian, mass) + 1e-9 * sparse.identity(len(points))).tocsr()[beside]
    closed = points.copy()
    closed[beside] = splu(bending[:, beside].tocsc()).solve(-bending[:, ~beside] @ points[~beside])
    out = ((points - closed) * vertex_normals(head, head.template).numpy()).sum(1)
    return np.clip(out, 0, None)


def hull_displacement(
    matte: np.ndarray,  # [S, S]
    inside: np.ndarray,  # [S, S]
    camera: Camera,
    vertices: np.ndarray,  # [V, 3] posed
    normals: np.ndarray,  # [V, 3] smoothed
    head: HeadModel,
    start: np.ndarray | None = None,  # [V] metres, the displacement to improve; None = the bare head
) -> np.ndarray:  # [V] metres
    """How far each vertex must move along its normal so that the surface's outline meets the matte's.

    A few rounds: points on the outline of the displaced mesh measure their distance to the matte's edge, and so do
    those that stick out of it. The face, and what is seen frontally below the chin, stay.
    """
    sheet = membrane(head)
    begin = np.zeros(len(vertices)) if start is None else start.astype(np.float64)
    change = np.zeros(len(vertices))

    def moved() -> np.ndarray:
        # hair lies over the ears, not round each of their folds; a given start has done that already
        buried = np.clip((begin + change) / EAR_BURIED, 0, 1) * sheet.ears if start is None else 0.0
        return begin + change - buried

    points, directions = sheet.probes @ vertices, sheet.probes @ normals
    directions /= np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), 1e-9)
    cosine = _cosine(camera, points, directions)
    may_move = sheet.probes @ sheet.free > 0.3
    floor = np.where(head.template[:, 1].numpy() < CHIN, FLOOR_BELOW, FLOOR)
    fixed = sparse.diags(STIFFNESS * (1 - sheet.free) ** 2 + HOLD * _frontal(camera, vertices, normals))
    height, width = matte.shape
    metres = float(np.linalg.norm(camera.cam2world[0, :3, 3])) / camera.intrinsics[0, 1, 1]  # per pixel
    edge = signed_distance(matte > MATTE_EDGE)
    for _ in range(ROUNDS):
        displacement = moved()
        pixels, depth = camera.project(vertices + normals * displacement[:, None])
        covered, _, _ = rasterize_mesh(pixels[0], depth[0], head.faces.numpy(), height, width)
        outline = np.abs(signed_distance(covered >= 0)) < OUTLINE_PIXELS
        at = camera.project(points + directions * (sheet.probes @ displacement)[:, None])[0][0]
        column, row = at[:, 0].astype(int), at[:, 1].astype(int)
        within = (column >= 2) & (column < width - 2) & (row >= 2) & (row < height - 2)
        column, row = np.clip(column, 0, width - 1), np.clip(row, 0, height - 1)
        rim = outline[row, column] & (cosine > RIM_COSINES[0]) & (cosine < RIM_COSINES[1])
        rim |= (edge[row, column] > 1) & (np.abs(cosine) < OUTSIDE_COSINE)
        rim = np.nonzero(rim & within & may_move & (inside[row, column] > 0.5))[0]
        if len(rim) == 0:
            break
        wanted = np.clip(-edge[row[rim], column[rim]] * metres, *STEP)
        chosen = sheet.probes[rim]
        matrix = sheet.energy + fixed + PULL * chosen.T @ chosen
        change = splu(matrix.tocsc()).solve(PULL * chosen.T @ (chosen @ change + wanted))
        change = np.clip(begin + change, floor, REACH) - begin
    return moved() if start is not None else around_the_neck(moved(), head)


def around_the_neck(displacement: np.ndarray, head: HeadModel) -> np.ndarray:  # [V] metres -> [V] metres
    """No less behind the neck, which a portrait does not show, than on both sides of it: hair hangs down all round."""
    x, height, depth = head.template.numpy().astype(np.float64).T
    beside = (np.abs(x) > 0.045) & (depth > -0.04) & (depth < 0.03) & (membrane(head).free > 0)
    rear = np.nonzero((depth < -0.02) & (height > NAPE[0]) & (height < NAPE[-1]))[0]
    thickness = []
    for side in (beside & (x > 0), beside & (x < 0)):
        likeness = np.exp(-0.5 * ((height[rear, None] - height[side]) / ALIKE_HEIGHT) ** 2)
        thickness.append(likeness @ displacement[side] / likeness.sum(1))
    share = np.interp(height[rear], NAPE, (0, 1, 1, 0)) * np.clip((-0.02 - depth[rear]) / 0.03, 0, 1)
    wanting = np.maximum(np.minimum(*thickness) - displacement[rear], 0)
    filled = displacement.copy()
    filled[rear] += share * wanting
    return filled


def _cosine(camera: Camera, points: np.ndarray, directions: np.ndarray) -> np.ndarray:
    view = camera.cam2world[0, :3, 3] - points
    return (directions * view).sum(1) / np.linalg.norm(view, axis=1)


def _frontal(camera: Camera, vertices: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """1 for vertices that show what they are: the chest where it faces the camera, and the front of the neck."""
    cosine = _cosine(camera, vertices, normals)
    x, y, z = vertices.T
    throat = (y < CHIN) & (np.abs(x) < 0.05) & (z > 0) & (cosine > 0.2)
    return (((y < CHIN) & (cosine > 0.75)) | throat).astype(np.float64)


def signed_distance(mask: np.ndarray) -> np.ndarray:
    """Pixels to the edge of `mask` [H, W], negative inside."""
    inner = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 3)
    outer = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 3)
    return np.where(mask, 0.5 - inner, outer - 0.5)


def liftable(head: HeadModel, grid: TexelGrid) -> np.ndarray:
    """Weight [N] of texels that may be lifted: scalp, neck, bust and the far sides of the face, not its mask."""
    return _liftable(np.array(head.part_names)[grid.part.numpy()], surface(grid, head.template).numpy())


def _liftable(part: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Of points [..., 3] of the template on the named parts."""
    lifted = np.isin(part, ("scalp", "neck", "bust"))
    face = part == "face"
    side = np.clip((0.055 - points[..., 2]) / 0.04, 0, 1) * face  # z of the template: 0.055 temples, 0.015 ears
    jaw = np.clip((-0.025 - points[..., 1]) / 0.02, 0, 1) * np.clip((points[..., 2] - 0.01) / 0.015, 0, 1)
    side = side * (1 - JAW_HELD * jaw)
    below = np.clip((-0.07 - points[..., 1]) / 0.02, 0, 1) * face * (points[..., 2] < 0.075) * (1 - JAW_HELD * jaw)
    return np.maximum(lifted.astype(np.float64), np.maximum(side, below))


def skin_vertices(head: HeadModel) -> np.ndarray:  # [S] int64, ascending
    """The vertices of face, scalp, neck and bust."""
    on_skin = np.isin(np.array(head.part_names)[head.face_part.numpy()], SKIN)
    return np.unique(head.faces.numpy()[on_skin])


def at_vertices(values: np.ndarray, head: HeadModel, grid: TexelGrid) -> np.ndarray:  # [N] -> [V]
    """Texel values at the vertices of the skin: means of the texels about each, its neighbour's where there is none."""
    weight, corners = grid.bary.numpy().astype(np.float64), grid.corners.numpy()
    sums = np.zeros((len(head.template), 2))
    np.add.at(sums, corners, np.stack([weight * values[:, None], weight], -1))
    skin = skin_vertices(head)
    touched = skin[sums[skin, 1] > 1e-6]
    points = head.template.numpy()
    nearest = touched[cKDTree(points[touched]).query(points[skin])[1]]
    known = np.zeros(len(points))
    known[skin] = sums[nearest, 0] / sums[nearest, 1]
    return known


def at_texels(values: np.ndarray, grid: TexelGrid) -> np.ndarray:  # [V] -> [N] float32
    """Vertex values at the texels of `grid`."""
    return (values[grid.corners.numpy()] * grid.bary.numpy()).sum(1).astype(np.float32)
