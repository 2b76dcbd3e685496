import cv2
import numpy as np
import pytest

from flexavatar_cli.core.errors import InputError, WeightsError
from flexavatar_cli.core.options import MatteOptions
from flexavatar_cli.media.frames import open_frames
from flexavatar_cli.media.images import composite, read_photo, resize, write_png
from flexavatar_cli.media.video import write_video
from flexavatar_cli.stages import matting
from flexavatar_cli.stages.matting import figures, guard, matte, nets
from flexavatar_cli.stages.matting.figures import whole
from flexavatar_cli.stages.matting.nets import modnet, modnet_size, open_net
from flexavatar_cli.stages.matting.refinement import guided_filter, solve_symmetric
from flexavatar_cli.stages.matting.unmixing import foreground


def make_net(path, inputs=("n", 3, "h", "w"), channels=1, fixed=None):
    """An ONNX net whose alpha is the mean of the colours, mapped from -1..1 to 0..1."""
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    shape = list(inputs)
    nodes = [
        helper.make_node("ReduceMean", ["input"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("Mul", ["mean", "half"], ["scaled"]),
        helper.make_node("Add", ["scaled", "half"], ["one"]),
        helper.make_node("Concat", ["one"] * channels, ["output"], axis=1),
    ]
    half = helper.make_tensor("half", kind, [1], [0.5])
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("input", kind, shape)],
        [helper.make_tensor_value_info("output", kind, [shape[0], channels, *shape[2:]])],
        [half],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))
    return path


def test_any_net_of_modnets_contract_runs(tmp_path):
    net = modnet(make_net(tmp_path / "tiny.onnx"))
    rgb = np.zeros((50, 70, 3), np.float32)
    rgb[10:40, 20:50] = 1
    alpha = matting.matte_picture(rgb, net)
    assert alpha.shape == (50, 70)
    assert alpha[15:35, 25:45].min() > 0.99
    assert alpha[:8].max() < 0.01
    assert net.digest == modnet(tmp_path / "tiny.onnx").digest


def test_modnet_of_a_fixed_size(tmp_path):
    net = modnet(make_net(tmp_path / "tiny.onnx", (1, 3, 64, 96)))
    assert net.probability(np.ones((50, 70, 3), np.float32)).shape == (50, 70)


@pytest.mark.parametrize(("inputs", "channels"), [((1, 4, "h", "w"), 1), ((1, 3, "h", "w"), 2), ((1, "h", "w", 3), 1)])
def test_another_contract_is_one_line(tmp_path, inputs, channels):
    with pytest.raises(WeightsError, match="not MODNet's contract") as caught:
        modnet(make_net(tmp_path / "tiny.onnx", inputs, channels))
    assert "\n" not in str(caught.value)


def test_no_net_and_broken_nets(tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"no net at all")
    for choice, words in (
        (tmp_path / "broken.onnx", "cannot|loaded"),
        (tmp_path / "no.onnx", "no such"),
        ("x", "unknown"),
    ):
        with pytest.raises(WeightsError, match=words):
            open_net(str(choice))


@pytest.mark.parametrize(
    ("size", "expected"), [((1024, 2048), (512, 1024)), ((300, 400), (512, 672)), ((512, 512), (512, 512))]
)
def test_modnet_is_run_at_its_authors_sizes(size, expected):
    assert modnet_size(*size) == expected


def test_guided_filter_follows_the_edge_of_the_picture():
    guide = np.zeros((40, 40, 3), np.float32)
    guide[:, 20:] = (0.8, 0.4, 0.1)
    coarse = cv2.GaussianBlur((guide[..., 0] > 0).astype(np.float32), (0, 0), 3)
    sharp = guided_filter(guide, np.roll(coarse, 2, axis=1), 6, 1e-4)[:, 8:-8]
    step = np.abs(np.diff(sharp, axis=1))
    assert (step.argmax(1) == 20 - 1 - 8).all()
    assert step.max(1).min() > 3 * np.abs(np.diff(coarse, axis=1)).max()
    np.testing.assert_allclose(guided_filter(guide, np.full((40, 40), 0.3, np.float32), 6, 1e-4), 0.3, atol=1e-4)


