"""The shipped open head, and what any head model must obey."""

from dataclasses import replace

import pytest
import torch

from flexavatar_cli.core.errors import WeightsError
from flexavatar_cli.core.expression import ARKIT_NAMES, EXPRESSION_NAMES, GAZE_NAMES, HEAD_NAMES, INDEX
from flexavatar_cli.heads import HeadModel, load_head
from flexavatar_cli.heads.head_model import PART_NAMES


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return load_head()


def expression(**weights: float) -> torch.Tensor:
    code = torch.zeros(len(EXPRESSION_NAMES))
    for name, weight in weights.items():
        code[INDEX[name]] = weight
    return code


def random_identity(head: HeadModel, seed: int) -> torch.Tensor:
    return torch.randn(len(head.identity_basis), generator=torch.Generator().manual_seed(seed))


def points_of(head: HeadModel, vertices: torch.Tensor, part: str) -> torch.Tensor:
    faces = head.faces[head.face_part == PART_NAMES.index(part)]
    return vertices[faces.unique()]


def test_shapes_add_linearly(head: HeadModel) -> None:
    one, two = random_identity(head, 1), random_identity(head, 2)
    smile, jaw = expression(mouthSmileLeft=0.5), expression(jawOpen=0.7)
    moved = [head.vertices(one, smile), head.vertices(two, jaw), head.vertices(one + two, smile + jaw)]
    both = moved[0] + moved[1] - head.template
    torch.testing.assert_close(moved[2], both, atol=2e-6, rtol=0)


def test_leading_axes_broadcast(head: HeadModel) -> None:
    identity = torch.stack([random_identity(head, seed) for seed in range(2)])
    codes = torch.stack([expression(jawOpen=x, gazeLeftYaw=x) for x in (0.0, 0.5, 1.0)])
    grid = head.vertices(identity[:, None], codes[None])
    assert grid.shape == (2, 3, len(head), 3)
    torch.testing.assert_close(grid[1, 2], head.vertices(identity[1], codes[2]), atol=1e-6, rtol=0)


def test_missing_coefficients_are_zero(head: HeadModel) -> None:
    short = random_identity(head, 3)[:5]
    full = torch.cat([short, torch.zeros(len(head.identity_basis) - 5)])
    torch.testing.assert_close(head.vertices(short, None), head.vertices(full, None), atol=1e-7, rtol=0)


@pytest.mark.parametrize("eye", [0, 1])
def test_an_eyeball_turns_about_its_own_centre(head: HeadModel, eye: int) -> None:
    identity = random_identity(head, 4)
    side = "Left Right".split()[eye]
    rest = head.vertices(identity, expression())
    turned = head.vertices(identity, expression(**{f"gaze{side}Yaw": 0.4, f"gaze{side}Pitch": -0.3}))
    centre = head.eye_centres(identity)[eye]
    own = head.eye_vertices[eye]
    distance = [(v[own] - centre).norm(dim=-1) for v in (rest, turned)]
    torch.testing.assert_close(distance[0], distance[1], atol=1e-6, rtol=0)
    assert (turned[own] - rest[own]).norm(dim=-1).max() > 0.003
    torch.testing.assert_close(turned[~own], rest[~own], atol=0, rtol=0)


def test_gaze_angles_have_the_stated_signs(head: HeadModel) -> None:
    front = head.eye_vertices[0] & (head.template[:, 2] > head.joints["eye_left"][2] + 0.015)
    before = head.template[front].mean(0)
    left = head.vertices(None, expression(gazeLeftYaw=0.3))[front].mean(0)
    up = head.vertices(None, expression(gazeLeftPitch=0.3))[front].mean(0)
    assert left[0] > before[0] + 0.002  # subject's left is +x
    assert up[1] > before[1] + 0.002


def test_head_angles_do_nothing(head: HeadModel) -> None:
    code = expression(**dict.fromkeys(HEAD_NAMES, 0.5))
    torch.testing.assert_close(head.vertices(None, code), head.template, atol=1e-7, rtol=0)


