"""Downloads against a server of our own: resume, checksum, refusals, progress."""

from __future__ import annotations

import hashlib
import io
import threading
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from coin_ray.data import monuseg
from coin_ray.data.card import Archive
from coin_ray.data.fetch import data_home, fetch, instructions
from coin_ray.download import download, unfinished
from coin_ray.errors import UserError

CONTENT = np.random.default_rng(0).bytes(3_000_000)
SHA = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.requests.append((self.path, self.headers.get("Range")))
        if self.path == "/missing":
            self.send_error(404)
            return
        if self.path == "/page":
            self.reply(b"<html>log in</html>", {"Content-Type": "text/html"})
            return
        content = server.files.get(self.path, CONTENT)
        start = 0
        if self.headers.get("Range") and self.path != "/no-range":
            start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                self.send_error(416)
                return
        stop = server.break_after if server.break_after is not None else len(content)
        server.break_after = None
        headers = {"Content-Length": str(len(content) - start)}
        if self.path == "/chunked":
            headers = {}
        self.reply(content[start:stop], headers, 206 if start else 200)

    def reply(self, body, headers, status=200):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.requests, server.files, server.break_after = [], {}, None
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_download_with_progress(server, tmp_path):
    seen = []
    path = download(
        f"{server.url}/a",
        tmp_path / "new" / "a.zip",
        sha256=SHA,
        progress=lambda *p: seen.append(p),
    )
    assert path.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [p.name for p in path.parent.iterdir()] == ["a.zip"]


def test_it_goes_on_where_it_stopped(server, tmp_path):
    server.break_after = 1_000_000
    with pytest.raises(UserError, match="goes on where it stopped"):
        download(f"{server.url}/a", tmp_path / "a.zip", sha256=SHA)
    assert unfinished(f"{server.url}/a", tmp_path / "a.zip").stat().st_size == 1_000_000
    assert not (tmp_path / "a.zip").exists()
    seen = []
    download(f"{server.url}/a", tmp_path / "a.zip", sha256=SHA, progress=lambda *p: seen.append(p))
    assert server.requests == [("/a", None), ("/a", "bytes=1000000-")]
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert min(done for done, _ in seen) > 1_000_000
    assert {total for _, total in seen} == {len(CONTENT)}


def test_a_server_without_ranges_starts_over(server, tmp_path):
    url = f"{server.url}/no-range"
    unfinished(url, tmp_path / "a.zip").write_bytes(b"old")
    download(url, tmp_path / "a.zip", sha256=SHA)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def test_a_part_that_is_whole_already(server, tmp_path):
    unfinished(f"{server.url}/a", tmp_path / "a.zip").write_bytes(CONTENT)
    download(f"{server.url}/a", tmp_path / "a.zip", sha256=SHA)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def test_a_server_that_does_not_say_the_size(server, tmp_path):
    seen = []
    download(
        f"{server.url}/chunked", tmp_path / "a", sha256=SHA, progress=lambda *p: seen.append(p)
    )
    assert seen[-1] == (len(CONTENT), None)


def test_another_file_than_published_is_deleted(server, tmp_path):
    server.files["/a"] = b"other"
    with pytest.raises(UserError, match="not the file that was published"):
        download(f"{server.url}/a", tmp_path / "a.zip", sha256=SHA)
    assert not list(tmp_path.iterdir())


def test_a_local_file_is_checked_and_not_fetched(server, tmp_path):
    (tmp_path / "a.zip").write_bytes(CONTENT)
    download(f"{server.url}/a", tmp_path / "a.zip", sha256=SHA)
    assert not server.requests
    (tmp_path / "a.zip").write_bytes(b"other")
    with pytest.raises(UserError, match="not the file"):
        download(f"{server.url}/a", tmp_path / "a.zip", sha256=SHA)
    assert (tmp_path / "a.zip").exists()  # it is the user's


@pytest.mark.parametrize(("path", "text"), [("missing", "404"), ("page", "web page")])
def test_refusals(server, tmp_path, path, text):
    with pytest.raises(UserError, match=text):
        download(f"{server.url}/{path}", tmp_path / "a.zip")
    assert not list(tmp_path.iterdir())


def test_no_connection(tmp_path):
    with pytest.raises(UserError, match="could not be fetched"):
        download("http://127.0.0.1:1/a", tmp_path / "a.zip", timeout=2)


def packed(**entries):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name.replace("__", "/"), content)
    return buffer.getvalue()


@pytest.fixture
def card(server):
    archives = []
    for name in ("one", "two"):
        content = packed(**{f"{name}__image.txt": name * 500})
        server.files[f"/{name}.zip"] = content
        sha256 = hashlib.sha256(content).hexdigest()
        archives.append(Archive(f"{server.url}/{name}.zip", f"{name}.zip", sha256))
    return replace(monuseg.CARD, archives=tuple(archives))


def test_fetch_unpacks_every_archive_and_can_be_repeated(server, card, tmp_path):
    seen = set()
    folders = fetch(card, tmp_path, progress=lambda name, *_: seen.add(name))
    assert seen == {"one.zip", "two.zip"}
    assert [f.name for f in folders] == ["one", "two"]
    assert (tmp_path / "two" / "two" / "image.txt").read_text() == "two" * 500
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one", "two"]
    assert fetch(card, tmp_path) == folders
    assert len(server.requests) == 2


def test_what_a_user_brought_stays(server, card, tmp_path):
    (tmp_path / "one.zip").write_bytes(server.files["/one.zip"])
    (tmp_path / "one.part").mkdir()
    (tmp_path / "two.zip.part").write_bytes(b"of a browser")
    fetch(card, tmp_path)
    assert server.requests == [("/two.zip", None)]
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "one", "one.part", "one.zip", "two", "two.zip.part",
    ]  # fmt: skip


def test_an_interrupted_fetch_goes_on(server, card, tmp_path):
    server.break_after = 50
    with pytest.raises(UserError, match="goes on"):
        fetch(card, tmp_path)
    fetch(card, tmp_path)
    assert server.requests[1] == ("/one.zip", "bytes=50-")
    assert (tmp_path / "one" / "one" / "image.txt").exists()


def test_a_hostile_archive_is_not_unpacked(server, tmp_path):
    content = packed(**{"../evil": "x"})
    server.files["/a.zip"] = content
    archive = Archive(f"{server.url}/a.zip", "a.zip", hashlib.sha256(content).hexdigest())
    with pytest.raises(UserError, match="reaches out"):
        fetch(replace(monuseg.CARD, archives=(archive,)), tmp_path / "to")
    assert [p.name for p in (tmp_path / "to").iterdir()] == ["a.zip"]


def test_instructions_say_what_a_person_must_do():
    from coin_ray.data.catalogue import NAMES, get

    for name in NAMES:
        card = get(name).CARD
        text = instructions(card)
        assert card.licence in text
        assert card.url in text
        assert "1. " in text


def test_data_home(monkeypatch, tmp_path):
    monkeypatch.setenv("COIN_RAY_HOME", str(tmp_path))
    assert data_home() == tmp_path / "data"
    monkeypatch.delenv("COIN_RAY_HOME")
    assert data_home().parts[-3:] == (".cache", "coin_ray", "data")
