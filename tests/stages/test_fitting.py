"""Fitting: it converges, leaves hidden tokens alone, and survives being killed."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from flexavatar_cli.core.attributes import TexelAttributes
from flexavatar_cli.core.avatar import Avatar
from flexavatar_cli.core.camera import Camera, look_at
from flexavatar_cli.core.errors import InputError
from flexavatar_cli.core.options import FitOptions
from flexavatar_cli.core.track import Track
from flexavatar_cli.heads.surface import surface
from flexavatar_cli.media.video import write_video
from flexavatar_cli.render import render
from flexavatar_cli.stages import animation
from flexavatar_cli.stages.encoding import best_frame
from flexavatar_cli.stages.fitting import LONGEST_GRADIENT, RiggedObjective, SharedAdam, fit, fitted_frames
from flexavatar_cli.stages.hull import about_ears
from flexavatar_cli.stages.observation import Observation
from flexavatar_cli.stages.optimisation import Optimisation
from flexavatar_cli.stages.shots import Shot
from flexavatar_cli.stages.uv_completion import DISPLACEMENT_UNIT

SIZE = 96


@pytest.fixture(scope="module")
def instruments(tiny_instruments):
    return tiny_instruments


@pytest.fixture(scope="module")
def avatar(grey_avatar) -> Avatar:
    return grey_avatar


@pytest.fixture(scope="module")
def observation(avatar, instruments) -> Observation:
    """The avatar's own front view, tinted red."""
    focal = SIZE / 0.4
    camera = Camera(look_at(np.array([0, 0, 1.0]), np.zeros(3)), np.diag([focal, focal, 1.0]) + _centre(), SIZE, SIZE)
    expression = np.zeros(59, np.float32)
    head = animation.gaussians(avatar, instruments, expression)
    rgb, alpha = render(head, camera)
    red = rgb[0].clamp(0, 1).numpy() * np.array([1.0, 0.6, 0.6])
    image = red * alpha[0].numpy()[..., None] + 1 - alpha[0].numpy()[..., None]
    inside = np.full((SIZE, SIZE), 255, np.uint8)
    return Observation(
        (image.clip(0, 1) * 255).round().astype(np.uint8),
        (alpha[0].numpy().clip(0, 1) * 255).round().astype(np.uint8),
        inside,
        camera,
        avatar.identity,
        expression,
    )


def _centre() -> np.ndarray:
    matrix = np.zeros((3, 3))
    matrix[:2, 2] = SIZE / 2
    return matrix


def optimisation(avatar, observation, instruments, steps: int = 12, checkpoint=None) -> Optimisation:
    options = FitOptions(steps=steps, learning_rate=3e-2)
    return Optimisation(RiggedObjective(avatar, [observation], instruments, options), checkpoint)


def test_the_loss_falls_and_the_picture_turns_red(avatar, observation, instruments):
    work = optimisation(avatar, observation, instruments, 30)
    fitted = work.run()
    assert np.mean(work.trace[-3:]) < 0.8 * work.trace[0]
    before, after = (
        render(animation.gaussians(a, instruments, observation.expression), observation.camera)[0][0].numpy()
        for a in (avatar, fitted)
    )
    target = observation.image / 255
    assert np.abs(after - target).mean() < 0.8 * np.abs(before - target).mean()


def test_hidden_tokens_do_not_move(avatar, observation, instruments):
    work = optimisation(avatar, observation, instruments, 4)
    moved = np.abs(work.run().avatar_code - avatar.avatar_code).max(1) > 0
    gate = work.objective.moving[0, :, 0].numpy() > 0
    assert gate.any()
    assert not gate.all()
    assert not moved[~gate].any()
    assert moved[gate].any()


def test_near_neighbours_count_more(avatar, observation, instruments):
    objective = RiggedObjective(avatar, [observation], instruments, FitOptions(steps=1))
    torch.testing.assert_close(objective.nearness.sum(0), torch.ones_like(objective.nearness[0]))
    grid = instruments.head.texels(objective.model.resolution)
    neck = grid.part == instruments.head.part_names.index("neck")
    left, right, above, below = objective.nearness[:, neck, 0].mean(1)
    assert left + right > above + below  # its texels are higher than wide


