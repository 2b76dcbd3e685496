"""Real people as training data: what is found below a folder, and rows that a batch can be made of."""

import shutil

import numpy as np
import pytest

from flexavatar_cli.core.errors import InputError
from flexavatar_cli.media.images import read_photo, write_png
from flexavatar_cli.media.samples import sample_portrait
from flexavatar_cli.stages.matting.nets import open_net
from flexavatar_cli.training.config import Phase, TrainConfig
from flexavatar_cli.training.feed import Feed
from flexavatar_cli.training.people import sources_in
from flexavatar_cli.training.portraits import clip_rows
from flexavatar_cli.training.synthetic.pack import RESOLUTION, read_pack
from flexavatar_cli.training.synthetic.views import IMAGE_SIZE
from flexavatar_cli.training.targets import photo_target


def test_photos_videos_and_folders_of_frames_are_clips(tmp_path):
    frames, deep = tmp_path / "anna" / "smiling", tmp_path / "berta" / "session" / "camera-1"
    for folder in (frames, deep):
        folder.mkdir(parents=True)
        write_png(folder / "0.png", np.zeros((4, 4, 3), np.float32))
    (tmp_path / "clip.mp4").touch()
    (tmp_path / ".hidden").touch()
    assert list(sources_in(tmp_path)) == [frames, deep, tmp_path / "clip.mp4"]
    with pytest.raises(InputError, match="no such folder"):
        list(sources_in(tmp_path / "none"))


def test_a_clip_teaches_across_its_frames(head, pack_folder, tmp_path):
    photo = read_photo(sample_portrait()).rgb[::2, ::2]
    folder = tmp_path / "clip"
    for number in range(2):
        write_png(folder / f"{number}.png", photo)
    rows = list(clip_rows(folder, 8, head, open_net("selfie")))
    assert len(rows) == 2
    assert rows[0]["image"].shape == (IMAGE_SIZE, IMAGE_SIZE, 3)
    assert 0.2 < (rows[0]["alpha"] > 128).mean() < 0.95
    rows[1]["expression"] = rows[1]["expression"] + 0.25
    pack = tmp_path / "pack"
    shutil.copytree(pack_folder, pack)
    for key in rows[0]:
        np.save(pack / f"portraits.{key}.npy", np.stack([row[key] for row in rows]))
    phase = Phase(RESOLUTION, 1, 1e-3, steps=1, kind="rendered", monocular_share=1.0)
    config = TrainConfig(model="", phases=(phase,))
    with pytest.raises(InputError, match="prepare"):
        Feed(config, phase, head, read_pack(pack, head))
    np.save(pack / "portraits.clip.npy", np.zeros(2, np.int32))
    batch = Feed(config, phase, head, read_pack(pack, head)).batch(0, range(12))
    assert (batch.sink == 0).all()
    for number, target in enumerate(batch.targets):
        assert target.one_sided
        np.testing.assert_array_equal(target.expression.numpy(), batch.expression[number].numpy())
    assert len(np.unique(batch.expression[:, 0])) == 2


def test_a_soft_portrait_is_compared_at_half_the_size():
    size = IMAGE_SIZE
    picture = np.zeros((size, size, 3), np.uint8)
    picture[64:66, 32:34] = 255  # one pixel of the half-sized picture
    photo = {
        "image": picture,
        "alpha": np.full((size, size), 255, np.uint8),
        "inside": np.full((size, size), 255, np.uint8),
        "identity": np.zeros(4, np.float32),
        "expression": np.zeros(59, np.float32),
        "cam2world": np.eye(4, dtype=np.float32),
        "focal": np.float32(300),
        "centre": np.array([33.0, 65.0], np.float32),
        "native": np.float32(size),
    }
    ground = np.ones(3, np.float32)
    sharp, soft = (photo_target([photo | {"native": np.float32(n)}], ground, True) for n in (size, size / 2))
    assert sharp.picture.shape == (1, size, size, 3)
    assert soft.picture.shape == (1, size // 2, size // 2, 3)
    assert soft.alpha.shape == soft.inside.shape == (1, size // 2, size // 2)
    pixel = soft.camera.project(np.array([[0.0, 0.0, 1.0]]))[0][0, 0]  # on the axis, where the white pixel is
    x, y = pixel.astype(int)
    assert soft.picture[0, y, x].min() == 1
    assert soft.picture.sum() == 3
