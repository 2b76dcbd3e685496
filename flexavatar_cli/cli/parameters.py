"""Options that several commands share, so that they are spelled and explained once."""

from pathlib import Path
from typing import Annotated

import typer

Output = Annotated[Path | None, typer.Option("--output", "-o", help="Where to write; the suffix decides the format.")]
Model = Annotated[str, typer.Option("--model", help="open-1, flex-1 or the path of a model folder.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
Seed = Annotated[int, typer.Option("--seed", help="Same seed, same bytes.")]
Size = Annotated[int, typer.Option("--size", min=16, max=4096, help="Side of square pictures, pixels.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")]
Work = Annotated[Path | None, typer.Option("--work", help="Keep the intermediate files in this folder.")]
Face = Annotated[
    str, typer.Option("--face", help="Which face when several are seen: largest, or 0, 1, ... from the left.")
]
Fov = Annotated[float | None, typer.Option("--fov", min=1, max=170, help="Known vertical field of view, degrees.")]
ImageFeatures = Annotated[
    Path | None,
    typer.Option("--image-features", help="flex-1: DINOv2 features computed elsewhere, .npy [768, 16, 16]."),
]
Preset = Annotated[str, typer.Option("--preset", help="Of fitting: default, or paper for the published recipe.")]
Matting = Annotated[
    str,
    typer.Option(
        "--matte",
        help="auto, portrait, selfie, modnet, alpha, an ONNX net, or (not in eval) a PNG or folder of mattes.",
    ),
]
