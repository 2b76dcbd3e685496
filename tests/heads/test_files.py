"""Head model folders: round trip, and every way in which one can be broken."""

import shutil
from pathlib import Path

import pytest
import torch
import yaml

from flexavatar_cli.core.errors import WeightsError
from flexavatar_cli.core.files import digest_file
from flexavatar_cli.heads import load_head, save_head
from flexavatar_cli.heads.files import DEFAULT, EAR_LIGHT


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(DEFAULT, tmp_path / "head")
    return tmp_path / "head"


def weights_of(folder: Path) -> Path:
    return next(folder.glob("*.safetensors"))


def accept(folder: Path) -> None:
    """Write the present file's digest into the card, so that only its content can offend."""
    card = yaml.safe_load((folder / "head.yaml").read_text())
    card["sha256"] = digest_file(weights_of(folder))
    (folder / "head.yaml").write_text(yaml.safe_dump(card))


def test_round_trip(tmp_path: Path) -> None:
    head = load_head()
    again = save_head(head, tmp_path, {"licence": "test"})
    assert again.digest == digest_file(tmp_path / "open-head.safetensors")
    torch.testing.assert_close(again.template, head.template, atol=0, rtol=0)
    torch.testing.assert_close(again.identity_basis, head.identity_basis, atol=0, rtol=0)
    assert again.faces.dtype == torch.int64
    assert again.landmark_used.dtype == torch.bool


def test_path_may_be_the_folder_or_its_card(folder: Path) -> None:
    assert load_head(folder).digest == load_head(folder / "head.yaml").digest


def test_shipped_file_is_small_and_documented() -> None:
    assert weights_of(DEFAULT).stat().st_size < 12e6
    assert (DEFAULT / "CARD.md").stat().st_size > 500
    assert "ICT-FaceKit" in (DEFAULT / "NOTICE").read_text()


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="nothing-here"):
        load_head(tmp_path / "nothing-here")


def test_missing_weights(folder: Path) -> None:
    weights_of(folder).unlink()
    with pytest.raises(WeightsError, match="safetensors"):
        load_head(folder)


def test_ears_are_shaded_by_a_picture_that_may_be_missing_but_not_damaged(folder: Path) -> None:
    assert load_head(folder).ear_light is not None
    (folder / EAR_LIGHT).write_bytes(b"no picture")
    with pytest.raises(WeightsError, match=EAR_LIGHT):
        load_head(folder)
    (folder / EAR_LIGHT).unlink()
    assert load_head(folder).ear_light is None


@pytest.mark.parametrize("card", ["", "[1, 2", "format: other/1", "format: flexavatar-head/1", "\x00\x01"])
def test_damaged_card(folder: Path, card: str) -> None:
    (folder / "head.yaml").write_text(card)
    with pytest.raises(WeightsError):
        load_head(folder)


def test_changed_weights_are_refused(folder: Path) -> None:
    blob = bytearray(weights_of(folder).read_bytes())
    blob[-1] ^= 1
    weights_of(folder).write_bytes(blob)
    with pytest.raises(WeightsError, match="sha256"):
        load_head(folder)


@pytest.mark.parametrize("keep", [0, 7, 1000, 100_000])
def test_truncated_weights_with_a_right_digest(folder: Path, keep: int) -> None:
    weights_of(folder).write_bytes(weights_of(folder).read_bytes()[:keep])
    accept(folder)
    with pytest.raises(WeightsError):
        load_head(folder)


def test_foreign_safetensors_with_a_right_digest(folder: Path) -> None:
    from safetensors.torch import save_file

    save_file({"template": torch.zeros(4, 3)}, weights_of(folder))
    accept(folder)
    with pytest.raises(WeightsError, match="lacks"):
        load_head(folder)


def test_card_cannot_point_outside_its_folder(folder: Path) -> None:
    card = yaml.safe_load((folder / "head.yaml").read_text())
    shutil.move(weights_of(folder), folder.parent / "elsewhere.safetensors")
    (folder / "head.yaml").write_text(yaml.safe_dump(card | {"file": "../elsewhere.safetensors"}))
    with pytest.raises(WeightsError):
        load_head(folder)