def test_foreground_loses_the_old_background():
    rows, columns = np.mgrid[:240, :240].astype(np.float32)
    alpha = np.clip((columns - 80) / 6 + 0.2 * np.sin(rows / 2), 0, 1)
    person = np.stack([0.3 + 0.1 * np.sin(columns / 9), 0.2 + rows / 1200, np.full_like(rows, 0.1)], -1)
    green = np.float32([0, 0.8, 0.2])
    rgb = composite(person, alpha, green)
    front = foreground(rgb, alpha)
    soft = (alpha > 0.1) & (alpha < 0.999)
    assert np.abs(front - person)[soft].mean() < 0.3 * np.abs(rgb - person)[soft].mean()
    np.testing.assert_array_equal(front[alpha == 1], rgb[alpha == 1])
    assert np.isfinite(foreground(rgb, np.zeros_like(alpha))).all()
    np.testing.assert_array_equal(foreground(rgb, np.ones_like(alpha)), rgb)


def test_symmetric_systems_are_solved():
    rng = np.random.default_rng(0)
    root = rng.standard_normal((50, 3, 3))
    matrix, right = root @ root.transpose(0, 2, 1) + 0.1 * np.eye(3), rng.standard_normal((50, 3))
    square = matrix[:, [0, 1, 2], [0, 1, 2]]
    across = matrix[:, [0, 1, 2], [1, 2, 0]]
    expected = np.linalg.solve(matrix, right[..., None])[..., 0]
    np.testing.assert_allclose(solve_symmetric(square, across, right), expected, rtol=1e-6)


def test_strands_stay_and_strangers_go():
    alpha = np.zeros((100, 100), np.float32)
    alpha[30:90, 20:80] = 1
    alpha[5:30, 50] = 0.3  # a strand
    alpha[50:54, 50:54] = 0  # a gap
    alpha[2:6, 2:6] = 1  # a stranger
    result = figures.attached(alpha)
    assert result[10, 50] == np.float32(0.3)
    assert result[52, 52] == 0
    assert result[:8, :10].max() == 0


def test_own_net_is_guarded():
    rough = np.zeros((200, 200), np.float32)
    rough[60:200, 50:150] = 1
    rgb = np.repeat(1 - rough[..., None], 3, -1)  # a dark person before a white wall
    fine = rough.copy()
    fine[100:110, 90:100] = 0  # a hole
    fine[130:200, 50:80] = 0  # so large that the segmentation may have erred
    fine[60:62, 100:148] = 0  # a wide outline
    fine[58:60, 60:80] = 0.6  # hair
    fine[44:60, 80] = 0.7  # a strand
    rgb[58:60, 60:80] = rgb[44:60, 80] = 0.1
    fine[120:150, 170:192] = 1  # a stranger
    fine[140:142, 150:170] = 1  # ... who touches
    result = guard.guarded(rgb, fine, rough, rough)
    assert result[100:110, 90:100].min() == 1
    assert result[140:, 50:70].max() == 0
    assert result[60:62, 105:140].max() == 0
    np.testing.assert_allclose(result[59, 60:80], 0.6)
    assert result[48:59, 80].min() > 0.6
    assert result[120:150, 172:192].max() == 0
    assert not guard.guarded(rgb, fine, 0 * rough, rough).any()  # it sees nobody


def test_lost_patches_are_restored():
    rough = np.zeros((200, 200), np.float32)
    rough[20:180, 20:180] = 1
    fine = rough.copy()
    fine[20:40, 60:90] = 0  # a cap
    fine[40:150, 100:102] = 0  # a gap between locks
    result = guard.restored(fine, rough, rough)
    assert result[20:40, 60:90].min() == 1
    assert result[45:150, 100:102].max() == 0
    assert guard.restored(0 * fine, rough, rough).max() == 0  # too much
    np.testing.assert_array_equal(guard.restored(rough, rough, rough), rough)


def test_colours_tell_who_is_right_about_a_patch():
    rough = np.zeros((200, 200), np.float32)
    rough[60:200, 50:150] = 1
    rgb = np.repeat(1 - rough[..., None], 3, -1)  # a dark person before a white wall
    fine = rough.copy()
    fine[120:150, 150:165] = 1  # a thing at the wall
    fine[60:90, 135:165] = 1  # a lock that the segmentation lost
    rgb[60:90, 135:165] = 0.1
    fine[58:60, 50:150] = 0.6  # a rim
    fine[160:170, 54:60] = 0  # a hole in the coat
    fine[160:170, 138:144] = 0  # a gap
    rgb[160:170, 138:144] = 1
    result = guard.arbitrated(rgb, fine, rough)
    assert result[122:148, 152:163].max() == 0
    np.testing.assert_array_equal(result[:100], fine[:100])
    assert result[160:170, 54:60].min() == 1
    assert result[160:170, 138:144].max() == 0
    np.testing.assert_array_equal(guard.arbitrated(rgb, rough, rough), rough)


