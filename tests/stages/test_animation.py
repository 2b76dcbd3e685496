"""An avatar moved and filmed."""

import dataclasses
import logging

import numpy as np
import pytest
import torch

from flexavatar_cli.core.errors import BackendError, InputError, UsageError, WeightsError
from flexavatar_cli.core.expression import INDEX
from flexavatar_cli.evaluation.quality import holes
from flexavatar_cli.render import gsplat_backend
from flexavatar_cli.stages import animation, instruments, motion, trajectories

SIZE = 96
real = animation.pictures


@pytest.fixture(scope="module")
def figure(tiny_instruments, grey_avatar):
    return animation.puppet(grey_avatar, tiny_instruments)


@pytest.fixture(scope="module")
def nod():
    """Five frames: neutral, mouth open, and back."""
    track = motion.demo_motion(1, SIZE)[np.arange(5)]
    track.expression_code[:] = 0
    track.expression_code[[1, 2], INDEX["jawOpen"]] = 0.5, 1.0
    return track


def frames_of(figure, track, **options):
    return list(animation.render_video(figure, track, trajectories.front(len(track), SIZE), **options))


def test_as_many_pictures_as_driver_frames(figure, nod):
    steps = []
    pictures = frames_of(figure, nod, on_step=lambda done, total: steps.append((done, total)))
    assert [picture.shape for picture in pictures] == [(SIZE, SIZE, 3)] * 5
    assert steps == [(n, 5) for n in range(1, 6)]
    assert (pictures[0] == pictures[4]).all()
    assert np.abs(pictures[2] - pictures[0]).max() > 0.1  # the chin went down


def test_a_held_camera_and_batches_change_nothing(figure, nod):
    one = list(animation.render_video(figure, nod, trajectories.front(1, SIZE)))
    alone = [next(animation.render_video(figure, nod[[n]], trajectories.front(1, SIZE))) for n in range(5)]
    for ours, theirs, single in zip(one, frames_of(figure, nod), alone, strict=True):
        assert (ours == theirs).all()
        assert np.abs(ours - single).max() < 1e-4


def test_heads_go_in_batches_that_a_launch_takes(figure, nod, monkeypatch):
    """Two batches, the second one smaller; poses in a batch are those of the readable rig one by one."""
    sizes = []
    monkeypatch.setattr(animation, "pictures", lambda heads, *rest: sizes.append(len(heads)) or real(heads, *rest))
    one, other = frames_of(figure, nod), frames_of(dataclasses.replace(figure, quick=None), nod)
    assert sizes == [animation.CHUNK, 1, animation.CHUNK, 1]
    for ours, theirs in zip(one, other, strict=True):
        assert np.abs(ours - theirs).mean() < 1e-3
    slow = dataclasses.replace(figure, quick=None)
    codes = torch.from_numpy(nod.expression_code)
    attributes = figure.attributes(codes)
    for at, head in enumerate(slow.heads(attributes, codes)):
        alone = slow.pose(attributes.map(lambda values, at=at: values[at : at + 1]), codes[at])
        for name, value in vars(alone).items():
            torch.testing.assert_close(getattr(head, name), value, atol=1e-6, rtol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="gpu: no CUDA device")
def test_a_gpu_films_what_a_cpu_films(tiny_model, figure, grey_avatar, nod):
    there = animation.puppet(grey_avatar, instruments.load_instruments(str(tiny_model), "cuda"))
    for ours, theirs in zip(frames_of(figure, nod), frames_of(there, nod), strict=True):
        assert np.abs(ours - theirs).mean() < 2e-3


def test_a_batch_is_waited_for_when_the_next_is_under_way():
    made = []

    def batches():
        for number in range(3):
            made.append(number)
            yield torch.full((2, 1, 1, 3), float(number))

    stream = animation.on_host(batches())
    assert next(stream)[0, 0, 0] == 0
    assert made == [0, 1]
    assert [float(picture[0, 0, 0]) for picture in stream] == [0, 1, 1, 2, 2]


def test_missing_faces_repeat_the_last_pose_and_are_named(figure, nod, caplog):
    broken = dataclasses.replace(nod, confidence=np.array([1, 1, 1, 0, 0], np.float32))
    with caplog.at_level(logging.WARNING):
        pictures = frames_of(figure, broken)
    assert (pictures[4] == pictures[2]).all()
    assert "3-4" in caplog.text
    with pytest.raises(InputError):
        frames_of(figure, dataclasses.replace(nod, confidence=np.zeros(5, np.float32)))


def test_transparent_pictures_composite_to_the_white_ones(figure, nod):
    clear, white = frames_of(figure, nod[[0]], background=None)[0], frames_of(figure, nod[[0]])[0]
    assert clear.shape == (SIZE, SIZE, 4)
    assert clear[..., :3] * clear[..., 3:] + 1 - clear[..., 3:] == pytest.approx(white, abs=1e-4)
    assert clear[0, 0, 3] == 0
    assert clear[SIZE // 2, SIZE // 2, 3] > 0.95


def test_the_grey_head_is_closed_from_all_sides(figure):
    head = next(figure.gaussians(figure.neutral[None]))
    camera = trajectories.orbit(6, SIZE, dwell=0)
    for view in range(6):
        alpha = animation.picture(head, camera[view], None, "cpu")[: int(0.7 * SIZE), :, 3]
        assert holes(alpha) < 0.005


def test_relative_motion_forgets_the_drivers_rest(figure, nod):
    offset = dataclasses.replace(nod, expression_code=nod.expression_code + np.float32(0.2))
    relative = frames_of(figure, offset, relative=True)
    for ours, theirs in zip(relative[:2], frames_of(figure, nod)[:2], strict=True):
        assert np.abs(ours - theirs).max() < 2e-3


def test_gaussians_of_one_expression(tiny_instruments, grey_avatar):
    head = animation.gaussians(grey_avatar, tiny_instruments)
    assert len(head) == len(tiny_instruments.model.texel_index)
    assert torch.isfinite(head.positions).all()


def test_other_weights_are_refused(tiny_instruments, grey_avatar):
    with pytest.raises(WeightsError):
        animation.puppet(dataclasses.replace(grey_avatar, model_digest="0" * 64), tiny_instruments)


@pytest.mark.parametrize("name", ["tpu", "cuda:x", "meta", "cuda:99"])
def test_devices_that_are_not_there(name):
    with pytest.raises(BackendError, match="--device"):
        instruments.pick_device(name)


def test_auto_is_the_gpu_only_if_pictures_can_be_drawn_there(monkeypatch, caplog):
    def missing() -> None:
        raise BackendError("gsplat is not here")

    assert torch.cuda.is_available() or instruments.pick_device("auto").type == "cpu"
    assert not caplog.text
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gsplat_backend, "require", lambda: None)
    assert instruments.pick_device("auto").type == "cuda"
    monkeypatch.setattr(gsplat_backend, "require", missing)
    assert instruments.pick_device("auto").type == "cpu"
    assert [record.getMessage() for record in caplog.records] == [
        "working on the CPU instead of the GPU: gsplat is not here"
    ]


def test_unknown_models_are_named(tmp_path):
    with pytest.raises(WeightsError, match="no such model"):
        instruments.model_folder("open-99")
    with pytest.raises(WeightsError, match=r"model\.yaml"):
        instruments.model_folder(str(tmp_path))


def test_backgrounds():
    assert animation.parse_background("transparent") is None
    assert animation.parse_background("#ff8000") == pytest.approx((1, 128 / 255, 0))
    for name in ("pink", "#12345", "#gggggg", ""):
        with pytest.raises(UsageError):
            animation.parse_background(name)