def test_every_expression_moves_something(head: HeadModel) -> None:
    reach = head.expression_basis.norm(dim=-1).amax(-1)
    still = [name for name, value in zip(ARKIT_NAMES, reach, strict=True) if value < 0.0005]
    assert not still
    assert reach.max() < 0.06


def test_vertices_are_differentiable(head: HeadModel) -> None:
    identity = random_identity(head, 5).requires_grad_()
    code = expression(jawOpen=0.3, gazeRightYaw=0.1).requires_grad_()
    head.vertices(identity, code).pow(2).sum().backward()
    assert identity.grad is not None
    assert code.grad is not None
    assert (identity.grad != 0).all()
    gaze = [INDEX[name] for name in GAZE_NAMES]
    assert (code.grad[gaze] != 0).all()
    assert torch.isfinite(code.grad).all()


def test_places_are_human(head: HeadModel) -> None:
    """Metres, face to +z, left = +x, origin between the ears, shoulders below."""
    low, high = head.template.amin(0), head.template.amax(0)
    assert 0.18 < high[0] < 0.25
    assert -0.25 < low[0] < -0.18
    assert -0.30 < low[1] < -0.25
    assert 0.13 < high[1] < 0.16
    assert head.joints["eye_left"][0] > 0.02
    face, scalp = points_of(head, head.template, "face"), points_of(head, head.template, "scalp")
    assert face[:, 2].mean() > scalp[:, 2].mean() + 0.05
    assert set(head.face_part.unique().tolist()) == set(range(len(PART_NAMES)))


def test_coefficients_are_about_normal(head: HeadModel) -> None:
    """A random head differs from the mean by millimetres, not centimetres, and no single shape dominates."""
    visible = torch.isin(head.face_part, torch.tensor([PART_NAMES.index("face"), PART_NAMES.index("scalp")]))
    skin = head.faces[visible].unique()
    basis = head.identity_basis[:, skin]
    distance = basis.pow(2).sum((0, 2)).mean().sqrt()
    assert 0.004 < distance < 0.012


def test_landmarks_lie_on_the_face_and_are_symmetric(head: HeadModel) -> None:
    points = head.landmarks(head.template)
    parts = head.face_part[head.landmark_face]
    skin = [PART_NAMES.index(name) for name in ("face", "scalp", "neck")]
    assert torch.isin(parts[:468], torch.tensor(skin)).all()
    # MediaPipe counts the subject's right iris first
    assert (parts[468:473] == PART_NAMES.index("eyeball_right")).all()
    assert (parts[473:] == PART_NAMES.index("eyeball_left")).all()
    torch.testing.assert_close(head.landmark_bary.sum(-1), torch.ones(478), atol=1e-5, rtol=0)
    assert head.landmark_used.sum() > 400
    outer = (points[33] - points[263]).norm()
    assert 0.08 < outer < 0.10
    for left, right in ((263, 33), (362, 133), (291, 61), (473, 468)):
        torch.testing.assert_close(points[left] * torch.tensor([-1, 1, 1]), points[right], atol=0.0015, rtol=0)
    nose, chin, forehead = points[1], points[152], points[10]
    assert nose[2] > max(chin[2], forehead[2])
    assert forehead[1] > nose[1] > chin[1]


def test_tongue_comes_out(head: HeadModel) -> None:
    rest, out = (points_of(head, head.vertices(None, expression(tongueOut=x)), "tongue") for x in (0.0, 1.0))
    assert out[:, 2].max() > rest[:, 2].max() + 0.015


def test_bad_shapes_are_named(head: HeadModel) -> None:
    with pytest.raises(WeightsError, match="identity_basis"):
        replace(head, identity_basis=head.identity_basis[:, :-1], cache={})
    with pytest.raises(WeightsError, match="template"):
        replace(head, template=head.template * float("nan"), cache={})
    with pytest.raises(WeightsError, match="faces"):
        replace(head, faces=head.faces + len(head), cache={})