def test_a_shoulder_that_is_neither_like_the_person_nor_like_the_ground_stays():
    rough = np.zeros((200, 200), np.float32)
    rough[60:200, 50:150] = 1
    rgb = np.repeat(1 - rough[..., None], 3, -1)  # a dark person before a white wall
    fine = rough.copy()
    fine[180:200, 150:180] = 1  # which the segmentation missed
    rgb[180:200, 150:180] = (1, 0.3, 0.8)
    np.testing.assert_array_equal(guard.arbitrated(rgb, fine, rough), fine)


def test_a_cable_behind_the_head_is_no_hair():
    fine = np.zeros((200, 200), np.float32)
    fine[60:200, 50:150] = 1
    hair = fine.copy()
    hair[52:60, 80] = 0.7  # a strand
    hair[30:60, 100:130] = 0.4  # a tuft
    both = hair.copy()
    both[90, 150:190] = 0.8
    result = guard.without_wires(both)
    np.testing.assert_array_equal(result[:, :150], hair[:, :150])
    assert result[:, 153:].max() == 0
    np.testing.assert_array_equal(guard.without_wires(0 * fine), 0 * fine)


def test_a_segmentation_that_misses_a_third_is_overruled():
    fine = np.zeros((200, 200), np.float32)
    fine[40:200, 40:160] = 1
    rough, rgb = fine.copy(), np.full((200, 200, 3), 0.5, np.float32)
    rough[:, 110:] = 0
    assert guard.guarded(rgb, fine, rough, rough)[60:, 50:150].min() == 1


def test_our_own_net_is_the_default(monkeypatch, tmp_path):
    monkeypatch.setattr(nets.weights, "model_cache", lambda: tmp_path)
    nets.open_net.cache_clear()
    net = open_net()
    assert net.guided
    assert net.digest == open_net("portrait").digest
    assert "portrait-matting" in net.name
    (tmp_path / "modnet").mkdir()
    make_net(tmp_path / "modnet" / "modnet.onnx")
    nets.open_net.cache_clear()
    assert open_net().name == "MODNet (modnet.onnx)"
    nets.open_net.cache_clear()


def test_a_guide_reaches_nets_that_take_one(tmp_path):
    onnx = pytest.importorskip("onnx")
    path = make_net(tmp_path / "tiny.onnx")
    rgb, guide = np.full((64, 64, 3), 0.2, np.float32), np.ones((64, 64), np.float32)
    np.testing.assert_allclose(nets.open_modnet(path)(rgb, guide), 0.2, atol=1e-6)  # is not asked for one
    model = onnx.load(str(path))
    model.graph.node[-1].input[0] = "told"
    model.graph.node.insert(3, onnx.helper.make_node("ReduceMean", ["guide"], ["mean_guide"], axes=[2, 3]))
    model.graph.node.insert(4, onnx.helper.make_node("Mul", ["one", "mean_guide"], ["told"]))
    model.graph.input.append(onnx.helper.make_tensor_value_info("guide", onnx.TensorProto.FLOAT, [1, 1, "y", "x"]))
    model.graph.initializer.append(onnx.helper.make_tensor("guide", onnx.TensorProto.FLOAT, [1, 1, 1, 1], [2.0]))
    onnx.save(model, str(path))
    look = nets.open_modnet(path)
    np.testing.assert_allclose(look(rgb, None), 0.4, atol=1e-6)
    np.testing.assert_allclose(look(rgb, 3 * guide), 0.6, atol=1e-6)


def test_segmentations_speak_in_logits():
    sure = nets.guide_of(np.array([0, 0.5, 1], np.float32))
    assert sure[1] == 0
    assert sure[2] == pytest.approx(-sure[0], rel=1e-3)
    assert 2.5 < sure[2] < 3.5


def test_one_figure_without_small_holes():
    alpha = np.zeros((100, 100), np.float32)
    alpha[20:90, 20:80] = 1
    alpha[50:54, 50:54] = 0  # a hole
    alpha[70:90, 30:60] = 0  # an opening as between arm and body
    alpha[69, 30] = 0.4
    alpha[2:6, 2:6] = 1  # a stranger
    result = whole(alpha)
    assert result[52, 52] == 1
    assert result[80, 40] == 0
    assert result[:10, :10].max() == 0
    assert result[69, 30] == np.float32(0.4)


