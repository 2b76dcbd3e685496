"""A portrait that every installation already has."""

import importlib.util
from pathlib import Path

from flexavatar_cli.core.errors import InputError


def sample_portrait() -> Path:
    """Grace Hopper, official US Navy portrait (public domain): matplotlib's sample, which mediapipe brings."""
    found = importlib.util.find_spec("matplotlib")
    if found is None or found.origin is None:
        raise InputError("no sample portrait: matplotlib is not installed")
    path = Path(found.origin).parent / "mpl-data" / "sample_data" / "grace_hopper.jpg"
    if not path.is_file():
        raise InputError(f"{path}: this matplotlib comes without its sample portrait; give a photo of your own")
    return path


if __name__ == "__main__":
    print(sample_portrait())
