"""Things that several test modules need: a tiny random model on the shipped head, and avatars made with it."""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "0")  # before torch: spinning makes it slow beside busy neighbours

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

# The gate draws the same examples every time; `pytest --hypothesis-profile=explore` looks for new ones.
settings.register_profile("gate", derandomize=True, deadline=None, max_examples=60)
settings.register_profile("explore", deadline=None, max_examples=2000)
settings.load_profile("gate")


def pytest_terminal_summary(terminalreporter) -> None:
    """Say how much was skipped and for want of what, so that a green run is not mistaken for a full one."""
    reasons: dict[str, int] = {}
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reasons[reason.removeprefix("Skipped: ")] = reasons.get(reason.removeprefix("Skipped: "), 0) + 1
    terminalreporter.write_line(f"skipped: {sum(reasons.values())}")
    for reason, count in sorted(reasons.items()):
        terminalreporter.write_line(f"  {count} x {reason}")


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The project's optional test material, $FLEXAVATAR_SHARED or `shared` beside the checkout; skips without it."""
    folder = Path(os.environ.get("FLEXAVATAR_SHARED") or Path(__file__).resolve().parents[2] / "shared")
    if not (folder / "samples").is_dir():
        pytest.skip("shared material")
    return folder


@pytest.fixture(scope="session")
def portrait() -> Path:
    """A real portrait that every installation has."""
    from flexavatar_cli.media.samples import sample_portrait

    return sample_portrait()


@pytest.fixture
def golden():
    """`golden(name, image)`: the recorded picture [H, W] or [H, W, 3] float32; `make golden` records `image` first."""
    from flexavatar_cli.media.images import read_photo, write_png

    def recorded(name: str, image: np.ndarray) -> np.ndarray:
        path = Path(__file__).parent / "goldens" / f"{name}.png"
        if os.environ.get("FLEXAVATAR_GOLDEN") == "write":
            write_png(path, image)
        rgb = read_photo(path).rgb
        return rgb[..., 0] if image.ndim == 2 else rgb

    return recorded


@pytest.fixture
def picture() -> np.ndarray:
    """A smooth colourful picture [48, 64, 3] float32 whose four corners differ, in steps of 1/255."""
    y, x = np.mgrid[0:48, 0:64].astype(np.float32)
    rgb = np.stack([x / 63, y / 47, 0.5 + 0.5 * np.cos(x / 9) * np.cos(y / 7)], -1)
    return (np.round(rgb * 255) / 255).astype(np.float32)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder whose network has open-1's parts at a width for tests: random, but sane where untrained is."""
    import torch
    from PIL import Image

    from flexavatar_cli.heads import load_head, surface
    from flexavatar_cli.model import AvatarModel, ModelCard, ModelConfig, Template
    from flexavatar_cli.model.config import UvFeaturesConfig
    from flexavatar_cli.stages.uv_completion import CHANNELS

    head = load_head()
    config = ModelConfig.tiny(128)
    config = replace(config, uv_features=UvFeaturesConfig(CHANNELS, patch=16))
    texels, tokens = head.texels(config.gaussians.resolution), head.texels(config.grid)
    template = Template.from_texels(128, texels.index, config.grid, tokens.index, surface(tokens, head.template))
    card = ModelCard("tiny", head_model=head.name, head_digest=head.digest, notes={"status": "random"})
    model = AvatarModel(config, template, torch.Generator().manual_seed(0), card)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    model.save(folder)
    skin = Image.new("RGB", (128, 128), (190, 150, 130))
    skin.save(folder / "mean_color.png")
    return folder


@pytest.fixture(scope="session")
def tiny_instruments(tiny_model: Path):
    """The tiny model and the shipped head, on the CPU."""
    from flexavatar_cli.stages.instruments import load_instruments

    return load_instruments(str(tiny_model), "cpu")


