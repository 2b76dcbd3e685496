"""The averaged network as an ONNX file of MODNet's contract, with a guide that may be left out."""

import warnings
from pathlib import Path

import torch

from flexavatar_cli.core.files import replacing
from flexavatar_cli.training.matting.network import STRIDE, MattingNetwork

OPSET = 13


def export(network: MattingNetwork, path: Path) -> Path:
    """Write `input` [n, 3, h, w] RGB in -1..1 to `output` [n, 1, h, w] alpha in 0..1; sides are multiples of STRIDE.

    `guide` [1, 1, y, x], a segmentation's halved logits of any size, has a default of nothing: who knows MODNet's
    contract alone does not see it (ONNX: an initializer that is an input too may be overridden).
    """
    import onnx

    axes = {name: {0: "n", 2: "h", 3: "w"} for name in ("input", "output")} | {"guide": {2: "y", 3: "x"}}
    example = torch.zeros(1, 3, 4 * STRIDE, 5 * STRIDE), torch.zeros(1, 1, 7, 9)
    with replacing(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces another exporter, which wants another package
        torch.onnx.export(
            network.eval(),
            example,
            str(temporary),
            input_names=["input", "guide"],
            output_names=["output"],
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )
        model = onnx.load(str(temporary))
        nothing = onnx.helper.make_tensor("guide", onnx.TensorProto.FLOAT, [1, 1, 1, 1], [0.0])
        model.graph.initializer.append(nothing)
        onnx.checker.check_model(model)
        onnx.save(model, str(temporary))
    return path
