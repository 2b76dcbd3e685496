"""What training minimises: differences in UV (DESIGN 4.3), and between renders and pictures (paper section 3.4)."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from flexavatar_cli.core.attributes import TexelAttributes
from flexavatar_cli.heads.surface import frames, surface
from flexavatar_cli.render import render
from flexavatar_cli.stages.similarity import own_colors, structural_dissimilarity
from flexavatar_cli.stages.uv_prior import UVPrior
from flexavatar_cli.training.batches import Batch
from flexavatar_cli.training.bench import Bench
from flexavatar_cli.training.targets import Target

SMALLEST_COVER = 0.05  # share of a picture that a head covers at least, for the mean over it
HEIGHT_UNIT = 0.05  # metres of displacement that weigh like a full step of colour
ROUNDED = 1e-3  # differences under which an absolute value turns into a square
AWAY = -0.1  # cosine of normal and view under which a texel faces away


def uv_terms(bench: Bench, batch: Batch, attributes: TexelAttributes) -> dict[str, Tensor]:
    """Named terms in texels, each a mean over samples, so that they add up over processes and parts of a batch.

    On a static surface, where the offset holds the whole person, only colours have a right answer.
    """
    weight = batch.weight / batch.weight.mean(1, keepdim=True).clamp_min(1e-6)
    tint = attributes.color - batch.target
    terms = {
        "color": (tint.abs().mean(-1) * weight).mean(),
        "edges": 0.5 * _gradients(bench.prior, tint * batch.weight[..., None], batch.weight > 0),
    }
    if bench.anchor is None:
        return terms
    lift = (attributes.offset[..., 2] - batch.height) / HEIGHT_UNIT
    return terms | {
        "height": 0.4 * (_length(lift) * batch.height_weight).mean(),
        # without it the picture terms carve the code's patches into outlines
        "relief": 2.0 * _gradients(bench.prior, lift[..., None], batch.height_weight > 0),
        "slide": 20.0 * attributes.offset[..., :2].abs().mean(),
        "opacity": 0.2 * (attributes.opacity - 0.99).abs().mean(),
        "size": 0.05 * (attributes.scale.log() ** 2).mean(),
        "turn": 0.05 * (attributes.rotation[..., 1:] ** 2).mean(),
    }


def _gradients(
    prior: UVPrior,
    error: Tensor,  # [B, N, C]
    known: Tensor,  # [B, N] bool
) -> Tensor:
    """Mean absolute difference of the error between neighbouring texels that are both known."""
    size = prior.resolution
    stacked = torch.cat([error, known[..., None].to(error)], -1)
    picture = stacked.new_zeros(len(stacked), size * size, stacked.shape[-1])
    picture[:, prior.index] = stacked
    picture = picture.reshape(len(stacked), size, size, -1)
    errors, known = picture[..., :-1], picture[..., -1:] > 0
    across = _length(errors[:, :, 1:] - errors[:, :, :-1]) * (known[:, :, 1:] & known[:, :, :-1])
    down = _length(errors[:, 1:] - errors[:, :-1]) * (known[:, 1:] & known[:, :-1])
    return (across.mean() + down.mean()) / 2


def _length(difference: Tensor) -> Tensor:
    """The absolute value, without a jump of its gradient at zero, which is where many texels start."""
    return (difference**2 + ROUNDED**2).sqrt() - ROUNDED


def picture_terms(
    bench: Bench,
    targets: tuple[Target, ...],  # B
    attributes: TexelAttributes,  # of B heads
    perceptual: Callable[[Tensor, Tensor], Tensor] | None = None,
    perceptual_weight: float = 0.15,
) -> dict[str, Tensor]:
    """Named terms in pixels, each a mean over heads: 0.8 L1 + 0.2 (1 - SSIM), outline, LPIPS."""
    sums: dict[str, Tensor] = {}
    for target, head in zip(targets, _each(attributes), strict=True):
        seen = _one_sided(bench, target, head) if target.one_sided else head
        posed = bench.gaussians(seen, target.identity, target.expression)
        rendered, cover = render(posed, target.camera, background=target.ground)
        wanted, weight = own_colors(target.picture, target.alpha, cover, target.ground)
        mask = target.inside[..., None] * weight
        share = mask.mean((1, 2, 3)).clamp_min(SMALLEST_COVER)  # [V]
        rendered, wanted = rendered * mask, wanted * mask
        structure = torch.stack([structural_dissimilarity(*pair) for pair in zip(rendered, wanted, strict=True)])
        terms = {
            "picture": 0.8 * ((rendered - wanted).abs().mean((1, 2, 3)) / share).mean(),
            "structure": 0.2 * (structure / share).mean(),
            "outline": (((cover - target.alpha).abs() * target.inside).mean((1, 2)) / share).mean(),
        }
        if perceptual is not None:
            pair = (picture.permute(0, 3, 1, 2).clamp(0, 1) for picture in (rendered, wanted))
            terms["perceptual"] = perceptual_weight * perceptual(*pair).mean()
        sums = {name: sums.get(name, 0) + value / len(targets) for name, value in terms.items()}
    return sums


def _each(attributes: TexelAttributes) -> Iterator[TexelAttributes]:
    for number in range(len(attributes)):
        yield attributes.map(lambda values, at=number: values[at : at + 1])  # type: ignore[misc]


def _one_sided(bench: Bench, target: Target, head: TexelAttributes) -> TexelAttributes:
    """The head without gradients to what faces away from the (one) camera."""
    with torch.no_grad():
        grid = bench.head.texels(bench.template.resolution)
        vertices = bench.head.vertices(target.identity, target.expression)
        normal = frames(bench.head, grid, vertices).normal
        eye = torch.from_numpy(target.camera.cam2world[0, :3, 3]).to(normal)
        view = torch.nn.functional.normalize(eye - surface(grid, vertices), dim=-1)
        facing = ((normal * view).sum(-1) > AWAY)[None]  # [1, N]

    def gated(values: Tensor) -> Tensor:
        kept = facing if values.ndim == 2 else facing[..., None]
        return torch.where(kept, values, values.detach())

    return head.map(gated)
