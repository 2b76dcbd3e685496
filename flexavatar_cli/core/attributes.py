"""What the decoder says about each kept texel, before a surface turns it into Gaussians."""

from collections.abc import Callable
from dataclasses import dataclass, fields

from torch import Tensor


@dataclass(frozen=True)
class TexelAttributes:
    """Decoder output at the N kept texels of B decodes; its meaning follows the model's `anchor`.

    * `static` (flex-1, SPEC 8.2): `offset` is metres in head space from the template's base position, `scale` is
      metres, `rotation` is in head space.
    * `rigged` (open-1): `offset` is metres along (tangent, bitangent, smoothed normal) of the moving surface, `scale`
      multiplies the anchor's own size, `rotation` is relative to the moving surface frame.

    `rotation` is a unit quaternion wxyz, `opacity` is in 0..1, `color` is RGB, not clamped above.
    """

    offset: Tensor  # [B, N, 3]
    scale: Tensor  # [B, N, 3]
    rotation: Tensor  # [B, N, 4]
    opacity: Tensor  # [B, N]
    color: Tensor  # [B, N, 3]

    def __post_init__(self) -> None:
        lead = tuple(self.opacity.shape)
        if len(lead) != 2:
            raise ValueError(f"TexelAttributes.opacity must be [B, N], not {lead}")
        for name, last in (("offset", 3), ("scale", 3), ("rotation", 4), ("color", 3)):
            found = tuple(getattr(self, name).shape)
            if found != (*lead, last):
                raise ValueError(f"TexelAttributes.{name} must be {(*lead, last)}, not {found}")

    def __len__(self) -> int:
        return len(self.opacity)

    def map(self, change: Callable[[Tensor], Tensor]) -> "TexelAttributes":
        """The same attributes with `change` applied to every tensor, e.g. `lambda t: t[:1]` or `.detach()`."""
        return TexelAttributes(**{field.name: change(getattr(self, field.name)) for field in fields(self)})
