"""How processes share a training run: a copy of the network in each (DDP), or a piece of it (FSDP2)."""

import warnings
from typing import Any

import torch
from lightning_fabric.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def make_strategy(kind: str, world: int) -> Strategy | str:
    """Fabric's strategy for `world` processes; alone there is nothing to share."""
    if world == 1:
        return "auto"
    if kind == "fsdp":
        return ModelParallelStrategy(sharded, data_parallel_size=world, tensor_parallel_size=1)
    # the decoder's uv_condition has no gradients, as it is not used
    return DDPStrategy(find_unused_parameters=True)


def sharded(module: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """The module with its parameters split over the processes, gathered block by block as they are needed."""
    # its warning of changes in place to a block's output: the network makes none
    warnings.filterwarnings("ignore", "FSDP2-wrapped module")
    for inner in [child for child in module.modules() if isinstance(child, nn.ModuleList)]:
        if any(list(block.children()) for block in inner):  # a list of single layers is not worth a message each
            for block in inner:
                fully_shard(block, mesh=mesh["data_parallel"])
    fully_shard(module, mesh=mesh["data_parallel"])
    return module


def whole(value: Any) -> Any:
    """The same nested value with complete tensors in place of this process's pieces. All processes must call it."""
    if isinstance(value, dict):
        return {key: whole(inner) for key, inner in value.items()}
    return value.full_tensor() if isinstance(value, DTensor) else value


def split_like(value: Tensor, pattern: Tensor) -> Tensor:
    """This process's piece of a complete tensor, where `pattern` is one; else the tensor itself, on its device."""
    if not isinstance(pattern, DTensor):
        return value.to(pattern.device)
    return distribute_tensor(value.to(pattern.device), pattern.device_mesh, pattern.placements)


def load_weights(module: nn.Module, state: dict[str, Tensor]) -> None:
    """Fill a module, split or not, from complete tensors. Raises KeyError or RuntimeError if they are not its own."""
    patterns = module.state_dict()
    module.load_state_dict({name: split_like(value, patterns[name]) for name, value in state.items()})


def load_optimiser(optimiser: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Fill an optimiser, whose parameters may be split, from complete tensors."""
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    moments = {
        row: {
            name: split_like(value, parameters[row]) if value.shape == parameters[row].shape else value
            for name, value in entries.items()
        }
        for row, entries in state["state"].items()
    }
    optimiser.load_state_dict({"state": moments, "param_groups": state["param_groups"]})
