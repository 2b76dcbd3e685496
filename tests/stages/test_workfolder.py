"""Steps are done once, by content, and continue after a kill."""

import pytest

from flexavatar_cli.core.errors import InputError
from flexavatar_cli.stages import workfolder
from flexavatar_cli.stages.workfolder import WorkFolder


class Killed(BaseException):
    """Stands for a signal: nothing may catch it."""


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "photo.txt"
    path.write_text("face")
    return path


def shout(source):
    return lambda target: target.write_text(source.read_text().upper())


def test_a_step_is_done_once(tmp_path, source):
    work = WorkFolder(tmp_path / "work")
    first = work.step("shout", ".txt", [source], {"loud": 1}, shout(source))
    second = work.step("shout", ".txt", [source], {"loud": 1}, lambda target: pytest.fail("done before"))
    assert first == second
    assert first.read_text() == "FACE"
    assert (work.made, work.reused) == (["shout"], ["shout"])


def test_other_input_options_or_program_are_another_step(tmp_path, source, monkeypatch):
    work = WorkFolder(tmp_path / "work")
    paths = {work.step("shout", ".txt", [source], {"loud": 1}, shout(source))}
    paths.add(work.step("shout", ".txt", [source], {"loud": 2}, shout(source)))
    source.write_text("other face")
    paths.add(work.step("shout", ".txt", [source], {"loud": 1}, shout(source)))
    monkeypatch.setattr(workfolder, "program_digest", lambda: "newer")
    paths.add(work.step("shout", ".txt", [source], {"loud": 1}, shout(source)))
    assert len(paths) == 4
    assert work.reused == []


def test_a_name_is_not_trusted(tmp_path, source):
    work = WorkFolder(tmp_path / "work")
    path = work.step("shout", ".txt", [source], {}, shout(source))
    path.write_text("tampered")
    assert work.step("shout", ".txt", [source], {}, shout(source)).read_text() == "FACE"
    note = path.with_name(path.name + ".json")
    note.write_text("{broken")
    work.step("shout", ".txt", [source], {}, shout(source))
    note.unlink()
    work.step("shout", ".txt", [source], {}, shout(source))
    assert work.made == ["shout"] * 4


def test_a_killed_step_leaves_nothing_and_the_rest_is_kept(tmp_path, source):
    work = WorkFolder(tmp_path / "work")
    first = work.step("shout", ".txt", [source], {}, shout(source))

    def dies(target):
        target.write_text("half")
        raise Killed

    with pytest.raises(Killed):
        work.step("echo", ".txt", [first], {}, dies)
    assert sorted(path.name for path in work.folder.iterdir()) == [first.name, first.name + ".json"]
    again = WorkFolder(work.folder)
    first = again.step("shout", ".txt", [source], {}, shout(source))
    again.step("echo", ".txt", [first], {}, shout(first))
    assert (again.made, again.reused) == (["echo"], ["shout"])


def test_a_folder_is_a_result_too(tmp_path, source):
    work = WorkFolder(tmp_path / "work")

    def frames(target):
        (target / "inner").mkdir(parents=True)
        (target / "0.txt").write_text("a")
        (target / "inner" / "1.txt").write_text("b")

    path = work.step("frames", "", [source], {}, frames)
    assert work.step("frames", "", [source], {}, frames) == path
    for added in (path / "2.txt", path / "inner" / "2.txt"):
        added.write_text("added")
        work.step("frames", "", [source], {}, frames)
        assert not added.exists()
    (path / "inner" / "1.txt").write_text("tampered")
    work.step("frames", "", [source], {}, frames)
    assert (path / "inner" / "1.txt").read_text() == "b"


def test_missing_input_and_unwritable_folder_are_named(tmp_path, source):
    with pytest.raises(InputError, match="nothing"):
        WorkFolder(tmp_path / "work").step("shout", ".txt", [tmp_path / "nothing"], {}, shout(source))
    with pytest.raises(InputError, match=r"photo\.txt"):
        WorkFolder(source / "work").step("shout", ".txt", [source], {}, shout(source))


def test_default_folder_goes_by_content(tmp_path, source, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first = workfolder.default_folder([source], {"steps": 1})
    assert first.is_relative_to(tmp_path / "cache")
    assert first != workfolder.default_folder([source], {"steps": 2})
    source.write_text("x")
    assert first != workfolder.default_folder([source], {"steps": 1})
