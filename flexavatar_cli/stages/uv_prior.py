"""What a head model alone says of its texels: materials, the mean head's colours, and who is whose neighbour."""

from dataclasses import dataclass, replace

import torch
from scipy.spatial import cKDTree
from torch import Tensor

from flexavatar_cli.core.ramps import ramp
from flexavatar_cli.heads import HeadModel
from flexavatar_cli.heads.surface import frames, surface
from flexavatar_cli.stages.hull import about_ears

CELLS = 64  # low frequencies live on a 64 x 64 grid of cells
AROUND = 8  # cells that a texel's low frequencies are interpolated from ...
AROUND_RADIUS = 0.006  # ... with inverse-distance weights of this radius, metres
SHEPARD_RADIUS = 0.008  # metres; inverse-distance weights 1 / (r^2 + radius^2)^2
RIM = (0.55, 0.8)  # frontal component of the mean head's normal, between which skin turns from lit to shaded
BEYOND = (0.3, 0.5)  # ... and between which photos lose sight of it
EVEN = 0.06  # difference of the mean skin from its surroundings, up to which it is plain
HAIR_HEIGHT = (0.006, 0.014)  # metres above the skin between which a texel turns from skin to hair
# The prepared material's mouth is that of a game: grey-green teeth, a tongue of the socket's dark red.
MOUTH_GAINS = {"teeth": (1.45, 1.38, 1.28), "tongue": (2.6, 2.4, 2.35), "gums": (1.3, 1.2, 1.2)}
SHOULDERS = -0.14  # metres, head space
EARS = -0.025  # metres, head space: no ear reaches below
COLLAR = -0.06  # metres, head space: nothing seen below says what colour the hair has

GROUPS = {"face": 0, "neck": 0, "eye_sockets": 0, "scalp": 1, "bust": 2, "eyeball_left": 3, "eyeball_right": 3}
GROUPS |= {"teeth": 4, "gums": 5, "tongue": 5, "mouth_socket": 5}
# AFFINITY[to, from]: how much a seen cell of one group says about an unseen one of another
AFFINITY = torch.tensor(
    [  # skin  scalp bust  eyes  teeth mouth
        [1.0, 1e-3, 1e-2, 0.0, 0.0, 0.0],  # skin
        [1e-5, 1.0, 1e-6, 0.0, 0.0, 0.0],  # scalp
        [1e-4, 1e-4, 1.0, 0.0, 0.0, 0.0],  # bust
        [1e-4, 0.0, 0.0, 1.0, 0.0, 0.0],  # eyes
        [1e-3, 0.0, 0.0, 0.0, 1.0, 0.0],  # teeth
        [1e-3, 0.0, 0.0, 0.0, 0.0, 1.0],  # mouth
    ]
)


@dataclass(frozen=True)
class UVPrior:
    """Constants of one head model at one resolution; built once by `uv_prior`."""

    resolution: int
    index: Tensor  # [N] row * R + column of each texel
    mirror: Tensor  # [N] texel of the mirrored surface point
    cell: Tensor  # [N] cell each texel belongs to
    kernel: Tensor  # [M, M] Shepard weights, rows = cell to fill
    hair_kernel: Tensor  # [M, M] the same where everything lifted counts as one material
    spread: Tensor  # [N, AROUND] cells around a texel
    spread_weight: Tensor  # [N, AROUND]
    on_scalp: Tensor  # [N] 1 where hair grows
    on_skin: Tensor  # [N] 1 on face, neck and eye sockets
    on_face: Tensor  # [N] 1 on the face with its ears
    on_ear: Tensor  # [N] 1 on the ears
    on_jaw: Tensor  # [N] 1 on the face below the ears
    on_neck: Tensor  # [N] 1 between face and bust
    on_bust: Tensor  # [N] 1 below the neck
    plain_skin: Tensor  # [N] 1 where the mean head's skin is even: no brow, lid, lip or nostril
    above_shoulders: Tensor  # [N] 1 for skin that hair may hang over
    above_collar: Tensor  # [N] 1 for skin where what stands off cannot be a collar
    interior: Tensor  # [N] bool: eyes, teeth and mouth, whose fill is grey
    mean_color: Tensor  # [N, 3] mean head, RGB
    smooth_hair: Tensor  # [N, 3] the mean head's hair without strands, continued over what hair may cover
    statics: Tensor  # [7, R, R] position / 0.1 m, normal, scalp weight

    @property
    def places(self) -> Tensor:  # [N, 3]
        """The texels' points on the template, metres."""
        return self.statics[:3].flatten(1)[:, self.index].T * 0.1

    @property
    def outward(self) -> Tensor:  # [N, 3]
        """The template's normals at the texels."""
        return self.statics[3:6].flatten(1)[:, self.index].T

    def away(self, limits: tuple[float, float]) -> Tensor:  # [N]
        """1 where the template turns away from the front: its normal's frontal component is under both limits."""
        return ramp(self.outward[:, 2], limits[::-1])


