"""The registry against a server on this machine: fetched, resumed, verified, recorded, refused."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml

from flexavatar_cli import weights
from flexavatar_cli.cli import app
from flexavatar_cli.core.errors import InputError, UsageError, WeightsError

CONTENT = {"/good/a.bin": bytes(range(256)) * 9000, "/good/b.txt": b"hello", "/thing/a.bin": b"other"}
SHA = hashlib.sha256(CONTENT["/good/a.bin"]).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT with byte ranges; while `cut` is set, answers end after that many bytes."""

    cut = 0
    asked: list


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        content = CONTENT.get(self.path)
        self.server.asked.append((self.path, self.headers.get("Range")))
        if content is None:
            self.send_error(404)
            return
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
        if start >= len(content) and start:
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start : self.server.cut or None] if self.server.cut else content[start:])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server():
    served = Server(("127.0.0.1", 0), Handler)
    served.asked = []
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    yield served
    served.shutdown()
    served.server_close()


@pytest.fixture
def shop(server, tmp_path, monkeypatch):
    """A registry with one entry at the server, and an empty cache."""
    address = f"http://127.0.0.1:{server.server_address[1]}"
    files = [
        {"file": "a.bin", "url": f"{address}/good/a.bin", "sha256": SHA, "size": len(CONTENT["/good/a.bin"])},
        {"file": "b.txt", "url": f"{address}/good/b.txt"},
    ]
    fields = {"title": "t", "licence": "CC BY-NC 4.0", "allows": "little", "origin": "o"}
    entries = {"good": fields | {"files": files}, "far": fields | {"files": [{"file": "c.bin"}]}}
    models = tmp_path / "models"
    models.mkdir()
    (models / "registry.yaml").write_text(yaml.safe_dump({"format": weights.FORMAT, "entries": entries}))
    monkeypatch.setenv("FLEXAVATAR_MODELS", str(models))
    monkeypatch.setenv("FLEXAVATAR_CACHE", str(tmp_path / "cache"))
    return address


def test_nothing_is_fetched_before_the_licence_is_accepted(shop, server):
    with pytest.raises(UsageError, match=r"CC BY-NC 4.0 .*--accept-licence"):
        weights.pull("good")
    assert server.asked == []


def test_files_arrive_whole_and_are_recorded(shop, server):
    steps = []
    folder = weights.pull("good", True, on_bytes=lambda done, total: steps.append((done, total)))
    assert (folder / "a.bin").read_bytes() == CONTENT["/good/a.bin"]
    assert steps[-1] == (5, 5)
    assert weights.locate("good") == folder
    assert [verdict.detail for verdict in weights.verify("good")] == ["as stated", "as recorded"]
    asked = len(server.asked)
    assert weights.pull("good") == folder, "what is here needs no licence and no network"
    assert len(server.asked) == asked
    assert sorted(path.name for path in folder.iterdir()) == ["a.bin", "b.txt", "recorded.json"]


def test_an_interrupted_download_goes_on_where_it_stopped(shop, server):
    server.cut = 1_500_000
    with pytest.raises(WeightsError, match="goes on where it stopped"):
        weights.pull("good", True)
    part = weights.entry("good").folder / "a.bin.part"
    got = part.stat().st_size
    assert 0 < got <= 1_500_000
    server.cut = 0
    folder = weights.pull("good", True)
    assert ("/good/a.bin", f"bytes={got}-") in server.asked
    assert (folder / "a.bin").read_bytes() == CONTENT["/good/a.bin"]
    assert not part.exists()


def test_another_content_is_not_kept(shop, monkeypatch):
    monkeypatch.setitem(CONTENT, "/good/a.bin", b"x" * len(CONTENT["/good/a.bin"]))
    with pytest.raises(WeightsError, match="not the stated"):
        weights.pull("good", True)
    assert weights.locate("good") is None
    assert list(weights.entry("good").folder.glob("a.bin*")) == []


def test_a_file_changed_later_is_noticed(shop):
    folder = weights.pull("good", True)
    (folder / "b.txt").write_text("HELLO")
    with pytest.raises(WeightsError, match=r"b.txt: sha256 .*recorded"):
        weights.verify("good")


def test_offline_and_missing_addresses_are_named(shop, server):
    with pytest.raises(WeightsError, match=r"a.bin: .*--offline"):
        weights.pull("good", True, offline=True)
    with pytest.raises(WeightsError, match=r"no address is known for c.bin.*models add far"):
        weights.pull("far", True)
    assert server.asked == []


def test_a_mirror_is_asked_instead(shop, server):
    with pytest.raises(WeightsError, match="404"):
        weights.pull("far", True, mirror=f"{shop}/")
    assert server.asked == [("/far/c.bin", None)]


def test_files_fetched_by_hand_are_taken_over(shop, tmp_path):
    (tmp_path / "c.bin").write_bytes(b"mine")
    assert (weights.add("far", tmp_path / "c.bin") / "c.bin").read_bytes() == b"mine"
    assert weights.verify("far")[0].detail == "as recorded"
    (tmp_path / "a.bin").write_bytes(b"wrong")
    with pytest.raises(WeightsError, match="not the stated"):
        weights.add("good", tmp_path)
    with pytest.raises(InputError, match="not there"):
        weights.add("far", tmp_path / "cache")


def test_the_registry_is_checked(tmp_path):
    path = tmp_path / "registry.yaml"
    for text in ("{", "[]", "format: flexavatar-registry/1", "format: flexavatar-registry/1\nentries: {a: {title: t}}"):
        path.write_text(text)
        with pytest.raises(WeightsError, match=r"registry.yaml"):
            weights.registry(path)
    path.write_text(
        "format: flexavatar-registry/1\nentries: {a: {title: t, licence: l, allows: a, origin: o, "
        "files: [{file: ../../x}]}}"
    )
    with pytest.raises(WeightsError, match="folder in it"):
        weights.registry(path)


def test_the_shipped_registry_has_what_the_commands_name():
    assert {"flex-1", "dinov2", "modnet", "face-landmarker", "dinov2-small", "sam2-small"} == set(weights.registry())


def test_commands(shop, server, capsys):
    assert app.run(["models", "pull", "good"]) == 2
    assert "accept-licence" in capsys.readouterr().err
    assert app.run(["models", "pull", "good", "--accept-licence", "--json"]) == 0
    assert SHA in capsys.readouterr().out
    assert app.run(["models", "list"]) == 0
    out = capsys.readouterr().out
    assert "CC BY-NC 4.0" in out
    assert shop in out
    assert app.run(["models", "verify"]) == 0
    (weights.entry("good").folder / "a.bin").write_bytes(b"")
    assert app.run(["models", "verify", "good"]) == 4
    assert "BAD" in capsys.readouterr().out
    assert app.run(["models", "add", "flame", "nowhere.pkl"]) == 3
