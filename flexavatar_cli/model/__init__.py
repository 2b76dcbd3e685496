"""The network: `load_model(folder) -> AvatarModel`, driven by `model.yaml`."""

from flexavatar_cli.model.config import ModelCard, ModelConfig
from flexavatar_cli.model.conversion import convert_release
from flexavatar_cli.model.encoder import plucker_map
from flexavatar_cli.model.loading import load_model
from flexavatar_cli.model.network import AvatarModel
from flexavatar_cli.model.template import Template, template_from_obj

__all__ = [
    "AvatarModel",
    "ModelCard",
    "ModelConfig",
    "Template",
    "convert_release",
    "load_model",
    "plucker_map",
    "template_from_obj",
]
