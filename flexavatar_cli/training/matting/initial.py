"""An exported net's weights back in the network, to go on training from them."""

import functools
import itertools
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from flexavatar_cli.core.errors import InputError
from flexavatar_cli.training.matting.crops import crops, edge_corners, heard_guide
from flexavatar_cli.training.matting.network import SEMANTICS, MattingNetwork, Residual, enlarged

CROP, CROPS = 128, 6  # of each picture, that the detail branch's statistics are taken from


def start_from(
    network: MattingNetwork,
    path: Path,
    image: Tensor,  # [B, 3, S, S] in -1..1
    truth: Tensor,  # [B, 5, S, S] alpha, known, band, contrast, guide
    semantics: Path | None = None,
) -> None:
    """Load a file of `export` into the network, which then says what the file says. Raises InputError.

    The semantic branch comes from the file `semantics`, if there is one: both branches can be trained side by side.

    Export folds batch norms into the convolutions before them. They come back with the statistics of some pictures,
    so that training finds what it knows. Residual blocks that the file lacks stay what they are at first, nothing.
    """
    layers = {name: module for name, module in network.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    stored = layer_weights(path)
    if semantics is not None:
        stored |= {name: pair for name, pair in layer_weights(semantics).items() if name.split(".")[0] in SEMANTICS}
    blocks = {f"{name}." for name, module in network.named_modules() if isinstance(module, Residual)}
    missing = [name for name in layers.keys() - stored.keys() if not name.startswith(tuple(blocks))]
    if stored.keys() - layers.keys() or missing:
        raise InputError(f"{path}: {len(stored)} layers that are not those of the matting net")
    norms = norms_after(network)
    biases = {}
    with torch.no_grad():
        for name, (weight, bias) in stored.items():
            layer = layers[name]
            if weight.shape != layer.weight.shape:
                raise InputError(f"{path}: a layer of {list(weight.shape)} where {list(layer.weight.shape)} is due")
            layer.weight.copy_(weight)
            norm = norms.get(layer)
            if norm is not None:
                neutral(norm, bias)
                biases[norm] = bias
            elif layer.bias is not None:
                layer.bias.copy_(bias)
        measured = statistics(network, list(biases), image, truth)
        for norm, (mean, variance) in measured.items():
            norm.running_mean.copy_(mean)  # type: ignore[union-attr]
            norm.running_var.copy_(variance)  # type: ignore[union-attr]
            norm.weight.copy_((variance + norm.eps).sqrt())
            norm.bias.copy_(biases[norm] + mean)


def layer_weights(path: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Weight and bias of each convolution and linear layer of a file by its name in the network. Raises InputError."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        graph = onnx.load(str(path)).graph
    except (OSError, DecodeError) as error:
        raise InputError(f"{path}: not an ONNX file that can be read") from error
    known = {entry.name: torch.from_numpy(np.array(onnx.numpy_helper.to_array(entry))) for entry in graph.initializer}
    for node in graph.node:  # equal weights, such as the zeros of blocks that nothing has trained, are stored once
        if node.op_type == "Identity" and node.input[0] in known:
            known[node.output[0]] = known[node.input[0]]
    pairs = {module_of(node.name): node.input[1:3] for node in graph.node if node.op_type in ("Conv", "Gemm")}
    if not all(len(pair) == 2 and pair[0] in known and pair[1] in known for pair in pairs.values()):
        raise InputError(f"{path}: not a file of `export`")
    return {name: (known[weight], known[bias]) for name, (weight, bias) in pairs.items()}


def module_of(node: str) -> str:
    """The module that an exported node is of: "/eighth/eighth.1/first/first.0/Conv" is "eighth.1.first.0"."""
    scopes = node.strip("/").split("/")[:-1]
    inner = [scope for scope, after in zip(scopes, [*scopes[1:], ""]) if not after.startswith(f"{scope}.")]
    return ".".join(inner)


def norms_after(network: nn.Module) -> dict[nn.Module, nn.BatchNorm2d]:
    """The batch norm that follows a convolution, by the convolution."""
    found: dict[nn.Module, nn.BatchNorm2d] = {}
    for chain in network.modules():
        if isinstance(chain, nn.Sequential):
            parts = list(chain)
            found |= {one: two for one, two in itertools.pairwise(parts) if isinstance(two, nn.BatchNorm2d)}
    return found


def neutral(norm: nn.BatchNorm2d, bias: Tensor) -> None:
    """Make a batch norm in evaluation add `bias` and do nothing else."""
    norm.running_mean.zero_()  # type: ignore[union-attr]
    norm.running_var.fill_(1 - norm.eps)  # type: ignore[union-attr]
    norm.weight.fill_(1)
    norm.bias.copy_(bias)


def statistics(
    network: MattingNetwork, norms: list[nn.BatchNorm2d], image: Tensor, truth: Tensor
) -> dict[nn.BatchNorm2d, tuple[Tensor, Tensor]]:
    """Mean and variance of what each norm is given, the network in evaluation.

    The semantic branch sees the pictures, the detail branch their edges, as in training.
    """
    found: dict[nn.BatchNorm2d, tuple[Tensor, Tensor]] = {}

    def look(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        found[norm] = inputs[0].mean((0, 2, 3)), inputs[0].var((0, 2, 3))

    hooks = [norm.register_forward_pre_hook(look) for norm in norms]
    training = network.training
    network.eval()
    guide = heard_guide(truth, 4)
    meaning = enlarged(network.meaning(image, guide)[1], guide)
    cut = functools.partial(crops, corners=edge_corners(truth[:, 2], CROP, CROPS), side=CROP)
    network.refined(cut(image), cut(meaning, stride=4), cut(guide, stride=4))
    network.train(training)
    for hook in hooks:
        hook.remove()
    return found
