"""Photo to mp4 with a tiny random model on a CPU: the whole line, its restarts, and what it says to bad input."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flexavatar_cli.cli.app import run
from flexavatar_cli.core.avatar import Avatar
from flexavatar_cli.core.track import Track
from flexavatar_cli.media.frames import open_frames
from flexavatar_cli.media.samples import sample_portrait
from flexavatar_cli.stages import motion, pipeline

STEPS, SIZE = "3", "64"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A home and a current folder of one's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture(scope="session")
def photo(tmp_path_factory) -> Path:
    """The sample portrait, smaller: the tracker and the matting net do not mind."""
    path = tmp_path_factory.mktemp("photo") / "hopper.jpg"
    Image.open(sample_portrait()).convert("RGB").resize((384, 450)).save(path, quality=95)
    return path


@pytest.fixture(scope="session")
def journey(tmp_path_factory, tiny_model, photo) -> Path:
    """A work folder in which `create` has run, with its results beside it."""
    folder = tmp_path_factory.mktemp("journey")
    assert (
        run(create(photo, tiny_model, "-o", str(folder / "hopper.avatar"), "--work", str(folder / "work"), "-q")) == 0
    )
    return folder


def create(photo: Path, model: Path, *more: str) -> list[str]:
    return ["create", str(photo), "--model", str(model), "--steps", STEPS, "--size", SIZE, *more]


def test_a_photo_becomes_an_avatar_and_a_film(journey):
    avatar = Avatar.load(journey / "hopper.avatar")
    assert avatar.model == "tiny"
    assert avatar.thumbnail.startswith(b"\x89PNG")
    film = open_frames(journey / "hopper.mp4")
    assert (film.width, film.height, film.fps) == (64, 64, 25)
    assert len(film) / film.fps >= 4
    first, back, last = film.read([0, len(film) // 2, len(film) - 1])
    assert np.abs(first - back).mean() > 0.01  # it turned
    assert np.abs(first - last).mean() < np.abs(first - back).mean()  # and came round


def test_single_steps_give_the_same_bytes(journey, tiny_model, photo, tmp_path):
    script = Path(__file__).with_name("steps.sh").read_text()
    values = {"photo": photo, "folder": tmp_path, "model": tiny_model, "steps": STEPS, "size": SIZE}
    for line in script.splitlines():
        if line.startswith("flexavatar "):
            for name, value in values.items():
                line = line.replace(f"${name}", str(value))
            assert run([*shlex.split(line)[1:], "-q"]) == 0
    work = journey / "work"
    assert (tmp_path / "matte.png").read_bytes() == next(work.glob("matte-*.png")).read_bytes()
    assert (tmp_path / "track.npz").read_bytes() == next(work.glob("track-*.npz")).read_bytes()
    assert (tmp_path / "encoded.avatar").read_bytes() == next(work.glob("encode-*.avatar")).read_bytes()
    assert (tmp_path / "fitted.avatar").read_bytes() == (journey / "hopper.avatar").read_bytes()
    assert (tmp_path / "fitted.mp4").read_bytes() == (journey / "hopper.mp4").read_bytes()


@pytest.mark.parametrize("verb", ["write_fitted", "write_render"])
def test_a_killed_run_continues(journey, tiny_model, photo, tmp_path, monkeypatch, capsys, verb):
    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(pipeline, verb, dies)
        assert run(create(photo, tiny_model, "-o", "a.avatar")) == 130
    assert list(Path.cwd().iterdir()) == []
    capsys.readouterr()
    order = ["track", "matte", "encode", "fit", "render"]
    done = order[: order.index({"write_fitted": "fit", "write_render": "render"}[verb])]
    assert run(create(photo, tiny_model, "-o", "a.avatar", "--no-preview", "--json")) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["reused"] == done
    assert Path("a.avatar").read_bytes() == (journey / "hopper.avatar").read_bytes()
    assert list((tmp_path / "cache/flexavatar/work").iterdir()) == []  # a run that succeeded leaves nothing behind


def test_runs_side_by_side_leave_one_another_alone(journey, tiny_model, photo, monkeypatch):
    write = pipeline.write_fitted

    def meanwhile(*arguments: object) -> Path:
        monkeypatch.setattr(pipeline, "write_fitted", write)
        assert run(create(photo, tiny_model, "-o", "b.avatar", "--no-preview", "-q")) == 0
        return write(*arguments)

    monkeypatch.setattr(pipeline, "write_fitted", meanwhile)
    assert run(create(photo, tiny_model, "-o", "a.avatar", "--no-preview", "-q")) == 0
    made = (journey / "hopper.avatar").read_bytes()
    assert Path("a.avatar").read_bytes() == Path("b.avatar").read_bytes() == made


def test_json_says_what_was_used_and_how_good_it_is(journey, tiny_model, photo, capsys):
    more = ("-o", "a.avatar", "--work", str(journey / "work"), "--json", "--no-preview", "--sheet", "sheet.png")
    assert run(create(photo, tiny_model, *more)) == 0
    said = capsys.readouterr()
    result = json.loads(said.out)
    assert result["weights"].startswith("tiny ")
    assert "(random)" in result["weights"]
    assert result["backend"] == "cpu"
    assert "backend: cpu" in said.err
    assert "matting: " in said.err
    quality = result["quality"]
    assert set(quality["hidden_view_psnr"]) == {"90", "135", "180", "225", "270"}
    assert len(quality["holes"]) == 12
    assert 0 < quality["silhouette_iou_before"] <= 1
    assert Image.open("sheet.png").size[0] == 1920


def test_a_film_follows_its_driver(journey, tiny_model, photo, capsys):
    avatar, model = str(journey / "hopper.avatar"), ["--model", str(tiny_model)]
    motion.demo_motion(5, 48).save(Path("motion.npz"))
    run(["render", avatar, *model, "--driver", "motion.npz", "--camera", "driver", "-o", "moved.mp4", "-q"])
    film = open_frames("moved.mp4")
    assert (len(film), film.fps, film.width) == (30, 5, 48)
    assert run(["render", avatar, *model, "--driver", str(photo), "--camera", "driver", "-o", "front.png"]) == 0
    assert Image.open("front.png").size == Image.open(photo).size
    assert run(["render", avatar, *model, "--driver", "motion.npz", "--camera", "front", "--relative", "-o", "frames",
                "--size", "32", "--background", "transparent"]) == 0  # fmt: skip
    assert len(list(Path("frames").iterdir())) == 30
    assert Image.open("frames/000000.png").mode == "RGBA"


def test_decode_gives_gaussians(journey, tiny_model):
    avatar, model = str(journey / "hopper.avatar"), ["--model", str(tiny_model)]
    assert run(["decode", avatar, *model, "-o", "rest.npz"]) == 0
    assert run(["decode", avatar, *model, "-o", "open.npz", "--set", "jawOpen=1"]) == 0
    rest, opened = np.load("rest.npz")["positions"], np.load("open.npz")["positions"]
    assert rest.shape == opened.shape
    assert np.abs(rest - opened).max() > 0.01
    assert run(["decode", avatar, *model, "--set", "jawOpen"]) == 2
    assert run(["decode", avatar, *model, "-o", "rest.splat"]) == 2


def test_a_film_is_fitted_and_measured(tiny_model, photo, capsys):
    frame = Image.open(photo)
    Path("clip").mkdir()
    for number in range(4):
        frame.rotate(number - 2, fillcolor=(60, 90, 150)).save(f"clip/{number}.png")
    command = ["fit", "clip", "--model", str(tiny_model), "--steps", "2", "--hold-out", "4", "--work", "w", "--json"]
    assert run([*command, "-o", "a.avatar"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["held_out_frames"] == 1
    assert result["held_out_psnr"] > 5
    assert len(list(Path("w").glob("matte-*/*.png"))) == 4
    assert len(Track.load(next(Path("w").glob("track-*.npz")))) == 4
    assert run([*command, "-o", "b.pt"]) == 0
    assert json.loads(capsys.readouterr().out)["made"] == []
    assert Avatar.load(Path("b.pt")).digest == Avatar.load(Path("a.avatar")).digest


def blank(path: Path) -> Path:
    Image.new("RGB", (200, 200), (90, 120, 160)).save(path)
    return path


BAD = {
    "missing": (3, lambda photo, model: create(Path("nothing.jpg"), model)),
    "empty": (3, lambda photo, model: create(touch("empty.jpg", b""), model)),
    "no image": (3, lambda photo, model: create(touch("text.jpg", b"hello"), model)),
    "no face": (3, lambda photo, model: create(blank(Path("blank.png")), model)),
    "face number": (3, lambda photo, model: create(photo, model, "--face", "7")),
    "existing": (2, lambda photo, model: create(photo, model, "-o", str(touch("there.avatar", b"kept")))),
    "a film's name": (2, lambda photo, model: create(photo, model, "-o", "a.mp4")),
    "a film's name for fit": (2, lambda photo, model: ["fit", str(photo), "--steps", "0", "-o", "a.mp4"]),
    "a picture's name": (2, lambda photo, model: ["encode", str(photo), "-o", "a.png"]),
    "all held out": (2, lambda photo, model: ["fit", str(photo), "--hold-out", "1"]),
    "nothing held out": (2, lambda photo, model: ["fit", str(photo), str(photo), "--hold-out", "2"]),
    "unwritable": (3, lambda photo, model: create(photo, model, "-o", f"{touch('file', b'x')}/a.avatar")),
    "unknown model": (4, lambda photo, model: create(photo, Path("open-99"))),
    "no weights": (4, lambda photo, model: create(photo, without_weights(model))),
    "no cuda": (5, lambda photo, model: create(photo, model, "--device", "cuda:63")),
    "no such device": (5, lambda photo, model: create(photo, model, "--device", "abacus")),
    "no such option": (2, lambda photo, model: create(photo, model, "--speed", "9")),
    "no such net": (4, lambda photo, model: create(photo, model, "--matte", "u3net")),
    "no such matte": (3, lambda photo, model: create(photo, model, "--matte", "nothing.png")),
    "two photos, one name": (2, lambda photo, model: create(photo, model, str(photo))),
    "no avatar": (3, lambda photo, model: ["render", str(photo)]),
    "truncated film": (
        3,
        lambda photo, model: ["fit", str(touch("clip.mp4", b"\x00\x00\x00\x20ftypisom" + b"\x00" * 40))],
    ),
}


def touch(name: str, content: bytes) -> Path:
    Path(name).write_bytes(content)
    return Path(name)


def without_weights(model: Path) -> Path:
    folder = Path("bare")
    folder.mkdir()
    (folder / "model.yaml").write_bytes((model / "model.yaml").read_bytes())
    return folder


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_an_exit_code(name, tiny_model, photo, capfd):
    code, make = BAD[name]
    command = make(photo, tiny_model)
    before = {path: path.read_bytes() for path in Path.cwd().rglob("*") if path.is_file()}
    capfd.readouterr()
    assert run([*command, "-q"]) == code
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert {path: path.read_bytes() for path in Path.cwd().rglob("*") if path.is_file()} == before


def test_driver_camera_needs_a_driver(journey, tiny_model):
    assert run(["render", str(journey / "hopper.avatar"), "--model", str(tiny_model), "--camera", "driver"]) == 2
    assert run(["render", str(journey / "hopper.avatar"), "--model", str(tiny_model), "--background", "pink"]) == 2
    assert list(Path.cwd().iterdir()) == []
