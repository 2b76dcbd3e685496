"""The averaged network as an ONNX file of MODNet's contract."""

import warnings
from pathlib import Path

import torch

from flexavatar_cli.core.files import replacing
from flexavatar_cli.training.matting.network import STRIDE, MattingNetwork

OPSET = 13


def export(network: MattingNetwork, path: Path) -> Path:
    """Write `input` [n, 3, h, w] RGB in -1..1 to `output` [n, 1, h, w] alpha in 0..1; sides are multiples of STRIDE."""
    axes = {name: {0: "n", 2: "h", 3: "w"} for name in ("input", "output")}
    example = torch.zeros(1, 3, 4 * STRIDE, 5 * STRIDE)
    with replacing(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces another exporter, which wants another package
        torch.onnx.export(
            network.eval(),
            (example,),
            str(temporary),
            input_names=["input"],
            output_names=["output"],
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )
    return path
