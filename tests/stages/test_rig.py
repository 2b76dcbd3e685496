"""Texel attributes on the posed head."""

import numpy as np
import pytest
import torch

from flexavatar_cli.core.attributes import TexelAttributes
from flexavatar_cli.core.expression import INDEX
from flexavatar_cli.core.gaussians import rotation_matrix
from flexavatar_cli.heads import load_head
from flexavatar_cli.heads.surface import surface
from flexavatar_cli.stages.rig import (
    FACE_REACH,
    INTERIOR_REACH,
    LONGEST_STEP,
    SEAM_WIDTH,
    SIZE_SHARE,
    STRETCHED_STEP,
    quaternion_product,
    rig_anchor,
    rigged_gaussians,
    settled,
    splat_frames,
)

RESOLUTION = 64


@pytest.fixture(scope="module")
def anchor():
    return rig_anchor(load_head(), RESOLUTION)


def plain(count: int, **changes: torch.Tensor) -> TexelAttributes:
    """Attributes that change nothing."""
    values = {
        "offset": torch.zeros(1, count, 3),
        "scale": torch.ones(1, count, 3),
        "rotation": torch.tensor([1.0, 0, 0, 0]).expand(1, count, 4),
        "opacity": torch.full((1, count), 0.99),
        "color": torch.full((1, count, 3), 0.5),
    }
    return TexelAttributes(**(values | changes))


def test_zero_offsets_lie_on_the_posed_head(anchor):
    head = anchor.head
    grid = head.texels(RESOLUTION)
    expression = torch.zeros(59)
    expression[INDEX["jawOpen"]] = 0.6
    identity = 0.5 * torch.ones(len(head.identity_basis))
    made = rigged_gaussians(anchor, plain(len(grid.index)), identity, expression)
    torch.testing.assert_close(made.positions, surface(grid, head.vertices(identity, expression)))


def test_offsets_are_limited_inside_the_mouth(anchor):
    head = anchor.head
    grid = head.texels(RESOLUTION)
    lifted = plain(len(grid.index), offset=torch.tensor([0.0, 0, 0.01]).expand(1, len(grid.index), 3))
    rest = torch.zeros(59)
    identity = torch.zeros(len(head.identity_basis))
    moved = rigged_gaussians(anchor, lifted, identity, rest).positions - surface(grid, head.template)
    teeth = grid.part == head.part_names.index("teeth")
    scalp = grid.part == head.part_names.index("scalp")
    torch.testing.assert_close(moved[scalp].norm(dim=-1).max(), torch.tensor(0.01), rtol=1e-3, atol=1e-6)
    nose = (surface(grid, head.template)[:, 2] > 0.1) & (grid.part == head.part_names.index("face"))
    torch.testing.assert_close(
        moved[nose].norm(dim=-1), torch.full((int(nose.sum()),), 0.01 * FACE_REACH), rtol=1e-3, atol=1e-7
    )
    torch.testing.assert_close(
        moved[teeth].norm(dim=-1), torch.full((int(teeth.sum()),), 0.01 * INTERIOR_REACH), rtol=1e-3, atol=1e-7
    )


