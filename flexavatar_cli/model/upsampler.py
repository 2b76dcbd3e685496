"""Tokens -> feature map at four (or more) times the token grid."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

LIMIT = 256.0  # activations of the style-based layers are clamped to +-256 (SPEC 7)


class ConvUpsampler(nn.Module):
    """Per stage: bilinear x2, one 3x3 convolution, LeakyReLU."""

    def __init__(self, width: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.channels = widths[-1]
        before = [width, *widths[:-1]]
        self.stages = nn.ModuleList(nn.Conv2d(i, o, 3, padding=1) for i, o in zip(before, widths, strict=True))

    def forward(self, h: Tensor) -> Tensor:
        """[B, D, g, g] -> [B, widths[-1], g * 2^stages, ...]."""
        for stage in self.stages:
            h = functional.interpolate(h, scale_factor=2, mode="bilinear", align_corners=False)
            h = functional.leaky_relu(stage(h), 0.2)
        return h


def fir(device: torch.device | None = None) -> Tensor:
    """[4, 4]: the low-pass filter (1, 3, 3, 1) x (1, 3, 3, 1) / 64 (SPEC 7)."""
    line = torch.tensor([1.0, 3.0, 3.0, 1.0], device=device)
    return torch.outer(line, line) / 64


class StyleConv(nn.Module):
    """3x3 convolution of demodulated weights under a constant style, LeakyReLU, clamp (SPEC 7)."""

    def __init__(self, inputs: int, outputs: int, up: bool) -> None:
        super().__init__()
        self.up = up
        self.weight = nn.Parameter(torch.empty(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.empty(outputs))
        self.style = nn.Parameter(torch.empty(inputs))

    def forward(self, f: Tensor) -> Tensor:
        """[B, I, H, W] -> [B, O, H, W], or twice the size."""
        weight = self.weight * self.style[:, None, None]
        weight = weight * torch.rsqrt(weight.square().sum((1, 2, 3), keepdim=True) + 1e-8)
        if self.up:
            # Zero insertion, FIR and true convolution, reordered: a strided transposed convolution comes first.
            f = functional.conv_transpose2d(f, weight.transpose(0, 1), stride=2)
            kernel = (4 * fir(f.device)).expand(f.shape[1], 1, 4, 4)
            f = functional.conv2d(f, kernel, padding=1, groups=f.shape[1])
        else:
            f = functional.conv2d(f, weight, padding=1)
        f = functional.leaky_relu(f + self.bias[:, None, None], 0.2) * math.sqrt(2)
        return f.clamp(-LIMIT, LIMIT)


class ToImage(nn.Module):
    """1x1 convolution under a constant style, without demodulation (SPEC 7)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, 1, 1))
        self.bias = nn.Parameter(torch.empty(outputs))
        self.style = nn.Parameter(torch.empty(inputs))

    def forward(self, f: Tensor) -> Tensor:
        """[B, I, H, W] -> [B, O, H, W]."""
        weight = self.weight * (self.style / math.sqrt(len(self.style)))[:, None, None]
        return functional.conv2d(f, weight, self.bias).clamp(-LIMIT, LIMIT)


class StyleBlock(nn.Module):
    """Features up by two; the image up by depth-to-space plus a projection of the features (SPEC 7)."""

    def __init__(self, inputs: int, outputs: int, image_inputs: int) -> None:
        super().__init__()
        self.conv0 = StyleConv(inputs, outputs, up=True)
        self.conv1 = StyleConv(outputs, outputs, up=False)
        self.to_image = ToImage(outputs, image_inputs // 4)

    def forward(self, f: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """f [B, I, H, W], image [B, C, H, W] -> [B, O, 2H, 2W], [B, C / 4, 2H, 2W]."""
        f = self.conv1(self.conv0(f))
        return f, functional.pixel_shuffle(image, 2) + self.to_image(f)


class StyleUpsampler(nn.Module):
    """Style-based blocks whose image branch is the result; both branches start as h (SPEC 7)."""

    def __init__(self, width: int, widths: Sequence[int]) -> None:
        super().__init__()
        before = [width, *widths[:-1]]
        pairs = zip(before, widths, strict=True)
        self.blocks = nn.ModuleList(StyleBlock(i, o, width // 4**n) for n, (i, o) in enumerate(pairs))
        self.channels = width // 4 ** len(widths)

    def forward(self, h: Tensor) -> Tensor:
        """[B, D, g, g] -> [B, D / 4^stages, g * 2^stages, ...]; always float32."""
        with torch.autocast(h.device.type, enabled=False):
            f = image = h.float()
            for block in self.blocks:
                f, image = block(f, image)
        return image
