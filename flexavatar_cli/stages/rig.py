"""The rigged anchor: texel attributes on the posed surface of the head model become Gaussians (DESIGN 4.1).

`position = head(identity, expression)(texel) + frame @ offset`; size and orientation come from finite differences of
the *displaced* surface between neighbouring texels, so hair that stands off stays closed and stretched skin stretches.
"""

from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sparse
import torch
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn.functional import normalize

from flexavatar_cli.core.attributes import TexelAttributes
from flexavatar_cli.core.gaussians import Gaussians, quaternion
from flexavatar_cli.heads import HeadModel
from flexavatar_cli.heads.surface import frames, surface
from flexavatar_cli.heads.texels import SKIN, TexelGrid
from flexavatar_cli.stages.eyelids import Lid, lids, with_lids_closed
from flexavatar_cli.stages.hull import liftable
from flexavatar_cli.stages.lips import Lips, lips, with_lips_closed

SIZE_SHARE = 0.75  # sigma per texel step: .7 leaves .5 % see-through, 1.0 bleeds over the nose edge (recipe, section 3)
THICKNESS = 0.3  # sigma along the normal per smaller in-plane sigma
SMALLEST_SIGMA = 2e-4  # metres, in the plane
LONGEST_STEP = 0.008  # metres; larger steps are seams or hair edges and would throw spikes
STRETCHED_STEP = 0.011  # metres; as far as they may go where the surface is stretched on both sides: a puff of hair
SEAM_WIDTH = 0.012  # metres of the template, within which another part of the skin goes on
SEAM_CANDIDATES = 16
SEAM_COSINE = 0.5  # of the angle between what ends and what goes on
SMOOTHING = 3  # half-steps over neighbouring texels
FACE_REACH = 0.1  # share of an offset that the mask of the face may take
INTERIOR_REACH = 0.05  # share of an offset that teeth, tongue, gums, sockets and eyeballs may take


@dataclass(frozen=True)
class RigAnchor:
    """What the rig needs per texel of one head model; built once by `rig_anchor`."""

    head: HeadModel
    resolution: int
    neighbours: Tensor  # [4, N] int64, as of TexelGrid
    reach: Tensor  # [N, 1] share of the offset this texel may take
    smoother: Tensor  # [N, N] sparse: SMOOTHING half-steps of averaging over neighbours, those over seams too
    lids: tuple[Lid, ...]
    lips: Lips

    def to(self, device: torch.device | str) -> "RigAnchor":
        """The same anchor, with its head, on `device`."""
        names = ("head", "neighbours", "reach", "smoother", "lips")
        moved = {name: getattr(self, name).to(device) for name in names}
        return replace(self, **moved, lids=tuple(lid.to(device) for lid in self.lids))


def rig_anchor(
    head: HeadModel,  # on the CPU
    resolution: int,
    device: torch.device | str = "cpu",
) -> RigAnchor:
    """Neighbour table, offset limits and smoother of the texels of `head`, made on the CPU, once for each `device`."""
    key = f"rig_{resolution}_{device}"
    if key not in head.cache:
        made = _make_anchor(head, resolution)
        head.cache[key] = made if torch.device(device).type == "cpu" else made.to(device)
    return head.cache[key]


def _make_anchor(head: HeadModel, resolution: int) -> RigAnchor:
    grid = head.texels(resolution)
    reach = offset_reach(head, grid)[:, None]
    smoother = _smoother(_joined(head, grid))
    return RigAnchor(head, resolution, grid.neighbours, reach, smoother, lids(head, grid), lips(head, grid))


