"""Encoding and fitting on a device other than the CPU, on machines that have none.

What stands in for it are tensors with the values of CPU tensors, which claim to be on torch's `meta` device: to mix the
two raises as it would with CUDA, and so does `.numpy()`.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from flexavatar_cli.core.camera import Camera, look_at
from flexavatar_cli.core.gaussians import Gaussians
from flexavatar_cli.core.options import FitOptions
from flexavatar_cli.render import cpu_backend, gsplat_backend
from flexavatar_cli.stages.animation import puppet
from flexavatar_cli.stages.draft import Draft
from flexavatar_cli.stages.encoding import load_prior
from flexavatar_cli.stages.fitting import RiggedObjective
from flexavatar_cli.stages.instruments import Instruments
from flexavatar_cli.stages.observation import Observation

SIZE = 64
THERE = torch.device("meta")
MOVES = ("aten::_to_copy", "aten::copy_")
INDEXING = ("aten::index", "aten::index_put", "aten::index_put_")  # by indices on the CPU, if need be


class Distant(Tensor):
    """The tensor `here`, elsewhere."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> "Distant":
        strides = here.stride() if here.layout is torch.strided else None
        made = Tensor._make_wrapper_subclass(cls, here.shape, strides=strides, dtype=here.dtype, device=THERE)
        made.here = here
        return made

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(operation, args, kwargs or {})


def computed(operation: Any, args: Any, kwargs: Any) -> Any:
    """What `operation` returns, on the device it would be on. Raises RuntimeError if its arguments are on two."""
    name, asked = operation._schema.name, kwargs.get("device")
    tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
    distant = any(isinstance(value, Distant) for value in tensors)
    together = tree_leaves((args[0], *args[2:])) if name in INDEXING else tensors
    near = any(isinstance(value, Tensor) and not isinstance(value, Distant) and value.dim() for value in together)
    if distant and near and name not in MOVES:
        raise RuntimeError(f"{name}: tensors on two devices")
    if asked is not None:
        distant, kwargs = torch.device(asked) == THERE, {**kwargs, "device": "cpu"}
    elif name == "aten::copy_":
        distant = isinstance(args[0], Distant)
    here = tree_map_only(Distant, lambda value: value.here, (args, kwargs))
    result = operation(*here[0], **here[1])
    if not distant:
        return result
    if result is here[0][0]:  # changed in place
        return args[0]
    return tree_map_only(Tensor, Distant, result)


class Operations(TorchDispatchMode):
    """Also those that have no tensor among their arguments."""

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(operation, args, kwargs or {})


class Literals(TorchFunctionMode):
    """Tensors of numbers that Python holds, which torch would not fill on its `meta` device."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is Tensor.new_tensor and isinstance(args[0], Distant):
            return torch.tensor(args[1], dtype=args[0].dtype).to(THERE)
        if function in (torch.tensor, torch.as_tensor) and kwargs.get("device") == THERE:
            return function(*args, **(kwargs | {"device": "cpu"})).to(THERE)
        return function(*args, **kwargs)


def drawn(gaussians: Gaussians, camera: Camera, background: Tensor) -> tuple[Tensor, Tensor]:
    """What gsplat would draw there."""
    assert all(value.device == THERE for value in (*vars(gaussians).values(), background))
    rgb, alpha = cpu_backend.render(Gaussians(*(v.cpu() for v in vars(gaussians).values())), camera, background.cpu())
    return rgb.to(THERE), alpha.to(THERE)


@contextmanager
def elsewhere(instruments: Instruments) -> Iterator[Instruments]:
    """The instruments on the other device."""
    with Literals(), Operations():
        model = copy.deepcopy(instruments.model).to(THERE)
        yield replace(instruments, model=model, device=THERE, backend="gsplat")


@pytest.fixture(scope="module")
def seen(grey_avatar) -> Observation:
    focal = SIZE / 0.4
    matrix = np.array([[focal, 0, SIZE / 2], [0, focal, SIZE / 2], [0, 0, 1]])
    camera = Camera(look_at(np.array([0, 0, 1.0]), np.zeros(3)), matrix, SIZE, SIZE)
    full = np.full((SIZE, SIZE), 255, np.uint8)
    neutral = np.zeros(len(grey_avatar.expression_names), np.float32)
    return Observation(np.full((SIZE, SIZE, 3), 128, np.uint8), full, full, camera, grey_avatar.identity, neutral)


def test_a_stand_in_does_not_mix():
    with Literals(), Operations():
        there = torch.tensor([1.0, 2.0], device=THERE)
        with pytest.raises(RuntimeError, match="two devices"):
            there + torch.ones(2)
        with pytest.raises((RuntimeError, TypeError), match="numpy"):
            there.numpy()
        assert (2 * there + torch.ones(2).to(THERE)).cpu().tolist() == [3, 5]


def test_a_draft_is_made_where_its_tensors_are(tiny_instruments, seen, monkeypatch):
    monkeypatch.setattr(gsplat_backend, "render", drawn)
    monkeypatch.setattr("flexavatar_cli.stages.draft.PROJECTIONS", 1)
    codes = []
    for instruments in (tiny_instruments, None):
        with elsewhere(tiny_instruments) as there:
            draft = Draft(seen, load_prior(tiny_instruments), instruments or there, "3d")
            draft.read_colors()
            draft.back_project()
            draft.whiten_teeth()
            codes.append(draft.code.cpu().numpy())
    np.testing.assert_allclose(codes[0], codes[1], atol=1e-4)


def test_fitting_starts_on_the_same_loss(tiny_instruments, grey_avatar, seen, monkeypatch):
    monkeypatch.setattr(gsplat_backend, "render", drawn)
    options, generator = FitOptions(steps=1), np.random.default_rng
    here = RiggedObjective(grey_avatar, [seen], tiny_instruments, options)
    with elsewhere(tiny_instruments) as instruments:
        there = RiggedObjective(grey_avatar, [seen], instruments, options)
        assert there.nearness.device == there.hidden.device == there.stiffness.device == THERE
        assert there.advance(0, generator(0), 1.0) == pytest.approx(here.advance(0, generator(0), 1.0), rel=1e-3)
        assert torch.isfinite(there.code.detach().cpu()).all()
        figure = puppet(grey_avatar, instruments)
        assert figure.quick is None
        assert figure.anchor is there.anchor
        heads = figure.heads(there.decode(there.code, there.expression(0)), there.expression(0)[None])
        assert heads[0].positions.device == THERE
