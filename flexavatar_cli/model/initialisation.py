"""Initial weights: seeded, with the skip path as a cosine transform and the rest of the outputs at zero."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from flexavatar_cli.model.attention import DepthwiseBlock, JointBlock
from flexavatar_cli.model.config import ModelConfig
from flexavatar_cli.model.decoder import Decoder
from flexavatar_cli.model.encoder import CausalBlock, Encoder, ResidualConv, detail_basis
from flexavatar_cli.model.upsampler import StyleConv, ToImage

OPACITY_GAIN = 64.0  # logits per code unit: fitting moves all code dimensions alike, and a logit has far to go


@torch.no_grad()
def initialise(model: nn.Module, generator: torch.Generator | None) -> None:
    """Fill every parameter of an AvatarModel in a fixed order.

    Weights keep the variance of their input, residual branches start small, and an untrained model with a skip path
    decodes its base maps: every layer that would add to them starts at zero.
    """
    for module in model.modules():
        _default(module, generator)
    for residual in _residual_outputs(model):
        residual.weight.mul_(0.5)
    encoder, decoder = model.encoder, model.decoder
    assert isinstance(encoder, Encoder)
    assert isinstance(decoder, Decoder)
    for layer in zero_layers(encoder, decoder):
        layer.weight.zero_()
        layer.bias.zero_()
    config = model.config
    assert isinstance(config, ModelConfig)
    if config.gaussians.anchor == "static":  # training-time start of the published heads (SPEC 8.2)
        heads = decoder.heads.layers
        _linear(heads["scale"]).bias.fill_(-5)
        _linear(heads["opacity"]).bias.fill_(math.log(0.1 / 0.9))
        _linear(heads["rotation"]).bias[0] = 1
    if config.detail and encoder.patch_code is not None and decoder.detail_code is not None:
        basis = detail_basis(config.detail, config.width)
        encoder.patch_code.weight.copy_(basis[:, : 4 * config.detail.patch**2])
        decoder.detail_code.weight.copy_(basis.T)
        opacity = 4 * config.detail.patch**2
        decoder.detail_code.weight[opacity:] *= OPACITY_GAIN
        encoder.patch_code.bias.zero_()
        decoder.detail_code.bias.zero_()


def zero_layers(encoder: Encoder, decoder: Decoder) -> list[nn.Linear]:
    """Layers that start at zero, so that an untrained model is its skip path."""
    layers = [encoder.to_code, decoder.condition, decoder.detail_tokens, *decoder.heads.layers.values()]
    return [layer for layer in layers if isinstance(layer, nn.Linear)]


@torch.no_grad()
def perturb_zeros(model: nn.Module, generator: torch.Generator | None, amount: float = 0.3) -> None:
    """Give the zero layers small random weights."""
    assert isinstance(model.encoder, Encoder)
    assert isinstance(model.decoder, Decoder)
    for layer in zero_layers(model.encoder, model.decoder):
        layer.weight.copy_(_normal(layer.weight, amount / math.sqrt(layer.in_features), generator))


def _linear(module: nn.Module) -> nn.Linear:
    assert isinstance(module, nn.Linear)
    return module


def _normal(like: Tensor, deviation: float, generator: torch.Generator | None) -> Tensor:
    return torch.randn(like.shape, generator=generator) * deviation


def _default(module: nn.Module, generator: torch.Generator | None) -> None:
    if isinstance(module, nn.Linear | nn.Conv2d):
        fan_in = module.weight[0].numel()
        module.weight.copy_(_normal(module.weight, 1 / math.sqrt(fan_in), generator))
        if module.bias is not None:
            module.bias.zero_()
    elif isinstance(module, nn.Embedding):
        module.weight.copy_(_normal(module.weight, 0.5, generator))
    elif isinstance(module, StyleConv | ToImage):
        module.weight.copy_(_normal(module.weight, 1, generator))
        module.bias.zero_()
        module.style.fill_(1)
    elif isinstance(module, nn.LayerNorm | nn.GroupNorm | nn.RMSNorm):
        module.weight.fill_(1)
        if isinstance(module, nn.LayerNorm | nn.GroupNorm):
            module.bias.zero_()


def _residual_outputs(model: nn.Module) -> Iterator[nn.Linear | nn.Conv2d]:
    """The last layer of every residual branch."""
    for module in model.modules():
        if isinstance(module, JointBlock):
            yield from (module.out_x, module.ff_x[2])  # type: ignore[misc]
            if not module.last:
                yield from (module.out_context, module.ff_context[2])  # type: ignore[misc]
        elif isinstance(module, DepthwiseBlock):
            yield from (module.conv, module.out, module.ff[2])  # type: ignore[misc]
        elif isinstance(module, CausalBlock):
            yield from (module.out, module.ff[2])  # type: ignore[misc]
        elif isinstance(module, ResidualConv):
            yield module.conv2
