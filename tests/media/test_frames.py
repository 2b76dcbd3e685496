import numpy as np
import pytest
from PIL import Image

from flexavatar_cli.core.errors import InputError
from flexavatar_cli.media.frames import open_frames, open_inputs
from flexavatar_cli.media.images import ORIENTATION, to_uint8, write_png
from flexavatar_cli.media.video import write_video


def test_a_photo_is_a_video_of_one_frame(tmp_path, picture):
    frames = open_frames(write_png(tmp_path / "a.mp4", picture))  # content counts, not the name
    assert (frames.kind, frames.width, frames.height, len(frames)) == ("photo", 64, 48, 1)
    for _ in range(2):
        (frame,) = frames
        np.testing.assert_allclose(frame, picture, atol=1e-6)
    assert list(frames.alphas()) == [None]


def test_video_and_folder_read_alike(tmp_path, picture):
    shots = [picture, picture[::-1], picture[:, ::-1]]
    folder = open_frames(write_video(tmp_path / "a", shots, 25))
    film = open_frames(write_video(tmp_path / "a.mp4", shots, 25))
    assert (folder.kind, film.kind) == ("folder", "video")
    assert len(folder) == len(film) == 3
    for left, right in zip(folder.read([0, 2]), film.read([0, 2]), strict=True):
        assert np.abs(left - right).mean() < 0.05


def test_transparency_of_a_folder(tmp_path, picture):
    clear = np.dstack([picture, picture[..., 0]])
    folder = open_frames(write_video(tmp_path / "a", [clear, clear], 25))
    for alpha in folder.alphas():
        np.testing.assert_allclose(alpha, picture[..., 0], atol=1e-6)


def test_a_folder_of_photos_opens_one_by_one(tmp_path, picture):
    write_png(tmp_path / "a.png", picture)
    write_png(tmp_path / "b.png", picture[:20])
    (tmp_path / "notes.txt").write_text("not a picture")
    assert [frames.height for frames in open_inputs([tmp_path])] == [48, 20]
    with pytest.raises(InputError, match=r"b\.png: not the size of a\.png"):
        list(open_frames(tmp_path))


def test_an_empty_folder_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="no pictures"):
        open_frames(tmp_path)


def test_sizes_are_those_of_the_upright_pictures(tmp_path, picture):
    """A camera held upright stores the same picture lying, and says so; one held level stores another one as large."""
    lying = Image.Exif()
    lying[ORIENTATION] = 6
    stored = Image.fromarray(to_uint8(picture))
    (tmp_path / "frames").mkdir()
    stored.save(tmp_path / "frames" / "a.jpg")
    stored.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "frames" / "b.jpg", exif=lying)
    (frames,) = open_inputs([tmp_path / "frames"])
    assert [frame.shape for frame in frames] == [(48, 64, 3)] * 2
    (tmp_path / "photos").mkdir()
    stored.save(tmp_path / "photos" / "a.png")
    stored.save(tmp_path / "photos" / "b.png", exif=lying)
    assert [(photo.width, photo.height) for photo in open_inputs([tmp_path / "photos"])] == [(64, 48), (48, 64)]