def test_settling_keeps_a_constant_and_flattens_a_spike(anchor):
    count = len(anchor.head.texels(RESOLUTION).index)
    level = plain(count, offset=torch.full((1, count, 3), 0.01))
    torch.testing.assert_close(
        settled(anchor, level, torch.zeros(1, len(INDEX))).offset, level.offset, atol=1e-7, rtol=0
    )
    spike = torch.zeros(1, count, 3)
    spike[0, count // 2, 2] = 0.01
    flat = settled(anchor, plain(count, offset=spike), torch.zeros(1, len(INDEX))).offset
    assert 0 < flat[0, count // 2, 2] < 0.004
    torch.testing.assert_close(flat[..., :2], torch.zeros(1, count, 2))


def test_gradients_reach_every_attribute(anchor):
    count = len(anchor.head.texels(RESOLUTION).index)
    attributes = plain(count).map(lambda values: values.clone().requires_grad_(True))
    made = rigged_gaussians(attributes=attributes, anchor=anchor, identity=torch.zeros(8), expression=torch.zeros(59))
    sum((value**2).sum() for value in vars(made).values()).backward()
    for name, value in vars(attributes).items():
        assert value.grad is not None, name
        assert value.grad.abs().sum() > 0 or name == "rotation"


def test_a_flat_square_grid_gives_round_splats():
    side, step = 5, 0.002
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    positions = torch.stack([x * step, y * step, torch.zeros(side, side)], -1).reshape(-1, 3).float()
    number = torch.arange(side * side).reshape(side, side)
    left, right = number.roll(1, 1), number.roll(-1, 1)
    left[:, 0], right[:, -1] = number[:, 0], number[:, -1]
    above, below = number.roll(1, 0), number.roll(-1, 0)
    above[0], below[-1] = number[0], number[-1]
    neighbours = torch.stack([left, right, above, below]).reshape(4, -1)
    axes, sizes = splat_frames(positions, neighbours)
    torch.testing.assert_close(sizes[:, :2], torch.full((side * side, 2), SIZE_SHARE * step), rtol=1e-4, atol=1e-8)
    torch.testing.assert_close(axes[:, :, 2].abs(), torch.tensor([0.0, 0, 1]).expand(side * side, 3))
    torch.testing.assert_close(axes @ axes.mT, torch.eye(3).expand(side * side, 3, 3), atol=1e-5, rtol=0)


def test_steps_over_seams_are_clamped():
    positions = torch.tensor([[0.0, 0, 0], [1.0, 0, 0]])
    neighbours = torch.tensor([[0, 0], [1, 1], [0, 1], [0, 1]])
    _, sizes = splat_frames(positions, neighbours)
    assert sizes.max() <= SIZE_SHARE * LONGEST_STEP * 1.0001


def test_a_stretched_surface_keeps_closer_than_an_edge():
    """Five texels in a row: steps of 20 mm on both sides may be covered further than one beside a step of 1 mm."""
    x = torch.tensor([0.0, 0.001, 0.021, 0.041, 0.061])
    positions = torch.stack([x, torch.zeros(5), torch.zeros(5)], -1)
    number = torch.arange(5)
    neighbours = torch.stack([(number - 1).clamp_min(0), (number + 1).clamp_max(4), number, number])
    _, sizes = splat_frames(positions, neighbours)
    torch.testing.assert_close(sizes[1, 0].item(), SIZE_SHARE * LONGEST_STEP)
    torch.testing.assert_close(sizes[2:4, 0], torch.full((2,), SIZE_SHARE * STRETCHED_STEP))
    torch.testing.assert_close(sizes[4, 0].item(), SIZE_SHARE * LONGEST_STEP)


def test_offsets_are_smooth_over_the_seams_of_the_skin(anchor):
    """Behind the ears, where the chart of the face ends at that of the scalp, lifted hair left a slit."""
    head, grid = anchor.head, anchor.head.texels(RESOLUTION)
    face, scalp = (grid.part == head.part_names.index(name) for name in ("face", "scalp"))
    lift = torch.zeros(1, len(grid), 3)
    lift[0, scalp, 2] = 0.02
    smooth = settled(anchor, plain(len(grid), offset=lift), torch.zeros(1, len(INDEX))).offset[0, :, 2]
    place = surface(grid, head.template)
    apart = torch.cdist(place, place[scalp]).amin(1)
    behind = face & (place[:, 2] < 0.03) & (apart < 0.006)
    assert behind.sum() > 10
    assert smooth[behind].median() > 0.003
    beside = scalp & (torch.cdist(place, place[face]).amin(1) < 0.006) & (place[:, 1] > 0)
    assert beside.sum() > 10
    assert smooth[beside].min() > 0.0199  # hair that sank would open slits beside bare ears
    # lips and lids, which may part, end at their own part
    assert smooth[face & (apart > SEAM_WIDTH + 0.03)].abs().max() == 0


def test_quaternion_product_is_rotation_after_rotation():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 7, 4, generator=generator).unbind(0)
    both = rotation_matrix(quaternion_product(a, b))
    torch.testing.assert_close(both, rotation_matrix(a) @ rotation_matrix(b), atol=1e-5, rtol=1e-5)


def test_no_expression_tears_the_head(anchor):
    """No ARKit shape moves neighbouring skin texels apart by more than a few millimetres, lips and lids aside."""
    head = anchor.head
    grid = head.texels(RESOLUTION)
    skin = np.isin(np.array(head.part_names)[grid.part.numpy()], ("face", "scalp", "neck", "bust"))
    rest = surface(grid, head.template)
    apart = (rest[anchor.neighbours] - rest).norm(dim=-1)
    for number in range(52):
        expression = torch.zeros(59)
        expression[number] = 1
        posed = surface(grid, head.vertices(torch.zeros(1), expression))
        stretched = (posed[anchor.neighbours] - posed).norm(dim=-1) - apart
        share = (stretched[:, skin] > 0.012).float().mean()
        assert share < 0.002, f"shape {number}: {share:.4f} of the skin is torn"
