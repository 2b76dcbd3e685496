"""The portraits that training never saw, as photos for `flexavatar eval`: one command before the measurement.

    python benchmarks/dev_portraits.py DATA FOLDER
    flexavatar eval FOLDER --protocol portraits --steps 0 --sink 3d ...

DATA is the folder with the training packs; of `models/open-1/dev_split.txt` the people that `portraits_512.tar` has are
written, as PNG, cut to what the photographer took (some are padded to a square). With `--list` the split itself is
printed: every tenth of the sorted ids.
"""

import argparse
import io
import sys
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

SPLIT = Path(__file__).resolve().parents[1] / "models" / "open-1" / "dev_split.txt"
EVERY = 10  # as `training/portraits.py` keeps them out


def main() -> None:
    """Unpack."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder with portraits_512.tar and portraits_ann.npz")
    parser.add_argument("folder", type=Path, nargs="?", help="where the photos go")
    parser.add_argument("--list", action="store_true", help="print the split by its rule instead")
    options = parser.parse_args()
    if options.list:
        print("\n".join(by_rule(options.data)))
    elif options.folder is None:
        parser.error("name the folder where the photos go")
    else:
        print(f"{unpack(options.data, options.folder)} photos in {options.folder}", file=sys.stderr)


def by_rule(data: Path) -> list[str]:
    """Every tenth of the sorted ids of the annotated portraits."""
    with np.load(data / "portraits_ann.npz") as annotations:
        return sorted(str(name) for name in annotations["id"])[::EVERY]


def committed() -> list[str]:
    """The ids of SPLIT."""
    lines = SPLIT.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def unpack(data: Path, folder: Path) -> int:
    """Write the committed portraits that exist at 512 px, and say how many."""
    with np.load(data / "portraits_ann.npz") as annotations:
        boxes = {str(name): box for name, box in zip(annotations["id"], annotations["valid_box"], strict=True)}
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    with tarfile.open(data / "portraits_512.tar") as archive:
        present = set(archive.getnames())
        for name in committed():
            member = (
                archive.extractfile(f"portraits_512/{name}.jpg") if f"portraits_512/{name}.jpg" in present else None
            )
            if member is None:
                continue
            photo = Image.open(io.BytesIO(member.read())).convert("RGB")
            x0, y0, x1, y1 = (round(float(edge) * photo.width) for edge in boxes[name])
            photo.crop((x0, y0, x1, y1)).save(folder / f"{name}.png")
            count += 1
    return count


if __name__ == "__main__":
    main()
