"""What `prepare` may replace."""

import pytest

from flexavatar_cli.cli.app import run
from flexavatar_cli.training import people
from flexavatar_cli.training.synthetic import pack


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """The folders that `prepare` went on to write, in a folder with raw material and photos."""
    monkeypatch.chdir(tmp_path)
    for name in ("material/ict_hair.npz", "photos/anna.jpg", "old/pack.json", "old/photos/anna.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "empty").mkdir()
    folders: list[str] = []
    monkeypatch.setattr(pack, "prepare_pack", lambda data, output, *_, **__: folders.append(str(output)))
    monkeypatch.setattr(people, "prepare_people", lambda *_: (0, 0))
    return folders


@pytest.mark.parametrize(
    ("output", "more", "words"),
    [
        ("material", [], "raw material"),
        ("material/..", [], "raw material"),
        ("old", ["--people", "old/photos"], "raw material"),
        ("photos", [], "not a training folder"),
        ("material/ict_hair.npz", [], "not a training folder"),
    ],
)
def test_other_folders_are_not_removed(prepared, capsys, output, more, words):
    assert run(["prepare", "material", "-o", output, "--overwrite", *more]) == 2
    assert words in capsys.readouterr().err
    assert prepared == []


def test_training_folders_are_replaced_if_asked(prepared):
    assert run(["prepare", "material", "-o", "old"]) == 2
    for output, more in (("old", ["--overwrite"]), ("empty", []), ("new", [])):
        assert run(["prepare", "material", "-o", output, *more]) == 0
    assert prepared == ["old", "empty", "new"]
