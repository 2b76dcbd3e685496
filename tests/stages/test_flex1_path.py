"""The whole road of a model with FLAME expressions and a static anchor, with a tiny random network."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from flexavatar_cli.core.avatar import Avatar
from flexavatar_cli.core.errors import InputError, UsageError, WeightsError
from flexavatar_cli.core.flame import FLAME_NAMES, neutral_code, rotation_from_6d
from flexavatar_cli.core.options import EncodeOptions, FitOptions, RenderOptions
from flexavatar_cli.core.track import Track
from flexavatar_cli.media.frame_files import TrackedFrame
from flexavatar_cli.stages import image_features, pipeline, published
from flexavatar_cli.stages.animation import puppet
from flexavatar_cli.stages.optimisation import Optimisation, rate_share
from flexavatar_cli.stages.published_fitting import CODE_RATE, PublishedObjective
from flexavatar_cli.stages.workfolder import WorkFolder

FEATURES = 24  # channels
REST = np.array([1.0, 0, 0, 0, 1, 0])
GOLDEN = TrackedFrame(
    expression=np.linspace(-1, 1, 100),
    shape=np.zeros(300),
    eyes=np.tile(REST, 2),
    eyelids=np.array([0.1, 0.2]),
    jaw=REST,
    neck=REST,
    rotation=REST + 0.1,
    translation=np.array([0.01, 0.02, 0.03]),
    base_rotation=np.eye(3),
    base_translation=np.array([0.0, 0, -1]),
    focal=np.array([3.8]),
    principal=np.array([0.001, -0.002]),
    joint_transforms=np.tile(np.eye(4), (5, 1, 1)),
)


@pytest.fixture(scope="module")
def small_flex(tmp_path_factory) -> Path:
    """A model folder with flex-1's parts at a width for tests, on a sphere."""
    from flexavatar_cli.model import AvatarModel, ModelCard, ModelConfig, Template
    from flexavatar_cli.model.config import DecoderConfig, GaussiansConfig, TrunkConfig, UpsamplerConfig

    config = ModelConfig(
        width=32,
        heads=2,
        grid=8,
        code_norm="layernorm",
        trunk=TrunkConfig(kind="gpt", image_size=128, patch=16, feature_dim=FEATURES),
        encoder=("joint",),
        uv_features=None,
        detail=None,
        decoder=DecoderConfig(
            blocks=("joint",),
            expression_dim=135,
            expression_hidden=(16, 16),
            input_norm=False,
            positions=False,
            condition_channels=0,
        ),
        upsampler=UpsamplerConfig(kind="stylegan", widths=(16, 16)),
        gaussians=GaussiansConfig(anchor="static", resolution=64, sampling="end_inclusive"),
    )
    card = ModelCard("small-flex", head_model="flame", expression_layout="flame", notes={"status": "random"})
    model = AvatarModel.random(config, template=Template.sphere(64, 8))
    model.card = replace(card, network=config)
    folder = tmp_path_factory.mktemp("models") / "small-flex"
    model.save(folder)
    return folder


@pytest.fixture(scope="module")
def instruments(small_flex, flame):
    from flexavatar_cli.stages.instruments import load_instruments

    return replace(load_instruments(str(small_flex), "cpu"), flame=flame)