def test_a_bare_ear_is_stiff_and_a_covered_one_is_not(avatar, observation, instruments):
    def stiffness(lift: float) -> torch.Tensor:
        code = torch.from_numpy(avatar.avatar_code)[None]
        size = objective.model.resolution
        maps = torch.zeros(1, 4, size, size)
        maps[:, 3] = lift / DISPLACEMENT_UNIT
        lifted = avatar.with_code(objective.model.corrected(code, maps)[0].numpy())
        return RiggedObjective(lifted, [observation], instruments, FitOptions(steps=1)).stiffness

    objective = RiggedObjective(avatar, [observation], instruments, FitOptions(steps=1))
    grid = instruments.head.texels(objective.model.resolution)
    place = surface(grid, instruments.head.template)
    ear = (grid.part == instruments.head.part_names.index("face")) & (place[:, 2] < 0.0)
    assert ear.sum() > 10
    assert stiffness(0.0)[ear].min() > 0.5
    assert stiffness(0.12)[ear].median() < 0.2


def test_bare_ears_are_held_most_and_even(avatar, observation, instruments):
    """The photo's ear is never quite the rig's; texels that reach for its outline one by one become a frill."""
    objective = RiggedObjective(avatar, [observation], instruments, FitOptions(steps=1))
    grid = instruments.head.texels(instruments.model.resolution)
    face = grid.part == instruments.head.part_names.index("face")
    ears = torch.from_numpy(about_ears(surface(grid, instruments.head.template).numpy())) & face
    assert ears.sum() > 20
    assert objective.stiffness[ears].min() > 5 * objective.stiffness[~ears].max()
    assert objective.even[ears].min() > 0.9
    attributes = objective.decode(objective.start, torch.from_numpy(observation.expression))
    offset = attributes.offset.clone().requires_grad_(True)
    moved = objective._gaussians(TexelAttributes(**(vars(attributes) | {"offset": offset})), 0).positions
    (gradient,) = torch.autograd.grad(moved.sum(), offset)
    assert gradient[0, ears].abs().max() < 0.1 * gradient[0, ~ears & (objective.anchor.reach[:, 0] > 0.5)].abs().min()
    assert objective.even[face & ~ears].max() == 0


def test_shoulders_hold_in_a_fit_to_one_picture(avatar, observation, instruments):
    bust = instruments.head.texels(instruments.model.resolution).part == instruments.head.part_names.index("bust")

    def stiffness(pictures: int) -> torch.Tensor:
        return RiggedObjective(avatar, [observation] * pictures, instruments, FitOptions(steps=1)).stiffness[bust]

    assert stiffness(1).min() > 3
    assert stiffness(10).max() < 1.5


def test_hair_seen_aslant_may_darken_and_not_turn_green(avatar, observation, instruments):
    objective = RiggedObjective(avatar, [observation], instruments, FitOptions(steps=1))
    start = objective.decode(objective.start, torch.from_numpy(observation.expression))

    def price(tint: tuple[float, float, float]) -> float:
        tinted = replace(start, color=start.color + torch.tensor(tint))
        costs = []
        for share in (0.0, 1.0):
            objective.aslant = torch.full_like(objective.aslant, share)
            costs.append(float(objective._keep(tinted, start)))
        return costs[1] - costs[0]

    assert price((-0.1, -0.1, -0.1)) == pytest.approx(0, abs=1e-6)
    assert price((0.0, 0.1, 0.0)) > 0.05


