import subprocess
from fractions import Fraction

import numpy as np
import pytest

from flexavatar_cli.core.errors import InputError, UsageError
from flexavatar_cli.media import video
from flexavatar_cli.media.images import read_photo
from flexavatar_cli.media.video import constant_rate, probe, read, write_video


def film(count: int, height: int = 48, width: int = 64, channels: int = 3) -> list[np.ndarray]:
    """Frames that tell their number by brightness, left half only."""
    frames = []
    for number in range(count):
        frame = np.full((height, width, channels), 0.2, np.float32)
        frame[:, : width // 2] = number_to_level(number)
        frame[..., 3:] = 1
        frames.append(frame)
    return frames


def number_to_level(number: int) -> float:
    return 0.1 + 0.04 * number


def numbers_in(frames) -> list[int]:
    return [round((float(frame[4:-4, 4 : frame.shape[1] // 2 - 4].mean()) - 0.1) / 0.04) for frame in frames]


def ffmpeg(*arguments: str) -> None:
    subprocess.run([video.ffmpeg(), "-v", "error", "-y", *arguments], check=True)


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".mov"])
@pytest.mark.parametrize("size", [(48, 64), (47, 33)])
@pytest.mark.parametrize("fps", [25.0, 24000 / 1001])
def test_round_trip_keeps_size_rate_and_count(tmp_path, suffix, size, fps):
    frames = film(12, *size)
    path = write_video(tmp_path / f"a{suffix}", frames, fps)
    found = probe(path)
    assert (found.height, found.width, len(found)) == (*size, 12)
    assert found.fps == pytest.approx(fps, rel=1e-9)
    back = list(read(found))
    assert numbers_in(back) == list(range(12))
    assert np.abs(back[3] - frames[3]).max() < 0.06


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".mov", ".png"])
def test_same_frames_give_same_bytes(tmp_path, suffix):
    first = write_video(tmp_path / f"a{suffix}", film(1 if suffix == ".png" else 5), 25).read_bytes()
    assert write_video(tmp_path / f"b{suffix}", film(1 if suffix == ".png" else 5), 25).read_bytes() == first


def test_png_of_many_frames_is_a_folder(tmp_path):
    folder = write_video(tmp_path / "a.png", film(3, channels=4), 25)
    assert folder == tmp_path / "a"
    assert [path.name for path in sorted(folder.iterdir())] == ["000000.png", "000001.png", "000002.png"]
    np.testing.assert_allclose(read_photo(folder / "000002.png").rgb, film(3)[2], atol=1 / 255)
    write_video(folder, film(2), 25)
    assert len(list(folder.iterdir())) == 2


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "holiday.txt").write_text("keep me")
    with pytest.raises(InputError, match="other files"):
        write_video(tmp_path, film(2), 25)
    assert (tmp_path / "holiday.txt").read_text() == "keep me"


@pytest.mark.parametrize(("suffix", "decoder"), [(".webm", ["-c:v", "libvpx-vp9"]), (".mov", [])])
def test_webm_and_prores_carry_transparency(tmp_path, suffix, decoder):
    frames = film(2, channels=4)
    for frame in frames:
        frame[:24, :, 3] = 0
        frame[24:, :, 3] = np.linspace(0.1, 1, 64)
    path = write_video(tmp_path / f"a{suffix}", frames, 25)
    ffmpeg(*decoder, "-i", str(path), "-frames:v", "1", "-pix_fmt", "rgba", str(tmp_path / "a.png"))
    photo = read_photo(tmp_path / "a.png")
    np.testing.assert_allclose(photo.alpha[30:], frames[0][30:, :, 3], atol=0.06 if suffix == ".webm" else 0.01)
    np.testing.assert_allclose(photo.rgb[30:], frames[0][30:, :, :3], atol=0.06)
    assert photo.alpha[:20].max() < 0.1


def test_mp4_refuses_transparency(tmp_path):
    with pytest.raises(UsageError, match="transparency"):
        write_video(tmp_path / "a.mp4", film(2, channels=4), 25)


def test_nothing_is_left_of_a_film_that_failed(tmp_path):
    def frames():
        yield film(1)[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_video(tmp_path / "a.mp4", frames(), 25)
    assert list(tmp_path.iterdir()) == []


def test_selected_frames(tmp_path):
    found = probe(write_video(tmp_path / "a.mp4", film(10), 25))
    assert numbers_in(read(found, [0, 3, 3, 9])) == [0, 3, 3, 9]
    with pytest.raises(ValueError, match="ascend"):
        list(read(found, [3, 1]))


def test_rotation_tag_is_applied(tmp_path):
    source = write_video(tmp_path / "a.mp4", film(3), 25)
    ffmpeg("-display_rotation", "90", "-i", str(source), "-c", "copy", str(tmp_path / "r.mp4"))
    found = probe(tmp_path / "r.mp4")
    assert (found.width, found.height) == (48, 64)
    turned = next(read(found))
    np.testing.assert_allclose(turned, np.rot90(next(read(probe(source)))), atol=0.03)


def test_variable_rate_becomes_constant(tmp_path):
    source = write_video(tmp_path / "a.mp4", film(20), 25)
    # frames 0..9, then every third: 12, 15, 18
    select = "select='lt(n,10)+not(mod(n,3))'"
    ffmpeg("-i", str(source), "-vf", select, "-fps_mode", "vfr", str(tmp_path / "v.mkv"))
    found = probe(tmp_path / "v.mkv")
    assert found.fps == 25
    assert numbers_in(read(found)) == [*range(10), 9, 9, 12, 12, 12, 15, 15, 15, 18]


@pytest.mark.parametrize("rate", [Fraction(24000, 1001), Fraction(25), Fraction(30000, 1001), Fraction(60)])
def test_an_even_grid_keeps_every_frame(rate):
    times = np.round(np.arange(100) * float(1000 / rate)).astype(int)  # milliseconds, as in webm
    fps, index = constant_rate(times, Fraction(1, 1000), rate, rate)
    assert fps == rate
    np.testing.assert_array_equal(index, np.arange(100))


def test_a_film_that_ends_early_is_read_as_far_as_it_goes(tmp_path, caplog):
    rng = np.random.default_rng(0)
    noise = [rng.random((64, 64, 3), np.float32) for _ in range(20)]
    whole = write_video(tmp_path / "a.mp4", noise, 25).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    with caplog.at_level("WARNING"):
        found = probe(tmp_path / "cut.mp4")
    assert 4 < len(found) < 15
    assert "ends early" in caplog.text
    assert len(list(read(found))) == len(found)


def test_what_is_no_film_is_one_line(tmp_path):
    whole = write_video(tmp_path / "a.mp4", film(5), 25).read_bytes()
    (tmp_path / "head.mp4").write_bytes(whole[:600])
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("hello\n" * 100)
    (tmp_path / "list.m3u8").write_text(f"#EXTM3U\n#EXTINF:1,\n{tmp_path / 'a.mp4'}\n")
    for name in ("head.mp4", "empty.mp4", "text.mp4", "list.m3u8", "none.mp4"):
        with pytest.raises(InputError) as caught:
            probe(tmp_path / name)
        assert "\n" not in str(caught.value)
