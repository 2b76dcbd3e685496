"""Head models behind one protocol: `load_head(path=None) -> HeadModel`."""

from flexavatar_cli.heads.files import load_head, save_head
from flexavatar_cli.heads.head_model import HeadModel
from flexavatar_cli.heads.surface import Deformation, Frames, deformation, frames, surface, texel_steps, vertex_normals
from flexavatar_cli.heads.texels import TexelGrid

__all__ = [
    "Deformation",
    "Frames",
    "HeadModel",
    "TexelGrid",
    "deformation",
    "frames",
    "load_head",
    "save_head",
    "surface",
    "texel_steps",
    "vertex_normals",
]