@pytest.fixture(scope="session")
def grey_avatar(tiny_instruments):
    """A grey mean head: an avatar code of zeros."""
    from flexavatar_cli.core.avatar import Avatar
    from flexavatar_cli.core.expression import EXPRESSION_NAMES

    model, head = tiny_instruments.model, tiny_instruments.head
    return Avatar(
        avatar_code=np.zeros(model.code_shape, np.float32),
        identity=np.zeros(len(head.identity_basis), np.float32),
        model=model.card.name,
        model_digest=model.digest,
        head_model=head.name,
        head_digest=head.digest,
        expression_names=EXPRESSION_NAMES,
        bias_sink="3d",
    )


def flame_arrays(seed: int = 0) -> dict[str, np.ndarray]:
    """Arrays with the names and axes of a FLAME file, made from the open head: 300 + 100 shapes, 5 joints, jaw skinned.

    Its first shapes are the open head's identities and expressions; the rest, and the pose correctives, are small.
    """
    from scipy import sparse

    from flexavatar_cli.core.expression import ARKIT_NAMES
    from flexavatar_cli.heads import load_head

    head = load_head()
    generator = np.random.default_rng(seed)
    template = head.template.numpy().astype(np.float64)
    count = len(template)
    shapes = np.zeros((count, 3, 400))
    identities = head.identity_basis.numpy().transpose(1, 2, 0)[..., :300]
    shapes[..., : identities.shape[2]] = identities
    jaw = ARKIT_NAMES.index("jawOpen")
    expressions = head.expression_basis.numpy()
    drop = -expressions[jaw][:, 1]
    others = [n for n in range(len(ARKIT_NAMES)) if n != jaw]
    shapes[..., 300 : 300 + len(others)] = expressions[others].transpose(1, 2, 0)
    weights = np.zeros((count, 5))
    weights[:, 2] = np.clip(drop / drop.max(), 0, 1) ** 0.5
    weights[:, 3:] = head.eye_vertices.numpy().T
    weights[weights[:, 3:].any(1), 2] = 0
    weights[:, 0] = np.clip((-0.12 - template[:, 1]) / 0.05, 0, 1) * (1 - weights[:, 2:].sum(1))
    weights[:, 1] = 1 - weights.sum(1)
    places = [[0, -0.15, -0.02], *(head.joints[name].numpy() for name in ("neck", "jaw", "eye_left", "eye_right"))]
    regressor = np.zeros((5, count))
    for joint, place in enumerate(np.asarray(places)):
        near = np.argsort(np.linalg.norm(template - place, axis=1))[:30]
        system = np.vstack([template[near].T, np.ones(30)])  # the lightest weights that give exactly this place
        regressor[joint, near] = np.linalg.lstsq(system, np.append(place, 1.0), rcond=None)[0]
    return {
        "v_template": template,
        "f": head.faces.numpy().astype(np.uint32),
        "shapedirs": shapes,
        "posedirs": 1e-4 * generator.standard_normal((count, 3, 36)),
        "J_regressor": sparse.csc_matrix(regressor),
        "weights": weights,
        "kintree_table": np.array([[2**32 - 1, 0, 1, 1, 1], [0, 1, 2, 3, 4]], np.uint32),
    }


@pytest.fixture(scope="session")
def flame_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `.npz` with the names and axes of a FLAME file, made from the open head."""
    arrays = flame_arrays()
    arrays["J_regressor"] = arrays["J_regressor"].toarray()
    path = tmp_path_factory.mktemp("flame") / "generic_model.npz"
    np.savez(
        path,
        **{name: value.astype(np.float32) if value.dtype == np.float64 else value for name, value in arrays.items()},
    )
    return path


@pytest.fixture(scope="session")
def flame(flame_file: Path):
    """The synthetic FLAME head with MediaPipe's landmarks."""
    from flexavatar_cli.heads import load_head
    from flexavatar_cli.heads.flame import load_flame
    from flexavatar_cli.heads.flame_landmarks import with_landmarks

    return with_landmarks(load_flame(flame_file), load_head())[0]
