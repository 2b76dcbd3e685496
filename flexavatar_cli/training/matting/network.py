"""A small matting network of MODNet's three branches (Ke et al., AAAI 2022): semantics, detail, fusion."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIDE = 32  # both sides of a picture are multiples of it
REDUCTION = 2  # of the picture that the semantic branch sees
SEMANTIC_STRIDE = 4  # of the semantic branch's output, in pixels of what it sees
# modules of the semantic branch; the others are those of detail and fusion
SEMANTICS = ("stem", "quarter", "eighth", "sixteenth", "last", "up_sixteenth", "up_eighth", "up_quarter", "semantic")


class ConvUnit(nn.Sequential):
    """3 x 3 convolution, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, stride, dilation, dilation, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(True),
        )


class Residual(nn.Module):
    """Two convolutions beside an identity (He et al. 2016), which is all it is at first."""

    def __init__(self, width: int, dilation: int = 1) -> None:
        super().__init__()
        self.first = ConvUnit(width, width, dilation=dilation)
        norm = nn.BatchNorm2d(width)
        nn.init.zeros_(norm.weight)
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, 1, dilation, dilation, bias=False), norm)

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

    def __init__(
        self, widths: Sequence[int] = (24, 40, 64, 128, 176), fine: Sequence[int] = (16, 32), detail: int = 24
    ) -> None:
        super().__init__()
        half, quarter, eighth, sixteenth, last = widths
        middle = (sixteenth + eighth) // 2
        self.stem = ConvUnit(3 + 1, half, stride=2)  # the guide last
        self.quarter = nn.Sequential(ConvUnit(half, quarter, stride=2), Residual(quarter))
        self.eighth = nn.Sequential(ConvUnit(quarter, eighth, stride=2), Residual(eighth), Residual(eighth))
        self.sixteenth = nn.Sequential(ConvUnit(eighth, sixteenth, stride=2), Residual(sixteenth), Residual(sixteenth))
        self.last = nn.Sequential(ConvUnit(sixteenth, last, stride=2), Residual(last), Residual(last), Context(last))
        self.up_sixteenth = ConvUnit(last + sixteenth, middle)
        self.up_eighth = ConvUnit(middle + eighth, eighth)
        self.up_quarter = ConvUnit(eighth + quarter, quarter)
        self.semantic = nn.Conv2d(quarter, 1, 1)
        fine_half, fine_quarter = fine
        self.fine_half = ConvUnit(3, fine_half, stride=2)
        self.fine_quarter = nn.Sequential(ConvUnit(fine_half, fine_quarter, stride=2), Residual(fine_quarter))
        self.detail_quarter = nn.Sequential(
            ConvUnit(1 + 1 + quarter + fine_quarter + 3, fine_quarter),
            ConvUnit(fine_quarter, fine_quarter),
            *(Residual(fine_quarter, dilation) for dilation in (1, 2, 4)),  # far enough to follow a strand to the hair
        )
        self.detail_half = nn.Sequential(ConvUnit(fine_quarter + fine_half + 12, detail), ConvUnit(detail, detail))
        self.detail = nn.Conv2d(detail, 1, 1)
        self.fusion = nn.Sequential(ConvUnit(detail + 12, detail), nn.Conv2d(detail, 4, 3, padding=1))

    def meaning(self, image: Tensor, guide: Tensor, reduction: int = REDUCTION) -> tuple[Tensor, Tensor]:
        """Semantic logits, and features with them, at 1/4 of what the branch sees: the picture over `reduction`.

        The guide [B, 1, h, w] may have any size.
        """
        view = F.avg_pool2d(image, reduction) if reduction > 1 else image
        quarter = self.quarter(self.stem(torch.cat([view, enlarged(guide, view)], 1)))
        eighth = self.eighth(quarter)
        sixteenth = self.sixteenth(eighth)
        coarse = self.up_sixteenth(torch.cat([enlarged(self.last(sixteenth), sixteenth), sixteenth], 1))
        coarse = self.up_eighth(torch.cat([enlarged(coarse, eighth), eighth], 1))
        coarse = self.up_quarter(torch.cat([enlarged(coarse, quarter), quarter], 1))
        semantic = self.semantic(coarse)
        return semantic, torch.cat([semantic, coarse], 1)

    def refined(self, image: Tensor, meaning: Tensor, guide: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of detail [B, 1, H/2, W/2] and alpha [B, 1, H, W] from features and guide [B, C, H/4, W/4]."""
        half = self.fine_half(image)
        quarter = self.fine_quarter(half)
        pixels = folded(image)
        detail = self.detail_quarter(torch.cat([guide, meaning, quarter, F.avg_pool2d(image, 4)], 1))
        detail = self.detail_half(torch.cat([enlarged(detail, half), half, pixels], 1))
        edge = self.detail(detail)
        fused = F.pixel_shuffle(self.fusion(torch.cat([detail, pixels], 1)), 2)
        doubled = F.interpolate(edge, scale_factor=2.0, mode="bilinear", align_corners=False)  # ONNX keeps the channels
        return edge, doubled + fused

    def branches(
        self, image: Tensor, guide: Tensor | None = None, reduction: int = REDUCTION
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of semantics, detail [B, 1, H/2, W/2] and alpha [B, 1, H, W]."""
        like = F.avg_pool2d(image, 4)
        told = torch.zeros_like(like[:, :1]) if guide is None else enlarged(guide, like) + 0 * like[:, :1]
        semantic, meaning = self.meaning(image, told, reduction)
        return semantic, *self.refined(image, enlarged(meaning, like), told)

    def forward(self, image: Tensor, guide: Tensor | None = None) -> Tensor:
        """Alpha [B, 1, H, W] in 0..1.

        A `guide` [B or 1, 1, h, w] is what a segmentation says (`stages.matting.nets.guide_of`), 0 = nothing.
        """
        return torch.sigmoid(self.branches(image, guide)[2])