def test_portrait_is_found_and_the_same_every_time(portrait, tmp_path, capfd):
    small = write_png(tmp_path / "a.png", resize(read_photo(portrait).rgb, (256, 300)))
    (alpha,) = matte(open_frames(small), MatteOptions("selfie"))
    assert alpha.shape == (300, 256)
    assert alpha[100:160, 110:160].min() == 1  # face
    assert alpha[:20, -60:].max() == 0  # sky
    assert alpha[-10:, 100:200].min() == 1  # chest
    assert 0 < (np.abs(alpha - 0.5) < 0.45).mean() < 0.1  # soft, and only at the edge
    np.testing.assert_array_equal(np.round(alpha * 255) / 255, alpha.astype(np.float64).round(9).astype(np.float32))
    nets.open_net.cache_clear()
    (again,) = matte(open_frames(small), MatteOptions("selfie"))
    np.testing.assert_array_equal(again, alpha)
    assert capfd.readouterr().err == ""  # mediapipe's own talk stays inside


@pytest.mark.golden
def test_matte_of_the_sample_portrait(portrait, golden):
    matte = matting.matte_picture(read_photo(portrait).rgb, nets.selfie())
    small = resize(matte, (128, 150))
    assert np.abs(small - golden("matte_sample_portrait", small)).mean() < 0.01  # CPUs differ in the last bits


def test_neighbours_calm_a_flicker(tmp_path):
    rng = np.random.default_rng(0)
    base = np.zeros((32, 32), np.float32)
    base[8:24, 8:24] = 1

    def flicker(rgb):
        return np.clip(base + 12 * (rgb[..., 0] - 0.515), 0, 1)

    net = nets.Net("flicker", "0", flicker, coarse=False)
    shots = [np.full((32, 32, 3), 0.5 + 0.03 * value, np.float32) for value in rng.random(9)]
    frames = open_frames(write_video(tmp_path / "a", shots, 25))
    smooth = np.stack(list(matte(frames, MatteOptions("selfie"), net=net)))
    single = np.stack([matting.matte_picture(rgb, net) for rgb in frames])
    assert len(smooth) == 9
    assert np.abs(np.diff(smooth, axis=0)).mean() < 0.75 * np.abs(np.diff(single, axis=0)).mean()


def test_nothing_is_smoothed_across_a_cut(tmp_path):
    net = nets.Net("red", "0", lambda rgb: rgb[..., 0], coarse=False, guided=True)
    shots = [np.full((32, 32, 3), value, np.float32) for value in (0.8, 0.8, 0.6, 0.6, 0.62)]
    frames = open_frames(write_video(tmp_path / "a", shots, 25))
    alphas = [float(alpha[5, 5]) for alpha in matte(frames, MatteOptions("selfie"), net=net)]
    np.testing.assert_allclose(alphas, [0.8, 0.8, 0.6, 0.605, 0.615], atol=0.004)


def test_own_transparency_is_the_matte(tmp_path, picture):
    clear = np.dstack([picture, picture[..., 0]])
    frames = open_frames(write_png(tmp_path / "a.png", clear))
    for choice in ("auto", "alpha"):
        (alpha,) = matte(frames, MatteOptions(choice))
        np.testing.assert_allclose(alpha, picture[..., 0], atol=1e-6)
    corner = np.ones_like(picture[..., 0])
    corner[:4, :4] = 0
    rounded = open_frames(write_png(tmp_path / "c.png", np.dstack([picture, corner])))
    assert not matting.has_own_matte(rounded)
    assert matting.has_own_matte(rounded, MatteOptions("alpha"))
    with pytest.raises(InputError, match="no transparency"):
        list(matte(open_frames(write_png(tmp_path / "b.png", picture)), MatteOptions("alpha")))


@pytest.mark.parametrize("net", ["selfie", "portrait"])
def test_a_wall_is_no_person(tmp_path, net):
    wall = write_png(tmp_path / "wall.png", np.full((64, 64, 3), 0.5, np.float32))
    with pytest.raises(InputError, match="no person found in frame 0"):
        list(matte(open_frames(wall), MatteOptions(net)))


@pytest.mark.parametrize("name", ["portrait_epps_nasa.jpg", "portrait_bluford_nasa.jpg", "portrait_ride_nasa.jpg"])
def test_sample_portraits_have_whole_heads(shared_dir, name):
    frames = open_frames(shared_dir / "samples" / name)
    (alpha,) = matte(frames, MatteOptions("selfie"))
    height, width = alpha.shape
    assert alpha[int(0.3 * height) : int(0.5 * height), int(0.45 * width) : int(0.6 * width)].min() == 1
    assert 0.3 < alpha.mean() < 0.75
