"""A small training folder made of invented skins and hair, on the shipped head."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flexavatar_cli.heads import load_head
from flexavatar_cli.model import ModelCard, ModelConfig
from flexavatar_cli.model.config import UvFeaturesConfig
from flexavatar_cli.stages.uv_completion import CHANNELS
from flexavatar_cli.training.synthetic.hair import HairStyles, texel_points
from flexavatar_cli.training.synthetic.materials import Materials, draw_parts
from flexavatar_cli.training.synthetic.pack import RESOLUTION, write_pack
from flexavatar_cli.training.synthetic.views import render_mesh, synthetic_view


@pytest.fixture(scope="session")
def head():
    return load_head()


@pytest.fixture(scope="session")
def points(head) -> np.ndarray:
    return texel_points(head, RESOLUTION)


@pytest.fixture(scope="session")
def styles(points) -> HairStyles:
    """Bald, and a cap of hair 2 cm thick above the ears."""
    cover = np.clip((points[:, 1] - 0.05) / 0.01, 0, 1).astype(np.float32)
    bald = np.zeros_like(cover)
    return HairStyles(
        ("bald", "cap"), np.stack([bald, 0.02 * cover]), np.ones((2, len(cover)), np.float32), np.stack([bald, cover])
    )


@pytest.fixture(scope="session")
def views(head, points, styles):
    mesh = render_mesh(head, RESOLUTION, 0)
    return [
        synthetic_view(head, mesh, styles, np.array([1]), points, RESOLUTION, np.random.default_rng((7, row)))
        for row in range(4)
    ]


@pytest.fixture(scope="session")
def pack_folder(head, views, tmp_path_factory) -> Path:
    count = len(views[0].seen)
    drawn = draw_parts(head, RESOLUTION)
    skins = []
    for tone in ([0.8, 0.6, 0.5], [0.4, 0.28, 0.2], [0.6, 0.45, 0.35]):
        skins.append(np.where(np.isfinite(drawn), drawn, np.asarray(tone)))
    skin = (np.nan_to_num(np.stack(skins)) * 255).astype(np.uint8)
    materials = Materials(
        ("a", "b", "c"),
        skin,
        np.full((3, count), 255, np.uint8),
        np.full((3, 3), 0.1, np.float32),
        skin.astype(np.float32).mean(0) / 255,
        np.zeros(3, bool),
    )
    return write_pack(tmp_path_factory.mktemp("pack") / "pack", head, materials, views[:3], views[3:], 7)


@pytest.fixture
def card() -> ModelCard:
    """A network small enough for a step in a fraction of a second."""
    config = replace(ModelConfig.tiny(RESOLUTION), uv_features=UvFeaturesConfig(CHANNELS, patch=16))
    return ModelCard(name="small", network=config)
