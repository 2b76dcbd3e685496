"""What a command may write over."""

import pytest
from PIL import Image

from flexavatar_cli.cli.app import run
from flexavatar_cli.cli.outputs import claim_film
from flexavatar_cli.core.errors import UsageError


@pytest.fixture
def here(tmp_path, monkeypatch, grey_avatar):
    """The current folder: an avatar, a clip, and a folder `shown` with somebody's picture."""
    monkeypatch.chdir(tmp_path)
    grey_avatar.save(tmp_path / "a.avatar")
    for folder, count in (("clip", 2), ("shown", 1)):
        (tmp_path / folder).mkdir()
        for number in range(count):
            Image.new("RGB", (32, 32)).save(tmp_path / folder / f"{number:06d}.png")
    return tmp_path


@pytest.mark.parametrize(
    "command",
    [
        ["render", "a.avatar", "--fps", "1", "--size", "16"],
        ["interpolate", "a.avatar", "a.avatar", "--fps", "1", "--size", "16"],
        ["track", "clip", "-o", "clip.npz", "--overlay", "shown.png"],
    ],
)
def test_frames_do_not_replace_a_folder_unasked(here, tiny_model, command, capsys):
    more = [] if command[0] == "track" else ["--model", str(tiny_model), "-o", "shown.png"]
    assert run([*command, *more]) == 2
    assert capsys.readouterr().err.startswith("error: shown: exists already; pass --overwrite")
    assert [path.name for path in (here / "shown").iterdir()] == ["000000.png"]


def test_one_picture_goes_to_its_own_name(here):
    claim_film(here / "shown.png", overwrite=False, single=True)
    claim_film(here / "shown.png", overwrite=True)
    claim_film(here / "new.png", overwrite=False)
    with pytest.raises(UsageError, match="shown: exists"):
        claim_film(here / "shown.PNG", overwrite=False)
