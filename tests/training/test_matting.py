"""Training of the matting network: its data is what it says, its losses see what is known, its file is MODNet's."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from flexavatar_cli.core.errors import InputError, UsageError
from flexavatar_cli.media.frames import open_frames
from flexavatar_cli.media.images import composite, read_photo, resize, write_png
from flexavatar_cli.media.video import write_video
from flexavatar_cli.stages.matting import matte_picture
from flexavatar_cli.stages.matting.nets import Net, modnet, open_modnet, selfie
from flexavatar_cli.training.matting.attire import clothes, polygon
from flexavatar_cli.training.matting.cards import blend_cards
from flexavatar_cli.training.matting.composites import Painter, band_of, composed, cut_inside, placement
from flexavatar_cli.training.matting.crops import edge_corners
from flexavatar_cli.training.matting.cutouts import UNKNOWN, agreement, is_held_out, key, write_rgba
from flexavatar_cli.training.matting.edges import TRUTH, Subject, edge_errors, subjects
from flexavatar_cli.training.matting.export import export
from flexavatar_cli.training.matting.grounds import behind, cluttered, painted
from flexavatar_cli.training.matting.initial import layer_weights
from flexavatar_cli.training.matting.losses import matting_losses
from flexavatar_cli.training.matting.measuring import comparison, flicker, hair_band, limits, measure
from flexavatar_cli.training.matting.network import SEMANTIC_STRIDE, MattingNetwork, Residual
from flexavatar_cli.training.matting.training import MattingConfig, Phase, Trainer, read_config


def person(side=128):
    """Colours and soft alpha of a dark ball."""
    y, x = np.mgrid[:side, :side].astype(np.float32) - side / 2
    alpha = np.clip((0.3 * side - np.hypot(x, y)) / 4 + 0.5, 0, 1)
    return np.broadcast_to(np.float32([0.2, 0.1, 0.05]), (side, side, 3)).copy(), alpha


@pytest.fixture
def pack(tmp_path):
    """A pack of balls, trained and held out."""
    colour, alpha = person()
    names = [f"us_{number:03d}" for number in range(40)]
    kept = [next(name for name in names if is_held_out(name)), next(name for name in names if not is_held_out(name))]
    for folder in ("cutout", "portrait", "head", "held_out/head"):
        (tmp_path / folder).mkdir(parents=True)
        for name in kept:
            write_rgba(tmp_path / folder / f"{name}.png", colour, np.round(alpha) if folder == "portrait" else alpha)
    return tmp_path


def test_an_even_ground_is_keyed():
    colour, alpha = person(256)
    y, x = np.mgrid[:256, :256].astype(np.float32) / 256
    ground = np.stack([0.8 + 0.05 * x, 0.82 - 0.06 * y * y, 0.8 + 0.03 * x * y], -1)
    strand = np.zeros_like(alpha)
    cv2.line(strand, (128, 60), (150, 20), 0.8, 1)
    truth = np.maximum(alpha, strand)
    rough = cv2.GaussianBlur(alpha, (0, 0), 3)
    face = np.array([[120, 120], [136, 120], [128, 140]])
    found = key(composite(colour, truth, ground), rough, rough, face)
    assert np.abs(found - truth).mean() < 0.25 * np.abs(rough - truth).mean()
    assert found[strand > 0.7].mean() > 0.6


def test_segmenters_that_differ_leave_it_open():
    first, second = np.zeros((2, 256, 256), np.float32)
    first[60:200, 60:200] = 1
    second[60:200, 60:150] = 1
    labels = agreement(first, second)
    assert (labels[100, 80], labels[100, 170], labels[100, 20]) == (255, UNKNOWN, 0)
    assert labels[61, 100] == labels[57, 100] == UNKNOWN  # the edge itself


def test_cards_are_blended_by_depth():
    corners = np.array([[0, 0], [40, 0], [0, 40], [0, 0], [40, 0], [0, 40]], float)
    depth = np.array([2.0, 2, 2, 1, 1, 1])
    texture = np.zeros((2, 2, 4), np.float32)
    texture[0] = (1, 0, 0, 0.5)  # upper row, v > 0.5
    texture[1] = (0, 1, 0, 0.5)
    uv = np.array([[[0.5, 0.75]] * 3, [[0.5, 0.25]] * 3])  # the far card is red, the near one green
    faces = np.array([[0, 1, 2], [3, 4, 5]])
    results = []
    for order in ([0, 1], [1, 0]):
        colour, alpha = np.zeros((8, 8, 3), np.float32), np.zeros((8, 8), np.float32)
        hidden = np.full((8, 8), np.inf)
        hidden[4:] = 0.5
        blend_cards(corners, depth, faces[order], uv[order], np.ones(6, np.float32), texture, hidden, colour, alpha)
        results.append(colour)
        np.testing.assert_allclose(alpha[:4], 0.75)
        assert alpha[4:].max() == 0
    np.testing.assert_allclose(results[0][0, 0], (0.25, 0.5, 0))
    np.testing.assert_array_equal(*results)


def test_clothes_reach_the_lower_edge():
    square = polygon(32, np.array([[8.0, 8], [24, 8], [24, 24], [8, 24]]))
    assert (square[16, 16], square[2, 2]) == (255, 0)
    colour, alpha = clothes(np.array([[40.0, 60], [90, 60]]), 128, np.random.default_rng(0))
    assert alpha[-1].max() == 1
    assert (colour <= alpha[..., None] + 1e-6).all()  # premultiplied


def test_grounds_are_pictures():
    generator = np.random.default_rng(0)
    for _ in range(12):
        ground = painted(64, generator)
        assert ground.shape == (64, 64, 3)
        assert 0 <= ground.min() <= ground.max() <= 1
    rgb = np.zeros((64, 64, 3), np.uint8)
    rgb[:, 32:] = 200
    labels = np.where(np.arange(64) < 32, 255, 0)[None].repeat(64, 0).astype(np.uint8)
    assert behind(rgb, labels, 48, generator).min() > 0.7  # nothing of the black person


def test_clutter_stays_a_picture():
    for seed in range(25):
        ground = np.full((96, 96, 3), 0.5, np.float32)
        cluttered(ground, np.random.default_rng(seed))
        assert ground.shape == (96, 96, 3)
        assert 0 <= ground.min() <= ground.max() <= 1
        assert np.isfinite(ground).all()


def test_portraits_are_cut_inside_their_outline():
    labels = np.full((128, 128), UNKNOWN, np.uint8)
    labels[:, :15] = labels[:10] = labels[:, 110:] = 0
    labels[30:, 40:90] = 255
    labels[60:64, 60:64] = UNKNOWN  # glasses: within the outline
    portrait = np.dstack([np.full((128, 128, 3), 99, np.uint8), labels])
    assert cut_inside(portrait) is None  # too much is open
    labels[:, :37] = labels[:, 93:] = 0
    portrait[..., 3] = labels
    alpha = cut_inside(portrait)[..., 3]
    assert alpha[62, 62] == 255
    assert alpha[:, :36].max() == 0
    portrait[-8:, :, 3] = 0
    assert cut_inside(portrait) is None  # floats


def test_composites_know_their_alpha():
    colour, alpha = person()
    rgba = np.dstack([colour * 255, alpha * 255]).astype(np.uint8)
    for seed in range(8):
        sample = composed(rgba, np.ones((96, 96, 3), np.float32), 0.6, np.random.default_rng(seed))
        dark = 1 - sample.image.mean(-1) / 255
        assert np.corrcoef(dark.ravel(), sample.alpha.ravel())[0, 1] > 0.9
    band = band_of(alpha)
    assert band[64, 64] == band[0, 0] == 0
    assert band[(alpha > 0.1) & (alpha < 0.9)].min() == 1


def test_lower_edge_stays_out_of_sight():
    for seed in range(50):
        place = placement(np.zeros((100, 100, 4)), 64, 0.5, np.random.default_rng(seed))
        ends = place[:, :2] @ np.array([[0, 100], [100, 100]]).T + place[:, 2:]
        assert ends[1].mean() > 62


def test_losses_see_only_what_is_known():
    torch.manual_seed(0)
    truth = torch.zeros(2, 4, 64, 64)
    truth[:, 0, :, :32] = 1
    truth[:, 1] = 1
    truth[:, 1, 40:] = 0
    right = 20 * (truth[:, :1] - 0.5)
    small = torch.nn.functional.avg_pool2d(right, SEMANTIC_STRIDE), torch.nn.functional.avg_pool2d(right, 2)
    good = sum(matting_losses((*small, right), truth).values())
    spoiled = right.clone()
    spoiled[:, :, 40:] *= -1
    hidden = sum(matting_losses((*small, spoiled), truth).values())
    bad = sum(matting_losses((*small, -right), truth).values())
    assert good < 0.05
    assert hidden == pytest.approx(float(good), abs=1e-6)
    assert bad > 5


def test_the_file_keeps_modnets_contract(tmp_path):
    torch.manual_seed(0)
    network = MattingNetwork().eval()
    path = export(network, tmp_path / "portrait-matting.onnx")
    assert path.stat().st_size <= 12e6
    net = modnet(path)
    rgb = np.random.default_rng(0).random((512, 640, 3)).astype(np.float32)
    with torch.inference_mode():
        expected = network(torch.from_numpy(rgb.transpose(2, 0, 1)[None] * 2 - 1))[0, 0].numpy()
    np.testing.assert_allclose(net.probability(rgb), expected, atol=1e-4)
    assert net.probability(rgb[:300, :200]).shape == (300, 200)  # 512 x 352: an odd number of strides
    guide = np.random.default_rng(1).normal(0, 2, (512, 640)).astype(np.float32)
    quarter = cv2.resize(guide, (160, 128), interpolation=cv2.INTER_AREA)
    with torch.inference_mode():
        expected = network(
            torch.from_numpy(rgb.transpose(2, 0, 1)[None] * 2 - 1), torch.from_numpy(quarter)[None, None]
        )
    np.testing.assert_allclose(open_modnet(path)(rgb, guide), expected[0, 0].numpy(), atol=1e-4)


def test_training_goes_on_where_it_was_cut(pack):
    config = MattingConfig("matting", 0, (Phase(64, 1.0, 2, 1e-3, reduction=1),))
    (phase,) = config.phases
    trainer = Trainer(config, pack, pack / "run")
    picture, truth = (torch.stack(part) for part in zip(*[s.tensors() for s in samples(pack)]))
    before = sum(trainer.update(picture, truth, 1e-3, phase).values())
    for _ in range(15):
        after = sum(trainer.update(picture, truth, 3e-3, phase).values())
    assert after < 0.8 * before
    trainer.save()
    again = Trainer(config, pack, pack / "run")
    assert again.step == 16
    for name, value in trainer.average.state_dict().items():
        torch.testing.assert_close(again.average.state_dict()[name], value)


def trained(seed):
    """A net whose norms are not neutral, and whose residual blocks are not nothing."""
    torch.manual_seed(seed)
    network = MattingNetwork().train()
    for block in [module for module in network.modules() if isinstance(module, Residual)]:
        torch.nn.init.uniform_(block.second[1].weight, 0.5, 1)
    for _ in range(3):
        network(torch.rand(4, 3, 64, 64) * 2 - 1)
    return network


def test_training_starts_from_an_exported_file(pack):
    before = trained(1)
    before.detail_quarter = before.detail_quarter[:3]  # a file of before the branch was made deeper
    path = export(before, pack / "before.onnx")
    config = MattingConfig("matting", 0, (Phase(64, 1.0, 2, 1e-3),), initial=str(path))
    trainer = Trainer(config, pack, pack / "run")
    image, guide = torch.rand(2, 3, 96, 64) * 2 - 1, torch.randn(2, 1, 24, 16)
    with torch.inference_mode():
        expected = before.eval()(image, guide)
        for network in (trainer.network.eval(), trainer.average):
            torch.testing.assert_close(network(image, guide), expected, atol=1e-4, rtol=0)
    first = trainer.network.quarter[0][1]
    assert first.running_var.mean() != pytest.approx(1, abs=0.05)  # its statistics are those of pictures
    torch.testing.assert_close(first.weight, (first.running_var + first.eps).sqrt())
    other = export(MattingNetwork(), pack / "other.onnx")  # whose residual blocks are all alike
    joined = Trainer(replace(config, semantics=str(other)), pack, pack / "joined").network
    for branch, file in (("semantic", other), ("detail", path)):
        weight, _ = layer_weights(file)[branch]
        torch.testing.assert_close(getattr(joined, branch).weight.detach(), weight)
    (pack / "broken.onnx").write_bytes(b"no net")
    with pytest.raises(InputError, match="not an ONNX file"):
        Trainer(replace(config, initial=str(pack / "broken.onnx")), pack, pack / "other")
    before.detail_quarter = before.detail_quarter[:1]
    shorter = export(before, pack / "shorter.onnx")
    with pytest.raises(InputError, match="not those of the matting net"):
        Trainer(replace(config, initial=str(shorter)), pack, pack / "other")


def test_crops_train_the_detail_branch_alone(pack):
    phase = Phase(128, 1.0, 2, 1e-3, crop=64, crops=2)
    trainer = Trainer(MattingConfig("matting", 0, (phase,)), pack, pack / "run")
    before = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    picture, truth = (torch.stack(part) for part in zip(*[s.tensors() for s in samples(pack, 128)]))
    trainer.update(picture, truth, 1e-3, phase)
    changed = {
        name.split(".")[0] for name, value in trainer.network.state_dict().items() if (value != before[name]).any()
    }
    assert {"fine_half", "fine_quarter", "detail", "fusion"} <= changed
    assert not changed & {"stem", "quarter", "eighth", "last", "semantic", "up_quarter"}
    for _, top, left in edge_corners(truth[:, 2], 64, 3):
        assert top % 4 == left % 4 == 0
        assert 0 <= min(top, left) <= max(top, left) <= 64


def test_the_semantic_branch_is_trained_alone_and_batches_echo(pack):
    phase = Phase(64, 0.03, 4, 1e-3, reduction=0, echo=True)
    config = MattingConfig("matting", 0, (phase,))
    trainer, counts = Trainer(config, pack, pack / "run"), []
    before = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    step = trainer.update

    def counted(image, truth, rate, phase):
        counts.append(len(image))
        return step(image, truth, rate, phase)

    trainer.update = counted
    trainer.run()
    assert counts[0] == 2
    assert set(counts[1:]) <= {4}
    changed = {
        name.split(".")[0] for name, value in trainer.network.state_dict().items() if (value != before[name]).any()
    }
    assert {"stem", "last", "up_quarter", "semantic"} <= changed
    assert not changed & {"fine_half", "detail", "fusion"}


def samples(pack, side=64):
    """A few samples of every kind."""
    painter, generator = Painter(pack), np.random.default_rng(0)
    return [painter.sample(side, generator) for _ in range(4)]


def test_hold_out_is_measured(pack):
    class Blind:
        coarse, guided = False, True
        probability = staticmethod(lambda rgb: np.ones(rgb.shape[:2], np.float32))

    rows = measure({"blind": Blind()}, pack)
    assert [row["kind"] for row in rows] == ["head", "cutout"]
    assert all(row["mad"] > 0.2 for row in rows)
    alpha = person()[1]
    assert 0 < hair_band(alpha).mean() < 0.5
    assert not hair_band(alpha)[-20:].any()


def test_what_limits_a_net_is_measured(pack, tmp_path):
    torch.manual_seed(0)
    rows = limits(export(MattingNetwork().eval(), tmp_path / "net.onnx"), pack)
    assert [(row["kind"], row["third"]) for row in rows] == [("head", "low"), ("head", "middle"), ("cutout", "low")]
    assert all(0 < row["hair_band_truth_told"] <= 1 for row in rows)


def test_bad_configurations_and_empty_packs_are_named(tmp_path):
    (tmp_path / "train.yaml").write_text("kind: matting\nseed: 0\nphases: [{side: 3}]\n")
    with pytest.raises(UsageError, match="not a configuration"):
        read_config(tmp_path / "train.yaml")
    with pytest.raises(InputError, match="make the pack first"):
        Painter(tmp_path)


def test_trembling_is_flicker_and_rest_is_not(tmp_path):
    generator = np.random.default_rng(0)
    shots = [np.full((64, 64, 3), 0.5 + 0.03 * value, np.float32) for value in generator.random(8)]
    frames = open_frames(write_video(tmp_path / "clip", shots, 25))
    alpha = person(64)[1]
    still = Net("still", "0", lambda rgb: alpha, coarse=False)
    shaky = Net("shaky", "0", lambda rgb: np.clip(alpha + 10 * (rgb[..., 0] - 0.515), 0, 1), coarse=False)
    assert flicker(frames, still) == 0
    assert 0 < flicker(frames, shaky) < 0.6 * flicker(frames, shaky, smoothed=False)


def test_comparison_shows_every_net(tmp_path):
    photo = write_png(tmp_path / "a.png", composite(*person(), 1.0))
    net = Net("ball", "0", lambda rgb: person()[1], coarse=False)
    page = comparison([photo], [net, net])
    assert page.shape[1] == 9 * page.shape[0]


def test_the_train_command_knows_the_matting_net_by_its_configuration(pack, tmp_path, capsys):
    from flexavatar_cli.cli.app import run

    config = tmp_path / "train.yaml"
    config.write_text("kind: matting\nseed: 0\nphases:\n- {side: 64, minutes: 0.002, batch: 2, rate: 1.0e-3}\n")
    assert run(["train", str(config), "--data", str(pack), "-o", str(tmp_path / "run"), "--json"]) == 0
    assert '"steps"' in capsys.readouterr().out
    assert (tmp_path / "run" / "state.pt").exists()
    config.write_text("kind: matting\nphases: 3\n")
    assert run(["train", str(config), "--data", str(pack), "-o", str(tmp_path / "run")]) == 2


def test_subjects_stand_before_their_ground(pack):
    (found,) = subjects(pack, ["cutout/0"])
    assert found.rgb.shape == (128, 128, 3)
    clear = found.alpha == 0
    assert np.abs(found.rgb - found.ground)[clear].mean() < 0.1


def test_the_edge_error_of_avatars_is_measured_against_the_truth(tiny_instruments, portrait, tmp_path):
    rgb = resize(read_photo(portrait).rgb, (256, 300))
    net = Net("half", "0", lambda picture: np.float32(np.arange(300) < 150)[:, None].repeat(256, 1), coarse=False)
    alpha = matte_picture(rgb, selfie())
    subject = Subject("one", rgb, alpha, np.ones_like(rgb))
    rows, tiles = edge_errors(subject, [net], tiny_instruments, tmp_path, steps=1)
    assert [row["net"] for row in rows] == ["half", TRUTH]
    assert rows[0]["pixels"] == rows[1]["pixels"] > 100
    assert rows[1]["matte"] < 0.01 < rows[0]["matte"]
    assert len(tiles) == 7
