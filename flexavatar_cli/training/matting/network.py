"""A small matting network of MODNet's three branches (Ke et al., AAAI 2022): semantics, detail, fusion."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIDE = 32  # both sides of a picture are multiples of it
REDUCTION = 4  # of the picture that the semantic branch sees: 128 pixels say who is the person
SEMANTIC_STRIDE = 16  # of the semantic branch's supervised output, in pixels of what it sees


class ConvUnit(nn.Sequential):
    """Convolution, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(True)
        )


class Residual(nn.Module):
    """Two convolutions beside an identity (He et al. 2016)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = ConvUnit(width, width)
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to the same."""
        return F.relu(x + self.second(self.first(x)))


class Context(nn.Module):
    """What the whole picture says, as a gain of each channel (the attention of MODNet's e-ASPP)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(width, width // 4)
        self.excite = nn.Linear(width // 4, 2 * width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to the same."""
        gain, shift = self.excite(F.relu(self.squeeze(x.mean((2, 3))))).chunk(2, -1)
        return x * torch.sigmoid(gain)[..., None, None] + shift[..., None, None]


def enlarged(x: Tensor, like: Tensor) -> Tensor:
    """[B, C, H, W] at the size of another."""
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)


def folded(image: Tensor) -> Tensor:
    """[B, 3, H, W] as [B, 12, H/2, W/2]: full resolution for a quarter of the memory traffic."""
    return torch.cat([image[:, :, row::2, column::2] for row in (0, 1) for column in (0, 1)], 1)


class MattingNetwork(nn.Module):
    """RGB [B, 3, H, W] in -1..1 to alpha [B, 1, H, W]; H and W are multiples of STRIDE."""

    def __init__(self, widths: Sequence[int] = (16, 24, 48, 96, 128), detail: int = 16) -> None:
        super().__init__()
        half, quarter, eighth, sixteenth, last = widths
        self.stem = ConvUnit(3, half, stride=2)
        self.quarter = nn.Sequential(ConvUnit(half, quarter, stride=2), Residual(quarter))
        self.eighth = nn.Sequential(ConvUnit(quarter, eighth, stride=2), Residual(eighth))
        self.sixteenth = nn.Sequential(ConvUnit(eighth, sixteenth, stride=2), Residual(sixteenth), Residual(sixteenth))
        self.last = nn.Sequential(ConvUnit(sixteenth, last, stride=2), Residual(last), Residual(last), Context(last))
        self.up_sixteenth = ConvUnit(last + sixteenth, sixteenth)
        self.semantic = nn.Conv2d(sixteenth, 1, 1)
        self.up_eighth = ConvUnit(sixteenth + eighth, eighth)
        self.fine_half = ConvUnit(3, half, stride=2)
        self.fine_quarter = nn.Sequential(ConvUnit(half, quarter, stride=2), Residual(quarter))
        self.detail_quarter = nn.Sequential(ConvUnit(eighth + quarter + 3, quarter), ConvUnit(quarter, quarter))
        self.detail_half = nn.Sequential(ConvUnit(quarter + half + 12, detail), ConvUnit(detail, detail))
        self.detail = nn.Conv2d(detail, 1, 1)
        self.fusion = nn.Sequential(ConvUnit(detail + 12, detail), nn.Conv2d(detail, 4, 3, padding=1))

    def meaning(self, image: Tensor, reduction: int = REDUCTION) -> tuple[Tensor, Tensor]:
        """Semantic logits and features at 1/16 and 1/8 of what the branch sees: the picture over `reduction`."""
        eighth = self.eighth(self.quarter(self.stem(F.avg_pool2d(image, reduction))))
        sixteenth = self.sixteenth(eighth)
        context = enlarged(self.last(sixteenth), sixteenth)
        coarse = self.up_sixteenth(torch.cat([context, sixteenth], 1))
        return self.semantic(coarse), self.up_eighth(torch.cat([enlarged(coarse, eighth), eighth], 1))

    def refined(self, image: Tensor, meaning: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of detail [B, 1, H/2, W/2] and alpha [B, 1, H, W] from features [B, C, H/4, W/4]."""
        half = self.fine_half(image)
        quarter = self.fine_quarter(half)
        pixels = folded(image)
        detail = self.detail_quarter(torch.cat([meaning, quarter, F.avg_pool2d(image, 4)], 1))
        detail = self.detail_half(torch.cat([enlarged(detail, half), half, pixels], 1))
        edge = self.detail(detail)
        fused = F.pixel_shuffle(self.fusion(torch.cat([detail, pixels], 1)), 2)
        doubled = F.interpolate(edge, scale_factor=2.0, mode="bilinear", align_corners=False)  # ONNX keeps the channels
        return edge, doubled + fused

    def branches(self, image: Tensor, reduction: int = REDUCTION) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of semantics, detail [B, 1, H/2, W/2] and alpha [B, 1, H, W]."""
        semantic, meaning = self.meaning(image, reduction)
        return semantic, *self.refined(image, enlarged(meaning, F.avg_pool2d(image, 4)))

    def forward(self, image: Tensor) -> Tensor:
        """Alpha [B, 1, H, W] in 0..1."""
        return torch.sigmoid(self.branches(image)[2])
