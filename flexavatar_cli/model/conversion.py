"""The published checkpoint as a model folder of our own kind: a card, and one safetensors file with its surface."""

from pathlib import Path

import torch

from flexavatar_cli.core.errors import WeightsError
from flexavatar_cli.model.config import ModelCard
from flexavatar_cli.model.loading import load_release_state, read_tensors
from flexavatar_cli.model.network import AvatarModel
from flexavatar_cli.model.template import template_from_obj


def convert_release(
    checkpoint: Path,  # flat published names: a torch archive, read weights-only, or safetensors
    surface: Path,  # OBJ of the head template
    card: ModelCard,  # of the published model
    folder: Path,
) -> tuple[ModelCard, list[str]]:
    """The card written to `folder` beside float32 weights, and the published names left out for want of any effect.

    Raises WeightsError, and writes nothing, if a file cannot be read or a name or shape is not the network's.
    """
    template = template_from_obj(surface, card.network.gaussians.resolution, card.network.grid)
    model = AvatarModel(card.network, template, card=card, fill_weights=False)
    state = read_tensors(checkpoint)
    try:
        unused = load_release_state(model, state)
    except WeightsError as error:
        raise WeightsError(f"{checkpoint}: {str(error).removeprefix('weights: ')}") from error
    return model.save(folder, torch.float32), unused