def uv_prior(head: HeadModel, resolution: int, mean_color: Tensor) -> UVPrior:  # mean_color [N, 3]
    """Cells, Shepard kernel and static maps of `head` at `resolution` (>= 64)."""
    grid = head.texels(resolution)
    positions = surface(grid, head.template)
    normals = frames(head, grid, head.template).normal
    groups = torch.tensor([GROUPS[name] for name in head.part_names])[grid.part]
    scalp = (head.scalp_weight[head.faces[grid.face]] * grid.bary).sum(-1, keepdim=True)
    groups = torch.where((groups < 2) & (scalp[:, 0] > 0.5), GROUPS["scalp"], groups)
    row, column = grid.index // resolution, grid.index % resolution
    step = resolution // CELLS
    key = ((row // step) * CELLS + column // step) * 8 + groups  # a cell never mixes groups
    _, cell = torch.unique(key, return_inverse=True)
    count = torch.bincount(cell).float()
    cells = len(count)
    centre = torch.zeros(cells, 3).index_add_(0, cell, positions) / count[:, None]
    cell_group = torch.zeros(cells, dtype=torch.int64).index_put_((cell,), groups)
    squared = torch.cdist(centre, centre) ** 2
    kernel = (SHEPARD_RADIUS**2 / (squared + SHEPARD_RADIUS**2)) ** 2
    hair_kernel = kernel * (cell_group <= GROUPS["scalp"])
    kernel = kernel * AFFINITY[cell_group][:, cell_group]
    spread = torch.zeros(len(positions), AROUND, dtype=torch.int64)
    spread_weight = torch.zeros(len(positions), AROUND)
    for group in groups.unique():
        texels, members = torch.nonzero(groups == group)[:, 0], torch.nonzero(cell_group == group)[:, 0]
        distance, nearest = cKDTree(centre[members].numpy()).query(
            positions[texels].numpy(), k=min(AROUND, len(members))
        )
        distance, nearest = torch.as_tensor(distance).float(), torch.as_tensor(nearest)
        spread[texels, : nearest.shape[1]] = members[nearest]
        weight = 1 / (distance**2 + AROUND_RADIUS**2) ** 2
        spread_weight[texels, : nearest.shape[1]] = weight / weight.sum(-1, keepdim=True)
    statics = torch.zeros(7, resolution * resolution)
    statics[:, grid.index] = torch.cat([positions / 0.1, normals, scalp], -1).T
    statics = statics.reshape(7, resolution, resolution)
    on_scalp = (groups == GROUPS["scalp"]).float()
    above = ((positions[:, 1] - SHOULDERS) / 0.02).clamp(0, 1) * (groups <= GROUPS["scalp"])
    bare = ((positions[:, 1] - COLLAR) / 0.02).clamp(0, 1) * (groups <= GROUPS["scalp"])
    interior = groups >= GROUPS["eyeball_left"]
    face = grid.part == head.part_names.index("face")
    for name, gain in MOUTH_GAINS.items():
        of_part = (grid.part == head.part_names.index(name))[:, None]
        mean_color = torch.where(of_part, mean_color * torch.tensor(gain), mean_color)
    prior = UVPrior(
        resolution=resolution,
        index=grid.index,
        mirror=grid.mirror,
        cell=cell,
        kernel=kernel,
        hair_kernel=hair_kernel,
        spread=spread,
        spread_weight=spread_weight,
        on_scalp=on_scalp,
        on_skin=(groups == GROUPS["face"]).float(),
        on_face=face.float(),
        on_ear=(face & torch.from_numpy(about_ears(positions.numpy()))).float(),
        on_jaw=(face & (positions[:, 1] < EARS)).float(),
        on_neck=(grid.part == head.part_names.index("neck")).float() * (groups == GROUPS["neck"]),
        on_bust=(groups == GROUPS["bust"]).float(),
        plain_skin=torch.zeros_like(on_scalp),
        above_shoulders=above,
        above_collar=bare,
        interior=interior,
        mean_color=mean_color,
        smooth_hair=mean_color,
        statics=statics,
    )
    prior = replace(prior, mean_color=_evenly_lit(prior))
    smooth = low_frequencies(prior, mean_color[None], on_scalp[None], hair_kernel)[0]
    prior = replace(prior, smooth_hair=torch.where(interior[:, None], mean_color, smooth))
    around = low_frequencies(prior, mean_color[None], prior.on_skin[None], prior.kernel)[0]
    uneven = (mean_color - around).abs().amax(-1)
    return replace(prior, plain_skin=prior.on_skin * (uneven < EVEN))


def _evenly_lit(prior: UVPrior) -> Tensor:  # [N, 3]
    """The mean head, which beyond the dark rim of the photos that it is the mean of stays as dark as there.

    Colours are ratios to it: where it grew lighter again, towards the ears, so did unseen skin beside a photo's rim.
    """
    rim = prior.on_face * (prior.away(RIM) > 0) * (prior.away(BEYOND) < 1)
    beyond = torch.maximum(prior.on_skin * prior.away(BEYOND), torch.maximum(prior.on_neck, prior.on_bust))[:, None]
    bare = torch.maximum(prior.on_skin, prior.on_bust)
    low = low_frequencies(prior, prior.mean_color[None], bare[None], prior.kernel)[0].clamp_min(0.02)
    tone = (low * rim[:, None]).sum(0) / rim.sum()
    return prior.mean_color * (tone / low) ** beyond


def low_frequencies(prior: UVPrior, values: Tensor, weight: Tensor, kernel: Tensor) -> Tensor:
    """Shepard interpolation [B, N, C] by `kernel` of values [B, N, C] seen with weight [B, N]."""
    batch, _, channels = values.shape
    sums = values.new_zeros(batch, len(kernel), channels + 1)
    stacked = torch.cat([values * weight[..., None], weight[..., None]], -1)
    sums.index_add_(1, prior.cell, stacked)
    filled = kernel @ sums
    filled = filled[..., :-1] / filled[..., -1:].clamp_min(1e-12)
    return (filled[:, prior.spread] * prior.spread_weight[..., None]).sum(2)


def hairiness(prior: UVPrior, displacement: Tensor) -> Tensor:  # [B, N] metres -> [B, N]
    """1 where a texel above the shoulders stands so far off that it is hair or a hat, 0 on skin."""
    return ramp(displacement, HAIR_HEIGHT) * prior.above_shoulders
