"""LPIPS read from an ONNX file."""

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from flexavatar_cli.core.errors import InputError
from flexavatar_cli.training.perception import PerceptualDistance


def test_it_agrees_with_the_file_run_as_it_is(shared_dir):
    import onnxruntime

    path = shared_dir / "models" / "lpips_squeeze_v0.1.onnx"
    if not path.is_file():
        pytest.skip("lpips_squeeze_v0.1.onnx")
    one, other = torch.rand(2, 2, 3, 64, 80, generator=torch.Generator().manual_seed(0)).unbind(0)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    expected = session.run(None, {"in0": one.numpy() * 2 - 1, "in1": other.numpy() * 2 - 1})[0].reshape(-1)
    distance = PerceptualDistance(path)
    np.testing.assert_allclose(distance(one, other).numpy(), expected, rtol=1e-3)
    one.requires_grad_(True)
    distance(one, other).sum().backward()
    assert one.grad is not None
    assert one.grad.abs().max() > 0


def test_another_file_is_named(tmp_path):
    other = tmp_path / "other.onnx"
    weight = numpy_helper.from_array(np.zeros((4, 3), np.float32), "some.weight")
    onnx.save(helper.make_model(helper.make_graph([], "other", [], [], [weight])), str(other))
    text = tmp_path / "text.onnx"
    text.write_text("not a network")
    for path, message in (
        (other, "SqueezeNet"),
        (text, "not an ONNX file"),
        (tmp_path / "none.onnx", "cannot be read"),
    ):
        with pytest.raises(InputError, match=message):
            PerceptualDistance(path)