def _joined(head: HeadModel, grid: TexelGrid) -> Tensor:  # [4, N]
    """The grid's neighbours; where face, neck or bust end, the nearest texel ahead on another part of the skin.

    Not where the scalp ends: skin rises with the hair beside it; hair that sank to bare ears would open slits there.
    """
    points, part = surface(grid, head.template).numpy().astype(np.float64), grid.part.numpy()
    names = np.array(head.part_names)[part]
    skin = np.nonzero(np.isin(names, SKIN))[0]
    rising = skin[names[skin] != "scalp"]
    tree = cKDTree(points[skin])
    around = grid.neighbours.numpy()
    joined = around.copy()
    for side, opposite in ((0, 1), (1, 0), (2, 3), (3, 2)):
        ends = rising[(around[side, rising] == rising) & (around[opposite, rising] != rising)]
        onward = points[ends] - points[around[opposite, ends]]
        onward /= np.linalg.norm(onward, axis=-1, keepdims=True)
        apart, found = tree.query(points[ends], k=SEAM_CANDIDATES, distance_upper_bound=SEAM_WIDTH)
        there = np.append(skin, 0)[found]  # [E, SEAM_CANDIDATES], nearest first; none left is infinitely far
        along = ((points[there] - points[ends, None]) * onward[:, None]).sum(-1)
        fits = np.isfinite(apart) & (along > SEAM_COSINE * apart) & (part[there] != part[ends, None])
        joined[side, ends] = np.where(fits.any(1), there[np.arange(len(ends)), fits.argmax(1)], ends)
    return torch.from_numpy(joined)


def _smoother(neighbours: Tensor) -> Tensor:  # [4, N] -> [N, N] sparse CSR
    count = neighbours.shape[1]
    own = np.tile(np.arange(count), 4)
    mean = sparse.csr_matrix((np.full(4 * count, 0.25), (own, neighbours.reshape(-1).cpu().numpy())), (count, count))
    half = 0.5 * sparse.identity(count, format="csr") + 0.5 * mean
    steps = half
    for _ in range(SMOOTHING - 1):
        steps = steps @ half
    steps = steps.tocsr()
    pointers, columns = (torch.from_numpy(array.astype(np.int64)) for array in (steps.indptr, steps.indices))
    values = torch.from_numpy(steps.data.astype(np.float32))
    return torch.sparse_csr_tensor(pointers, columns, values, (count, count)).to(neighbours.device)


def offset_reach(head: HeadModel, grid: TexelGrid) -> Tensor:  # [N]
    """Share of a decoded offset that each texel takes: all for hair and cloth, little where the rig is right.

    Lids, lips and cheeks move by the head model; free offsets there would be carried into every expression.
    """
    is_skin = torch.tensor([name in SKIN for name in head.part_names])
    free = torch.from_numpy(liftable(head, grid)).float().clamp_min(FACE_REACH)
    return torch.where(is_skin[grid.part], free, INTERIOR_REACH)


def expressed(
    anchor: RigAnchor,
    attributes: TexelAttributes,  # of B expressions
    expression: Tensor,  # [B, E]
) -> TexelAttributes:
    """Decoded attributes made ready for the surface: settled, with lids that close in skin."""
    return with_lids_closed(anchor.lids, settled(anchor, attributes, expression), expression)


def settled(
    anchor: RigAnchor,
    attributes: TexelAttributes,  # of B expressions
    expression: Tensor,  # [B, E]
) -> TexelAttributes:
    """The attributes without teeth on closed lips, and with their offsets smoothed over the surface.

    The code's patches must not show in outlines.
    """
    batch, count, _ = attributes.offset.shape
    flat = attributes.offset.transpose(0, 1).reshape(count, batch * 3)
    smooth = (anchor.smoother @ flat).reshape(count, batch, 3).transpose(0, 1)
    return with_lips_closed(anchor.lips, replace(attributes, offset=smooth), expression)


def lifted(anchor: RigAnchor, attributes: TexelAttributes) -> Tensor:  # of B = 1 -> [N] metres
    """How far hair and clothes stand off the head."""
    return attributes.offset[0, :, 2] * anchor.reach[:, 0]


def rigged_gaussians(
    anchor: RigAnchor,
    attributes: TexelAttributes,  # of B = 1
    identity: Tensor,  # [K]
    expression: Tensor,  # [E]
) -> Gaussians:
    """Gaussians of one expression, differentiable in the attributes (sizes and frames of the anchor are constants)."""
    return rigged_heads(anchor, attributes, identity, expression[None])[0]


