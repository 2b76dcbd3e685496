"""LPIPS with the SqueezeNet 1.1 backbone (Zhang et al. 2018), differentiable, from the weights of an ONNX file."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from flexavatar_cli.core.errors import InputError

# layers by their number in the published network: a convolution, then fire modules with pooling before some
FIRES, POOLED, COMPARED = (3, 4, 6, 7, 9, 10, 11, 12), (3, 6, 9), (0, 4, 7, 9, 10, 11, 12)
TINY = 1e-10  # added to the length of a feature vector


class PerceptualDistance(nn.Module):
    """How different two pictures look: 0 for equal ones, about 0.1 for a good likeness. Its weights are frozen."""

    def __init__(self, path: Path) -> None:
        """Raises InputError if the file is not LPIPS with a SqueezeNet backbone."""
        super().__init__()
        weights = _initialisers(path)
        names = {name for fire in FIRES for part in ("squeeze", "expand1x1", "expand3x3")
                 for name in (f"{fire}.{part}.weight", f"{fire}.{part}.bias")}  # fmt: skip
        names |= {"0.weight", "0.bias", "sh", "sc"} | {f"lin{number}" for number in range(len(COMPARED))}
        if missing := sorted(names - set(weights)):
            raise InputError(f"{path}: not LPIPS with a SqueezeNet backbone ({missing[0]} is missing)")
        for name in names:
            self.register_buffer(name.replace(".", "_"), weights[name])

    def forward(self, pictures: Tensor, targets: Tensor) -> Tensor:  # [V, 3, H, W] in 0..1 each -> [V]
        """The distance of each pair."""
        total = pictures.new_zeros(len(pictures))
        for number, (mine, wanted) in enumerate(zip(self._features(pictures), self._features(targets), strict=True)):
            difference = (_unit(mine) - _unit(wanted)) ** 2
            total = total + (difference * self.get_buffer(f"lin{number}")).sum(1).mean((1, 2))
        return total

    def _features(self, pictures: Tensor) -> list[Tensor]:
        x = (pictures * 2 - 1 - self.get_buffer("sh")) / self.get_buffer("sc")
        x = functional.conv2d(x, *self._layer("0"), stride=2).relu()
        found = [x]
        for number in FIRES:
            if number in POOLED:
                x = functional.max_pool2d(x, 3, 2, ceil_mode=True)
            squeezed = functional.conv2d(x, *self._layer(f"{number}_squeeze")).relu()
            narrow = functional.conv2d(squeezed, *self._layer(f"{number}_expand1x1"))
            wide = functional.conv2d(squeezed, *self._layer(f"{number}_expand3x3"), padding=1)
            x = torch.cat([narrow, wide], 1).relu()
            if number in COMPARED:
                found.append(x)
        return found

    def _layer(self, name: str) -> tuple[Tensor, Tensor]:
        return self.get_buffer(f"{name}_weight"), self.get_buffer(f"{name}_bias")


def _unit(features: Tensor) -> Tensor:
    return features / ((features**2).sum(1, keepdim=True) + TINY).sqrt()


def _initialisers(path: Path) -> dict[str, Tensor]:
    import onnx
    from google.protobuf.message import DecodeError
    from onnx import numpy_helper

    try:
        graph = onnx.load(str(path)).graph
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except DecodeError as error:
        raise InputError(f"{path}: not an ONNX file") from error
    return {entry.name: torch.from_numpy(np.array(numpy_helper.to_array(entry))) for entry in graph.initializer}
