"""What one step of training looks at: crops at edges, and the guide of most pictures."""

import torch
import torch.nn.functional as F
from torch import Tensor

UNGUIDED = 0.25  # share of pictures that no segmentation comes with
ANYWHERE = 0.25  # share of crops that are not at edges


def heard_guide(truth: Tensor, stride: int) -> Tensor:
    """The guide [B, 1, H/stride, W/stride] of `truth` [B, 5, H, W], nothing for some pictures."""
    heard = (torch.rand(len(truth), 1, 1, 1) > UNGUIDED).float()
    return heard * F.avg_pool2d(truth[:, 4:], stride)


def edge_corners(band: Tensor, crop: int, count: int) -> list[tuple[int, int, int]]:
    """`count` crops per picture as (picture, top, left), multiples of 4.

    They lie around random pixels of the band [B, H, W], some anywhere, all of them where there is no band.
    """
    corners = []
    for number, mask in enumerate(band):
        edges = torch.nonzero(mask > 0)
        for _ in range(count):
            spot = torch.stack([torch.randint(side, ()) for side in mask.shape])
            if len(edges) and torch.rand(()) > ANYWHERE:
                spot = edges[torch.randint(len(edges), ())]
            top, left = ((int(at) - crop // 2) // 4 * 4 for at in spot)
            top, left = max(0, min(top, mask.shape[0] - crop)), max(0, min(left, mask.shape[1] - crop))
            corners.append((number, top, left))
    return corners


def crops(
    x: Tensor,  # [B, C, H/stride, W/stride]
    corners: list[tuple[int, int, int]],  # picture, top, left, in pixels
    side: int,  # pixels
    stride: int = 1,
) -> Tensor:  # [N, C, side/stride, side/stride]
    """The squares at `corners` of pictures or of features."""
    size = side // stride
    return torch.stack([x[at, :, y // stride :, left // stride :][:, :size, :size] for at, y, left in corners])
