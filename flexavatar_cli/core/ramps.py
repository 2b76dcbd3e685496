"""Values that turn into a share of something between two ends."""

from torch import Tensor


def ramp(values: Tensor, ends: tuple[float, float]) -> Tensor:
    """0 at the first end, 1 at the second, straight between them; the first may be the larger."""
    return ((values - ends[0]) / (ends[1] - ends[0])).clamp(0, 1)


def smoothstep(values: Tensor, ends: tuple[float, float]) -> Tensor:
    """0 below the first end, 1 above the second, with a continuous slope between."""
    part = ramp(values, ends)
    return part * part * (3 - 2 * part)