def test_what_pulls_at_a_neck_pulls_at_its_neighbours_too(avatar, observation, instruments):
    objective = RiggedObjective(avatar, [observation], instruments, FitOptions(steps=1))
    grid = instruments.head.texels(instruments.model.resolution)
    neck, scalp = (
        torch.nonzero((grid.part == instruments.head.part_names.index(name)) & (objective.hidden == 0))[:, 0]
        for name in ("neck", "scalp")
    )
    for texels, spread in ((neck, True), (scalp, False)):
        alone = texels[len(texels) // 2]
        pull = torch.zeros(1, len(grid), 3)
        pull[0, alone] = 1.0
        even = objective._evened(pull)[0]
        beside = grid.neighbours[:, alone]
        assert bool(even[alone, 0] < 0.5) is spread
        assert bool((even[beside[beside != alone], 0] > 0.01).any()) is spread
        assert not even[objective.hidden == 1].any()
    bust = grid.part == instruments.head.part_names.index("bust")
    torch.testing.assert_close(objective.spread[bust], ((1 - objective.grazing) * (1 - objective.hidden))[bust])


def test_colours_are_held_where_the_matte_has_nobody(avatar, observation, instruments):
    """The outline pulls at what lies outside the matte, and through the network at its colours."""
    alpha = observation.alpha.copy()
    alpha[:, : SIZE // 2] = 0
    objective, half = (
        RiggedObjective(avatar, [seen], instruments, FitOptions(steps=1))
        for seen in (observation, replace(observation, alpha=alpha))
    )
    torch.testing.assert_close(half.hidden, objective.hidden, atol=0.05, rtol=0)
    shown = objective.unpainted < 0.1
    place = surface(instruments.head.texels(instruments.model.resolution), instruments.head.template)
    left, right = shown & (place[:, 0] < -0.02), shown & (place[:, 0] > 0.02)
    assert min(left.sum(), right.sum()) > 20
    assert half.unpainted[left].min() > 0.9
    assert half.unpainted[right].max() < 0.2


def test_a_killed_fit_goes_on_to_the_same_result(avatar, observation, instruments, tmp_path, monkeypatch):
    monkeypatch.setattr("flexavatar_cli.stages.optimisation.CHECKPOINT_STEPS", 3)
    whole = optimisation(avatar, observation, instruments, 7).run()
    path = tmp_path / "fit.ckpt"

    def killed(done: int, _: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        optimisation(avatar, observation, instruments, 7, path).run(killed)
    resumed = optimisation(avatar, observation, instruments, 7, path)
    assert resumed.step == 3
    np.testing.assert_array_equal(resumed.run().avatar_code, whole.avatar_code)


def test_a_checkpoint_of_another_fit_is_not_used(avatar, observation, instruments, tmp_path, monkeypatch):
    monkeypatch.setattr("flexavatar_cli.stages.optimisation.CHECKPOINT_STEPS", 1)
    path = tmp_path / "fit.ckpt"
    optimisation(avatar, observation, instruments, 3, path).run()
    assert optimisation(avatar, observation, instruments, 4, path).step == 0
    assert optimisation(avatar, observation, instruments, 3, path).step == 2
    elsewhere = optimisation(avatar, observation, instruments, 3).objective
    elsewhere.made_with = elsewhere.made_with | {"backend": "gsplat"}
    assert Optimisation(elsewhere, path).step == 0
    monkeypatch.setattr("flexavatar_cli.stages.optimisation.program_digest", lambda: "of another version")
    assert optimisation(avatar, observation, instruments, 3, path).step == 0


def test_shared_adam_steps_by_visibility():
    """Of three tokens pulled alike one is so a hundred times less: it moves a hundred times less."""
    code = torch.zeros(1, 3, 3, requires_grad=True)
    pull = torch.tensor([1.0, 2, 3])
    SharedAdam(code).step(torch.stack([pull, pull, pull / 100])[None], 0.1)
    moved = code.detach()[0]
    torch.testing.assert_close(moved[0] / moved[2], torch.full((3,), 100.0))
    torch.testing.assert_close(moved[0, 0], moved[0, 2])  # dimensions are balanced


def test_no_token_outruns_the_others():
    """One token pulled a hundred times harder goes only a few times as far, in the same direction."""
    code = torch.zeros(1, 4, 3, requires_grad=True)
    pull = torch.tensor([1.0, 2, 3])
    SharedAdam(code).step(torch.stack([pull, pull, pull, 100 * pull])[None], 0.1)
    moved = code.detach()[0]
    torch.testing.assert_close(moved[3] / moved[0], torch.full((3,), LONGEST_GRADIENT))


def track_of(confidence: list[float], yaw: list[float]) -> Track:
    count = len(confidence)
    names = ("headYaw", "headPitch", "eyeBlinkLeft", "eyeBlinkRight", "jawOpen")
    code = np.zeros((count, 5), np.float32)
    code[:, 0] = yaw
    eye = np.tile(np.eye(4), (count, 1, 1))
    return Track(
        eye, eye[:, :3, :3], np.array([8, 8]), 25.0, code, names, np.zeros(2, np.float32),
        np.array(confidence, np.float32), np.zeros(count, np.float32), np.zeros((count, 478, 2), np.float32), "head",
    )  # fmt: skip


def test_the_most_frontal_confident_frame_is_encoded():
    assert best_frame(track_of([1, 1, 1], [0.5, 0.02, -0.4])) == 1
    assert best_frame(track_of([1, 0, 1], [0.5, 0.0, -0.4])) == 2


def test_frames_are_held_out_and_thinned():
    track = track_of([1, 1, 0, 1, 1, 1, 1, 1], [0.0] * 8)
    assert fitted_frames(track, FitOptions(hold_out=4)).tolist() == [0, 1, 4, 5, 6]
    assert len(fitted_frames(track, FitOptions(frames=3))) == 3


def test_something_must_be_left_to_fit(avatar, instruments, tmp_path):
    clip = write_video(tmp_path / "clip", [np.zeros((8, 8, 3), np.float32)] * 4, 25)
    track = track_of([0, 1, 0, 1], [0.0] * 4).save(tmp_path / "track.npz")
    shot = Shot(clip, clip, track)
    with pytest.raises(InputError, match="held out"):
        fit(avatar, [shot], instruments, FitOptions(hold_out=2))
