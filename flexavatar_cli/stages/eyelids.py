"""Upper eyelids: an open eye folds them away, so a photo shows stripes of lash and crease where closing unrolls skin.

As an eye closes, its lid takes the colour of the skin all around it, shaded towards the fold and the slit, with a line
of lashes along the slit and, once shut, their shadow below it. Open, it keeps what the photo shows.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from flexavatar_cli.core.attributes import TexelAttributes
from flexavatar_cli.core.expression import INDEX
from flexavatar_cli.core.ramps import smoothstep
from flexavatar_cli.heads import HeadModel
from flexavatar_cli.heads.surface import surface
from flexavatar_cli.heads.texels import TexelGrid

SIDES = {"left": "Left", "right": "Right"}
LOWERING = ("eyeBlink", "eyeLookDown", "eyeLookUp", "eyeWide")  # shapes that move an upper lid by 2.6 mm and more
CLOSING = (0.06, 0.6)  # of a full blink, between which the colour changes: later, stretched lashes show
CONTACT = (0.65, 1.0)  # of a full blink, between which the lids meet and the lashes shade the lower one

# Metres that a point sinks in a full blink. The lids' lower edge sinks by 7 mm.
UNROLLED = (0.0009, 0.0026)  # between these, skin of the orbit turns into lid
LASHED = (0.0007, 0.0022)  # the same for the lashes, which reach into the corners
STILL = (0.0004, 0.0011)  # between these, the lower lid's skin ends

REACH = 0.03  # metres from the eye's centre: skin around it up to brow, nose ridge and temple; never the other eye's
APERTURE = (0.017, 0.0105)  # metres, half axes about the open eye and its lashes, which are no skin
UNDER = (-0.022, -0.011)  # metres above the eye's centre: skin under the eye, below the lashes
BESIDE = 0.015  # metres to either side of it
SOFTNESS = 0.003  # metres; skin's influence on the lid falls with the square of its distance beyond this
ALIKE = (0.45, 0.25)  # log units of brightness and of hue within which colours around the eye count as skin
DARKEST = 0.03  # added to colours before the logarithm: what an 8-bit photo's noise makes of black
TRUST = 0.02  # share of the skin under the eye where nothing around is alike

SLIT = 0.0012  # metres to either side, along which the lowest point of a closed lid is its edge
LASH_WIDTH = 0.0014  # metres on the lid
LASH_TONE = (0.2, 0.4)  # darkest and lightest lashes, times the skin's colour; between them, what the photo shows
FOLD = (0.0022, 0.0015, 0.16)  # shade where the lid goes under the brow: metres sunk at its centre, half width, depth
ROUND = (0.004, 0.12)  # shade where the lid curves in above its edge: metres, depth
SHADOW = (0.0022, 0.35)  # of the lashes on the lower lid: metres, depth
SHADED = (0.85, 1.05, 1.15)  # exponents: shaded skin is redder (green by 1.0 to 1.5 of red's exponent in six photos)


@dataclass(frozen=True)
class Lid:
    """One upper lid of a head model and the skin it borders on: M texels whose colour closing changes."""

    columns: Tensor  # [C] int64, coefficients of the expression code that move it
    lowering: Tensor  # [C] how far each does, 1 = a full blink
    texels: Tensor  # [M] int64
    weight: Tensor  # [M] in 0..1, share of lid
    lash: Tensor  # [M] in 0..1
    shade: Tensor  # [M] in 0..1, 1 = none
    cast: Tensor  # [M] in 0..1, shadow of the lashes of a closed eye
    edge: Tensor  # [L] int64, texels with the lashes
    under: Tensor  # [R] int64, skin under the eye
    around: Tensor  # [S] int64, everything around the eye
    influence: Tensor  # [M, S] of the latter on the former, rows sum to 1

    def to(self, device: torch.device | str) -> "Lid":
        """The same lid on `device`."""
        return Lid(**{name: value.to(device) for name, value in vars(self).items()})


def lids(head: HeadModel, grid: TexelGrid) -> tuple[Lid, ...]:
    """The left and the right lid."""

    @torch.no_grad()
    def points(shape: str | None) -> Tensor:
        code = torch.zeros(len(INDEX), device=head.device)
        if shape is not None:
            code[[INDEX[f"{shape}{side}"] for side in SIDES.values()]] = 1
        return surface(grid, head.vertices(None, code)).reshape(-1, 3)

    rest = points(None)
    moved = {shape: points(shape) for shape in LOWERING}
    return tuple(_lid(head, grid, side, rest, moved) for side in SIDES)


def _lid(head: HeadModel, grid: TexelGrid, side: str, rest: Tensor, moved: dict[str, Tensor]) -> Lid:
    eye = head.joints[f"eye_{side}"]
    opened, closed = rest - eye, moved["eyeBlink"] - eye
    sunk = rest[:, 1] - moved["eyeBlink"][:, 1]
    on_face = grid.part == head.part_names.index("face")
    near = on_face & (closed.norm(dim=-1) < REACH) & (closed[:, 2] > 0)
    weight = smoothstep(sunk, UNROLLED) * near
    below, beside = opened[:, 1], opened[:, 0].abs()
    under = on_face & (below > UNDER[0]) & (below < UNDER[1]) & (beside < BESIDE) & (opened[:, 2] > 0) & (weight == 0)
    skin = near & (weight == 0) & ((opened[:, :2] / opened.new_tensor(APERTURE)).norm(dim=-1) > 1)
    around = _where(skin)

    edge = _lower_edge(closed, _where(weight > 0.4))
    from_edge = torch.cdist(closed[:, :2], closed[edge, :2]).amin(1) if len(edge) else torch.full_like(sunk, REACH)
    lash = torch.exp(-((from_edge / LASH_WIDTH) ** 2)) * smoothstep(sunk, LASHED) * near
    fold = FOLD[2] * torch.exp(-(((sunk - FOLD[0]) / FOLD[1]) ** 2))
    shade = 1 - (fold + ROUND[1] * torch.exp(-from_edge / ROUND[0])) * weight
    cast = SHADOW[1] * torch.exp(-((from_edge / SHADOW[0]) ** 2)) * (1 - smoothstep(sunk, STILL)) * near
    texels = _where((weight > 0) | (lash > 0.01) | (cast > 0.01))

    influence = 1 / (torch.cdist(closed[texels], closed[around]) ** 2 + SOFTNESS**2)
    influence = influence / influence.sum(1, keepdim=True)
    lowered = torch.stack([(rest - points)[:, 1] for points in moved.values()])[:, _where(weight > 0.5)]
    return Lid(
        columns=torch.tensor([INDEX[shape + SIDES[side]] for shape in moved], device=rest.device),
        lowering=lowered @ lowered[0] / (lowered[0] @ lowered[0]).clamp_min(1e-12),
        texels=texels,
        weight=weight[texels],
        lash=lash[texels],
        shade=shade[texels],
        cast=cast[texels],
        edge=edge,
        under=_where(under),
        around=around,
        influence=influence,
    )


def _lower_edge(points: Tensor, texels: Tensor) -> Tensor:
    """Those of the texels that lie lowest among their neighbours to either side."""
    own = points[texels]
    beside = (own[:, None, 0] - own[None, :, 0]).abs() < SLIT
    lower = (own[:, None, 1] - own[None, :, 1]).masked_fill(~beside, -1.0)
    return texels[(lower < 0.0005).all(1)]


def _where(mask: Tensor) -> Tensor:
    return torch.nonzero(mask)[:, 0]


def with_lids_closed(
    pair: tuple[Lid, ...],
    attributes: TexelAttributes,  # of B expressions
    expression: Tensor,  # [B, E]
) -> TexelAttributes:
    """The attributes with the lids as far towards closed ones as `expression` lowers them: coloured and opaque.

    Smooth in the expression and the attributes, and unchanged where the eyes are open.
    """
    changed: list[tuple[Tensor, ...]] = []
    for lid in pair:
        lowered = expression[:, lid.columns].to(attributes.color) @ lid.lowering.to(attributes.color)
        share = smoothstep(lowered, CLOSING)[:, None]
        if not (share > 0).any():
            continue
        skin, lashes = _surroundings(lid, attributes.color.detach())  # a lid teaches nothing about the skin around it
        tone = lid.shade * (1 - lid.lash * (1 - lashes)) * (1 - lid.cast * smoothstep(lowered, CONTACT)[:, None])
        color = attributes.color[:, lid.texels]
        closed = torch.lerp(color, skin, lid.weight[:, None].expand_as(color)) * tone[..., None] ** tone.new_tensor(
            SHADED
        )
        color = color + share[..., None] * (closed - color)
        # fitting may have thinned the texels that hide behind an open eye's edge; the eyeball must not shine through
        share = share * lid.weight
        opacity, scale = attributes.opacity[:, lid.texels], attributes.scale[:, lid.texels]
        opacity = opacity + share * (1 - opacity)
        scale = scale + share[..., None] * (1 - scale).clamp_min(0)
        changed.append((lid.texels, color, opacity, scale))
    if not changed:
        return attributes
    texels = torch.cat([own for own, *_ in changed])
    fields = {
        name: getattr(attributes, name).index_copy(1, texels, torch.cat(parts, 1))
        for name, *parts in zip(("color", "opacity", "scale"), *(values for _, *values in changed), strict=True)
    }
    return replace(attributes, **fields)


def _surroundings(lid: Lid, color: Tensor) -> tuple[Tensor, Tensor]:  # [B, N, 3] -> [B, M, 3], [B, 1]
    """Skin colour continued over the lid, and how dark its lashes are against it.

    What around the eye differs from the skin under it, as brows, rims and reflections of glasses do, counts for less.
    """
    under = color[:, lid.under].median(1, keepdim=True).values.clamp_min(0)
    around = color[:, lid.around]
    off = torch.log(around.clamp_min(0) + DARKEST) - torch.log(under + DARKEST)
    brightness = off.mean(-1, keepdim=True)
    hue = (off - brightness).square().sum(-1, keepdim=True)
    alike = torch.exp(-0.5 * ((brightness / ALIKE[0]) ** 2 + hue / ALIKE[1] ** 2))
    total = lid.influence @ torch.cat([alike * around, alike], -1)
    skin = (total[..., :3] + TRUST * under) / (total[..., 3:] + TRUST)
    dark = color[:, lid.edge].mean(-1).quantile(0.25, 1, keepdim=True)  # lashes: the row also shows white of the eye
    return skin, (dark / under.mean(-1).clamp_min(DARKEST)).clamp(*LASH_TONE)
