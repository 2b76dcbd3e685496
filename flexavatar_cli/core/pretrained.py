"""Networks of the transformers library, from a folder that was pulled before."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from flexavatar_cli.core.errors import WeightsError


def load_frozen(kind: Any, folder: Path, name: str) -> Any:
    """The network in `folder`, of the transformers class `kind`, for use alone. Raises WeightsError."""
    from transformers.utils import logging as talk

    talk.disable_progress_bar()
    try:
        network, loaded = kind.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise WeightsError(f"{folder}: not {name} ({str(error).splitlines()[0][:100]})") from error
    if loaded["missing_keys"]:
        raise WeightsError(f"{folder}: not {name} (it lacks {sorted(loaded['missing_keys'])[0]})")
    return network.eval().requires_grad_(False)
