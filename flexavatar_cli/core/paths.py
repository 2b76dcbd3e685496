"""Where the shipped models lie."""

import os
from pathlib import Path

from flexavatar_cli.core.errors import WeightsError


def models_dir() -> Path:
    """The folder of shipped models: $FLEXAVATAR_MODELS, else `models/` beside the package. Raises WeightsError."""
    chosen = os.environ.get("FLEXAVATAR_MODELS")
    folder = Path(chosen) if chosen else Path(__file__).resolve().parents[2] / "models"
    if not folder.is_dir():
        raise WeightsError(f"{folder}: no models folder; install with `pip install -e .` or set FLEXAVATAR_MODELS")
    return folder