def rigged_heads(
    anchor: RigAnchor,
    attributes: TexelAttributes,  # of B
    identity: Tensor,  # [K]
    expressions: Tensor,  # [B, E]
) -> list[Gaussians]:
    """`rigged_gaussians` of B expressions at once."""
    head = anchor.head
    grid = head.texels(anchor.resolution)
    with torch.no_grad():
        vertices = head.vertices(identity.expand(len(expressions), -1), expressions)
        skin = surface(grid, vertices)
        axes = frames(head, grid, vertices).matrix()  # [B, N, 3, 3]
    offset = attributes.offset * anchor.reach
    positions = skin + (axes @ offset[..., None])[..., 0]
    with torch.no_grad():
        splat_axes, sizes = splat_frames(positions.detach(), anchor.neighbours)
        base_quats = quaternion(splat_axes)
    quats = quaternion_product(base_quats, attributes.rotation)
    fields = (positions, quats, sizes * attributes.scale, attributes.opacity, attributes.color)
    return [Gaussians(*one) for one in zip(*(field.unbind(0) for field in fields), strict=True)]


def splat_frames(
    positions: Tensor,  # [..., N, 3]
    neighbours: Tensor,  # [4, N]
) -> tuple[Tensor, Tensor]:
    """Principal axes [..., N, 3, 3] (columns; third = normal) and sigmas [..., N, 3] of the cell each texel covers."""
    left, right, above, below = (positions.index_select(-2, side) for side in neighbours)
    steps = neighbours != torch.arange(positions.shape[-2], device=positions.device)
    along_u = _step(left, positions, right, steps[0].float() + steps[1])
    along_v = _step(above, positions, below, steps[2].float() + steps[3])
    # the 2x2 Gram matrix of the steps has the cell's principal axes as eigenvectors
    uu, vv, uv = (along_u**2).sum(-1), (along_v**2).sum(-1), (along_u * along_v).sum(-1)
    half, apart = (uu + vv) / 2, (uu - vv) / 2
    root = (apart**2 + uv**2).sqrt()
    large, small = half + root, (half - root).clamp_min(0)
    angle = 0.5 * torch.atan2(uv, apart)[..., None]
    first = torch.cos(angle) * along_u + torch.sin(angle) * along_v
    second = -torch.sin(angle) * along_u + torch.cos(angle) * along_v
    first = normalize(first, dim=-1, eps=1e-9)
    normal = torch.linalg.cross(first, second)
    lonely = normal.norm(dim=-1, keepdim=True) < 1e-12
    first = torch.where(lonely, first.new_tensor([1.0, 0, 0]), first)
    normal = torch.where(lonely, first.new_tensor([0, 0, 1.0]), normalize(normal, dim=-1, eps=1e-20))
    second = torch.linalg.cross(normal, first)
    sigma_small = small.sqrt().clamp_min(SMALLEST_SIGMA)
    sigma_large = torch.maximum(large.sqrt(), sigma_small)
    sizes = SIZE_SHARE * torch.stack([sigma_large, sigma_small, THICKNESS * sigma_small], -1)
    return torch.stack([first, second, normal], -1), sizes


def _step(
    before: Tensor,  # [..., N, 3]
    at: Tensor,  # [..., N, 3]
    after: Tensor,  # [..., N, 3]
    count: Tensor,  # [N] neighbours there are
) -> Tensor:  # [..., N, 3]
    """Mean step from one neighbour to the other. A long one is cut, unless the surface is stretched on both sides."""
    step = (after - before) / count.clamp_min(1)[:, None]
    length = step.norm(dim=-1, keepdim=True).clamp_min(1e-9)
    shorter = torch.minimum((at - before).norm(dim=-1, keepdim=True), (after - at).norm(dim=-1, keepdim=True))
    return step * (torch.minimum(length, shorter.clamp(LONGEST_STEP, STRETCHED_STEP)) / length)


def quaternion_product(
    first: Tensor,  # [..., 4] wxyz
    second: Tensor,  # [..., 4] wxyz
) -> Tensor:  # [..., 4]
    """Hamilton product: the rotation `second`, then `first`."""
    w, x, y, z = first.unbind(-1)
    a, b, c, d = second.unbind(-1)
    return torch.stack(
        [
            w * a - x * b - y * c - z * d,
            w * b + x * a + y * d - z * c,
            w * c - x * d + y * a + z * b,
            w * d + x * c - y * b + z * a,
        ],
        -1,
    )