@pytest.fixture(scope="module")
def features(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("features") / "dino.npy"
    np.save(path, np.random.default_rng(0).standard_normal((FEATURES, 4, 4)).astype(np.float32))
    return path


@pytest.fixture(scope="module")
def job(instruments, features, tmp_path_factory):
    work = WorkFolder(tmp_path_factory.mktemp("work"))
    return pipeline.Job(instruments, work, encode=EncodeOptions(image_features=str(features)))


@pytest.fixture(scope="module")
def shot(job, portrait):
    return pipeline.shoot(job, portrait)


@pytest.fixture(scope="module")
def made(job, shot):
    return pipeline.fit_shots(job, [shot], FitOptions(steps=3, preset="paper"), RenderOptions(fps=2), 64)


def test_a_photo_is_tracked_on_flame(shot):
    track = shot.track
    assert track.expression_names == FLAME_NAMES
    assert track.reprojection_px[0] < 0.02 * np.ptp(track.landmarks[0, :, 0])
    motion = np.eye(4)  # SPEC 10.2: head motion in the code, seen by the tracker's fixed camera, is the camera
    motion[:3, :3], motion[:3, 3] = rotation_from_6d(track.expression_code[0, 126:132]), track.expression_code[0, 132:]
    fixed = np.diag([1.0, -1, -1, 1])
    fixed[2, 3] = 1
    np.testing.assert_allclose(np.linalg.inv(motion) @ fixed, track.cam2world[0], atol=1e-5)


def test_a_photo_becomes_an_avatar_and_a_film(made, instruments):
    first, last = Avatar.load(made.encoded), Avatar.load(made.fitted)
    assert first.expression_names == FLAME_NAMES
    assert (first.head_model, first.head_digest) == ("flame", instruments.head_digest)
    assert not np.array_equal(first.avatar_code, last.avatar_code)
    fit = last.provenance["fit"]
    assert fit["terms"][:2] == ["L1", "SSIM"]
    assert len(fit["terms"]) + len(fit["without"]) == 4, "what is missing is stated"
    assert made.video.stat().st_size > 1000


def test_the_published_schedule_is_kept():
    rates = [CODE_RATE * rate_share(step, 200) for step in (0, 100, 199)]
    assert rates[:2] == pytest.approx([1e-2, 5.25e-3])
    assert 5e-4 < rates[2] < 6e-4


def test_the_paper_preset_moves_the_code_alone(made, shot, instruments):
    from flexavatar_cli.stages.fitting import observations_of

    seen = list(observations_of(shot, instruments, FitOptions()))
    avatar = Avatar.load(made.encoded)
    paper, ours = (
        Optimisation(PublishedObjective(avatar, seen, instruments, FitOptions(steps=4, preset=preset)))
        for preset in ("paper", "default")
    )
    assert paper.objective.offsets.shape == (1, 0)
    first = float(paper.objective.loss(0).detach())
    assert float(ours.objective.loss(0).detach()) == pytest.approx(first)
    paper.run()
    ours.run()
    assert ours.objective.offsets.abs().max() > 0, "expression coefficients move with it"
    assert min(paper.trace[-1], ours.trace[-1]) < first


def test_a_killed_fit_goes_on_to_the_same_result(made, shot, instruments, tmp_path, monkeypatch):
    from flexavatar_cli.stages.fitting import observations_of

    monkeypatch.setattr("flexavatar_cli.stages.optimisation.CHECKPOINT_STEPS", 2)
    seen = list(observations_of(shot, instruments, FitOptions()))
    avatar, options, path = Avatar.load(made.encoded), FitOptions(steps=4), tmp_path / "fit.checkpoint"

    def optimisation(checkpoint: Path | None = None) -> Optimisation:
        return Optimisation(PublishedObjective(avatar, seen, instruments, options, 1), checkpoint)

    whole = optimisation().run()

    def kill(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        optimisation(path).run(kill)
    again = optimisation(path)
    assert again.step == 2
    assert np.array_equal(again.run().avatar_code, whole.avatar_code)


def test_a_folder_of_frames_drives_it(made, job, shot, instruments, tmp_path):
    folder = published.save_tracked(shot.track, tmp_path / "222200037" / "tracking_nV1")
    driver = pipeline.driver_file(job, tmp_path)
    assert driver == folder / "checkpoint"
    options = RenderOptions(camera="driver")
    written = pipeline.write_render(made.fitted, tmp_path / "a.png", instruments, options, 64, driver)
    from flexavatar_cli.media.images import read_photo

    assert read_photo(written).source_size == (512, 512), "the tracker's crop"


def test_published_cameras_film_it(made, instruments, tmp_path):
    for name in ("paper-circle", "paper-turn"):
        options = RenderOptions(camera=name, fps=1)
        target = pipeline.write_render(made.fitted, f"{tmp_path / name}/", instruments, options, 32)
        assert len(list(Path(target).glob("*.png"))) == 6


def test_its_code_is_written_and_read_as_published(made, instruments, tmp_path):
    avatar = Avatar.load(made.fitted)
    path = published.save_avatar(avatar, tmp_path / "avatar_code_me.npy")
    assert np.load(path).shape == (64, 1, 32)
    again = published.read_code(path, instruments)
    assert np.array_equal(again.avatar_code, avatar.avatar_code)
    code = neutral_code()[None]
    one, other = (next(puppet(value, instruments).gaussians(code)) for value in (avatar, again))
    assert torch.equal(one.positions, other.positions)
    np.save(path, np.zeros((64, 32), np.float32))
    with pytest.raises(InputError, match=r"avatar_code_me\.npy: not an avatar code"):
        published.read_code(path, instruments)


def test_codes_of_other_models_are_not_written(grey_avatar, tmp_path):
    with pytest.raises(UsageError, match="flex-1"):
        published.write_code(grey_avatar, tmp_path / "x.npy")


def test_without_flame_the_command_that_brings_it_is_named(job, portrait, tmp_path):
    bare = replace(job, instruments=replace(job.instruments, flame=None), work=WorkFolder(tmp_path))
    with pytest.raises(WeightsError, match="flexavatar models add flame PATH"):
        pipeline.shoot(bare, portrait)


def test_a_track_on_another_head_is_refused(job, portrait, shot, instruments, tmp_path):
    from flexavatar_cli.stages.motion import demo_motion
    from flexavatar_cli.stages.static_encoding import require_flame

    other = Track.load(demo_motion(2).save(tmp_path / "x.track.npz"))
    with pytest.raises(UsageError, match="wants one on FLAME"):
        require_flame(other, tmp_path / "x.track.npz")


def test_without_dinov2_the_commands_that_bring_it_are_named(monkeypatch, tmp_path):
    monkeypatch.setenv("FLEXAVATAR_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match=r"models pull dinov2 --accept-licence.*--image-features"):
        image_features.dinov2_features(np.zeros((512, 512, 3), np.uint8), 768)


def test_kept_features_are_checked(features, tmp_path):
    assert image_features.stored_features(features, FEATURES).shape == (1, FEATURES, 4, 4)
    with pytest.raises(InputError, match="768"):
        image_features.stored_features(features, 768)


def test_the_networks_input_is_resized_with_antialiasing():
    picture = np.zeros((512, 512, 3), np.uint8)
    picture[::2] = 255  # stripes of one pixel average out
    values = image_features.prepared(picture)
    assert values.shape == (1, 3, 224, 224)
    middle = (0.5 - torch.tensor(image_features.MEAN)) / torch.tensor(image_features.STD)
    assert (values[0, :, 4:-4, 4:-4] - middle[:, None, None]).abs().max() < 0.5


def test_published_inputs_are_seen_as_published(job, instruments, tmp_path, picture):
    """A photo, its `.frame` and crop box in the published layout: the encoder gets exactly that crop (SPEC 10.3)."""
    from flexavatar_cli.media.images import read_photo, write_png
    from flexavatar_cli.stages.static_encoding import observe

    tall = np.tile(picture, (5, 4, 1))  # 240 x 256
    photo = write_png(tmp_path / "me.png", np.dstack([tall, np.ones(tall.shape[:2], np.float32)]))
    published.save_tracked(published.track_of([GOLDEN]), tmp_path / "tracking" / "itw" / "me" / "tracking_nV1")
    sequence = tmp_path / "tracking" / "itw" / "me"
    with pytest.raises(InputError, match="crop box"):
        pipeline.shoot(job, photo, None, sequence)
    box = (70, 220, 40, 190)
    place = tmp_path / "processing" / "itw" / "me" / "tracking"
    place.mkdir(parents=True)
    np.save(place / "crop_ymin_ymax_xmin_xmax.npy", np.array(box, np.int32))
    matte = write_png(tmp_path / "matte.png", np.ones((512, 512), np.float32))
    shot = pipeline.shoot(job, photo, matte, sequence)
    wanted = published.crop_picture((tall * 255 + 0.5).astype(np.uint8), box)
    assert np.array_equal((read_photo(shot.source).rgb * 255 + 0.5).astype(np.uint8), wanted)
    ((rgb, alpha),) = shot.read([0])
    seen = observe(rgb, alpha, shot.track, 0)
    assert np.array_equal(seen.image, wanted)
    intrinsics = published.crop_intrinsics(published.tracker_intrinsics(GOLDEN), box, 240)
    np.testing.assert_allclose(seen.camera.intrinsics[0], intrinsics, rtol=1e-5)
    np.testing.assert_allclose(seen.camera.cam2world[0], published.headcentric_cam2world(GOLDEN), atol=1e-5)
    assert Avatar.load(pipeline.encode_step(job, shot)).camera.width == 128


def test_published_inputs_are_for_models_on_flame(tiny_instruments, tmp_path, portrait):
    (tmp_path / "seq").mkdir()
    other = pipeline.Job(tiny_instruments, WorkFolder(tmp_path))
    with pytest.raises(UsageError, match="flex-1"):
        pipeline.shoot(other, portrait, None, tmp_path / "seq")


def test_its_sheet_is_made_and_measured(made, instruments):
    from flexavatar_cli.evaluation.sheet import examine

    numbers, picture = examine(made, instruments)
    assert np.isfinite(numbers["psnr_after"])
    assert picture.shape[1] == 1920
