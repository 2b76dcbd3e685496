"""Texel grids and the surface at texels."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flexavatar_cli.core.expression import EXPRESSION_NAMES, INDEX
from flexavatar_cli.heads import HeadModel, deformation, frames, load_head, surface, texel_steps, vertex_normals
from flexavatar_cli.heads.texels import stagger

RESOLUTION = 64


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return load_head()


def posed(head: HeadModel, batch: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    code = torch.zeros(batch, len(EXPRESSION_NAMES))
    code[:, INDEX["jawOpen"]] = torch.linspace(0.2, 0.8, batch)
    code[:, INDEX["gazeLeftYaw"]] = 0.2
    return head.vertices(torch.randn(batch, len(head.identity_basis), generator=generator), code)


@pytest.mark.parametrize("resolution", [32, 64, 256])
def test_texels_are_consistent(head: HeadModel, resolution: int) -> None:
    grid = head.texels(resolution)
    assert grid is head.texels(resolution)
    assert grid.valid.shape == (resolution, resolution)
    assert torch.equal(grid.valid.flatten().nonzero()[:, 0], grid.index)
    assert grid.valid.float().mean() > 0.7
    torch.testing.assert_close(grid.bary.sum(-1), torch.ones(len(grid)), atol=1e-6, rtol=0)
    assert (grid.bary >= 0).all()
    assert torch.equal(head.face_part[grid.face], grid.part)
    assert torch.equal(head.faces[grid.face], grid.corners)
    centre = torch.stack([grid.index % resolution, grid.index // resolution], -1) + 0.5
    uv = (head.uv[head.faces_uv[grid.face]] * grid.bary[..., None]).sum(1) * resolution
    fifths = torch.round((uv - centre)[:, 1] * 5)  # of a row: where texels are tall they are staggered
    assert ((fifths == 0) | (fifths == torch.from_numpy(stagger(grid.index.numpy() % resolution)))).all()
    centre[:, 1] += fifths / 5
    torch.testing.assert_close(uv, centre, atol=2e-4 * resolution, rtol=0)


def test_face_has_most_texels_and_every_part_some(head: HeadModel) -> None:
    grid = head.texels(256)
    share = torch.bincount(grid.part, minlength=len(head.part_names)) / len(grid)
    assert share[head.part_names.index("face")] > 0.45
    assert 0.15 < share[head.part_names.index("scalp")] < 0.25
    assert (share > 0.003).all()


def test_mirror_is_an_involution(head: HeadModel) -> None:
    grid = head.texels(RESOLUTION)
    points = surface(grid, head.template)
    there = points[grid.mirror] * torch.tensor([-1, 1, 1])
    back = points[grid.mirror[grid.mirror]]
    step = sum(along.norm(dim=-1) for along in texel_steps(head, grid, head.template))
    assert isinstance(step, torch.Tensor)
    assert ((points - there).norm(dim=-1) < step.clamp_min(0.002)).float().mean() > 0.98
    assert ((points - back).norm(dim=-1) < step.clamp_min(0.002)).float().mean() > 0.98
    left, right = head.part_names.index("eyeball_left"), head.part_names.index("eyeball_right")
    assert (grid.part[grid.mirror[grid.part == left]] == right).all()


def test_pictures_and_texels_round_trip(head: HeadModel) -> None:
    grid = head.texels(RESOLUTION)
    values = torch.rand(3, len(grid), 5)
    picture = grid.scatter(values, fill=-1)
    assert picture.shape == (3, RESOLUTION, RESOLUTION, 5)
    assert torch.equal(grid.gather(picture), values)
    assert (picture[:, ~grid.valid] == -1).all()


def test_surface_interpolates(head: HeadModel) -> None:
    grid, vertices = head.texels(RESOLUTION), posed(head)
    points = surface(grid, vertices)
    expected = (vertices[:, grid.corners] * grid.bary[..., None]).sum(-2)
    torch.testing.assert_close(points, expected, atol=1e-6, rtol=0)
    assert torch.isfinite(points).all()


def test_frames_are_orthonormal_and_point_outward(head: HeadModel) -> None:
    grid = head.texels(RESOLUTION)
    frame = frames(head, grid, posed(head))
    matrix = frame.matrix()
    torch.testing.assert_close(matrix.mT @ matrix, torch.eye(3).expand_as(matrix), atol=1e-4, rtol=0)
    torch.testing.assert_close(torch.linalg.det(matrix), torch.ones(matrix.shape[:-2]), atol=1e-4, rtol=0)
    scalp = grid.part == head.part_names.index("scalp")
    rest = surface(grid, head.template)[scalp]
    outward = rest - torch.tensor([0.0, 0.04, 0.0])
    assert ((frames(head, grid, head.template).normal[scalp] * outward).sum(-1) > 0).all()


def test_smoothing_keeps_normals_of_a_smooth_place(head: HeadModel) -> None:
    raw, smooth = vertex_normals(head, head.template, 0), vertex_normals(head, head.template)
    crown = head.template[:, 1] > 0.12
    assert ((raw * smooth).sum(-1)[crown] > 0.98).all()


def test_a_rigid_turn_is_found_and_nothing_stretches(head: HeadModel) -> None:
    grid, neutral = head.texels(RESOLUTION), head.template
    angle = torch.tensor(0.7)
    turn = torch.tensor([[angle.cos(), 0, angle.sin()], [0, 1, 0], [-angle.sin(), 0, angle.cos()]])
    motion = deformation(head, grid, neutral, neutral @ turn.T)
    torch.testing.assert_close(motion.rotation, turn.expand_as(motion.rotation), atol=2e-3, rtol=0)
    torch.testing.assert_close(motion.stretch, torch.ones_like(motion.stretch), atol=2e-3, rtol=0)


def test_stretch_of_a_scaled_head(head: HeadModel) -> None:
    grid = head.texels(RESOLUTION)
    motion = deformation(head, grid, head.template, head.template * 1.5)
    torch.testing.assert_close(motion.stretch, torch.full_like(motion.stretch, 1.5), atol=3e-3, rtol=0)


def test_rotations_of_a_posed_head_are_rotations(head: HeadModel) -> None:
    grid, vertices = head.texels(RESOLUTION), posed(head)
    rotation = deformation(head, grid, head.template, vertices).rotation
    torch.testing.assert_close(rotation.mT @ rotation, torch.eye(3).expand_as(rotation), atol=1e-4, rtol=0)
    assert rotation.shape == (2, len(grid), 3, 3)


def test_gradients_reach_the_vertices(head: HeadModel) -> None:
    grid = head.texels(32)
    vertices = posed(head).requires_grad_()
    motion = deformation(head, grid, head.template, vertices)
    frame = frames(head, grid, vertices)
    loss = surface(grid, vertices).sum() + motion.rotation[..., 0, 1].sum() + motion.stretch.sum()
    (loss + frame.normal[..., 0].sum() + frame.tangent[..., 1].sum()).backward()
    assert vertices.grad is not None
    assert torch.isfinite(vertices.grad).all()
    assert (vertices.grad != 0).any()


def test_texel_steps_are_differences_of_positions(head: HeadModel) -> None:
    """Where right and lower neighbours lie in the same triangle, the steps are exact."""
    grid = head.texels(256)
    points = surface(grid, head.template)
    along_u, _ = texel_steps(head, grid, head.template)
    uv = (head.uv[head.faces_uv[grid.face]] * grid.bary[..., None]).sum(1) * 256
    level = (uv[1:, 1] - uv[:-1, 1]).abs() < 0.02  # not so where texels are staggered
    level &= grid.index[1:] == grid.index[:-1] + 1
    neighbour = level & (grid.face[1:] == grid.face[:-1])
    assert neighbour.sum() > 10_000
    difference = (points[1:] - points[:-1])[neighbour]
    torch.testing.assert_close(difference, along_u[:-1][neighbour], atol=2e-5, rtol=0)


def test_tall_texels_cover_the_neck_evenly(head: HeadModel) -> None:
    """The throat has texels 0.7 mm wide and 9 mm high: staggered, none is far from the next, to the side or below."""
    grid = head.texels(256)
    places = surface(grid, head.template)
    throat = (grid.part == head.part_names.index("neck")) & (places[:, 1] < -0.08) & (places[:, 2] > 0.02)
    steps = places[grid.neighbours] - places
    length = steps.norm(dim=-1)[:, throat]
    assert length.median() < 0.003
    assert length.quantile(0.95) < 0.005
    across, down = steps[1, throat], steps[3, throat]
    corner = (across * down).sum(-1) / (across.norm(dim=-1) * down.norm(dim=-1)).clamp_min(1e-9)
    assert corner.abs().median() < 0.6  # of two steps that could not be told apart it would be 1


def test_neighbours_are_mutual(head: HeadModel) -> None:
    grid = head.texels(256)
    left, right, above, below = grid.neighbours
    own = torch.arange(len(grid))
    for there, back in ((left, right), (right, left), (above, below), (below, above)):
        inner = there != own
        assert (back[there[inner]] == own[inner]).float().mean() > 0.99


@given(columns=st.integers(0, 10_000))
def test_the_stagger_repeats_and_is_balanced(columns: int) -> None:
    shifts = stagger(np.arange(columns, columns + 5))
    assert sorted(shifts) == [-2, -1, 0, 1, 2]
    assert stagger(np.array(columns + 5)) == shifts[0]
