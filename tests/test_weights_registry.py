from __future__ import annotations

import hashlib
import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, get_args

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from coin_ray.cli.verbs.models import app
from coin_ray.confidence.settings import Sam, segmenter_name
from coin_ray.errors import UserError
from coin_ray.ucis.settings import DETECTOR
from coin_ray.weights import registry
from coin_ray.weights.fetch import add, fetch
from coin_ray.weights.state_files import load_state, read_state

STATE = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4)}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COIN_RAY_HOME", str(tmp_path / "home"))
    (tmp_path / "home" / "weights").mkdir(parents=True)
    return tmp_path / "home"


@pytest.fixture
def official(tmp_path: Path) -> Path:
    path = tmp_path / "official.safetensors"
    save_file(STATE, path)
    return path


class Server(http.server.BaseHTTPRequestHandler):
    content = b""
    ranges: ClassVar[list[str | None]] = []
    cut = 0  # bytes after which the next answer breaks off; 0 = never

    def do_GET(self) -> None:
        if self.path == "/missing":
            self.send_error(404)
            return
        wanted = self.headers.get("Range")
        Server.ranges.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        if start >= len(self.content):
            self.send_error(416)
            return
        body = self.content[start:]
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: Server.cut] if Server.cut else body)
        Server.cut = 0

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(official: Path) -> Iterator[str]:
    Server.content, Server.ranges, Server.cut = official.read_bytes(), [], 0
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def register(home: Path, url: str, sha256: str | None) -> Path:
    digest = f", sha256: '{sha256}'" if sha256 else ""
    (home / "registry.yaml").write_text(
        f"toy: {{file: toy.safetensors, licence: CC0, size_mb: 0.1, url: '{url}'{digest}}}\n"
    )
    return home / "weights" / "toy.safetensors"


def test_every_setting_of_a_backbone_or_segmenter_has_an_entry() -> None:
    families = {
        "mae": ["mini", "base", "large", "huge"],
        "dinov1": ["mini", "small", "base"],
        "dinov2": ["mini", "small", "base", "large", "giant"],
        "dinov2_reg": ["mini", "small", "base", "large", "giant"],
    }
    wanted = {f"{family}_{size}" for family, sizes in families.items() for size in sizes}
    wanted |= {f"{name}_fit3d" for name in ("mae_base", "dinov2_small", "dinov2_base")}
    wanted |= {"dinov2_reg_small_fit3d"}
    wanted |= {segmenter_name(name) for name in get_args(Sam.model_fields["model"].annotation)}
    assert {"sam_mini", "sam_mini_2", "sam_vit_b", "sam_vit_h", "sam2_hiera_l"} <= wanted
    wanted |= {DETECTOR, "resnet34_imagenet", "resnet50_imagenet", "resnet101_imagenet"}
    assert set(registry.names()) == wanted


def test_entries_are_complete() -> None:
    for name in registry.names():
        weights = registry.entry(name)
        assert weights.licence and weights.size_mb > 0, name
        assert weights.packaged != bool(weights.url), name
        assert weights.sha256 is None or len(bytes.fromhex(weights.sha256)) == 32, name
        assert weights.sha256_prefix is None or weights.sha256_prefix in weights.file, name


def test_the_registry_names_models_that_timm_has_pretrained() -> None:
    from coin_ray.compat import ensure_torchvision

    ensure_torchvision()
    import timm

    for name in registry.names():
        weights = registry.entry(name)
        if not weights.packaged and not name.startswith(("sam_", "sam2_")):
            assert timm.is_model_pretrained(weights.build["model"]), name


def test_missing_weights_say_how_to_get_them(home: Path) -> None:
    with pytest.raises(UserError) as error:
        registry.locate("mae_base")
    text = str(error.value)
    assert "coin-ray models fetch mae_base" in text
    assert "coin-ray models add mae_base FILE" in text
    assert "--profile mini" in text
    assert str(home) in text


def test_an_unknown_name_gets_the_nearest_one() -> None:
    with pytest.raises(UserError, match="did you mean mae_base"):
        registry.entry("mae_bsae")


def test_digest_is_the_sha256_and_follows_the_file(home: Path, official: Path) -> None:
    path = register(home, "http://unused", None)
    path.write_bytes(official.read_bytes())
    first = registry.digest("toy")
    assert first == hashlib.sha256(official.read_bytes()).hexdigest()
    save_file({"a": torch.zeros(9)}, path)
    assert registry.digest("toy") != first


def test_identity_depends_on_the_file_and_on_how_it_is_built(home: Path, official: Path) -> None:
    register(home, "http://unused", None).write_bytes(official.read_bytes())
    first = registry.identity("toy")
    own = home / "registry.yaml"
    own.write_text(own.read_text().replace("size_mb", "build: {model: other}, size_mb"))
    os.utime(own, ns=(1, 1))
    assert registry.identity("toy") != first


@pytest.mark.parametrize("key", ["sha256", "sha256_prefix"])
def test_a_file_that_is_not_the_official_one_is_refused(
    home: Path, official: Path, key: str
) -> None:
    path = register(home, "http://unused", "12345678")
    own = home / "registry.yaml"
    own.write_text(own.read_text().replace("sha256", key))
    path.write_bytes(official.read_bytes())
    with pytest.raises(UserError, match="not the official one"):
        registry.digest("toy")
    with pytest.raises(UserError, match="not the official one"):
        load_state("toy")


def test_a_broken_registry_is_named(home: Path) -> None:
    (home / "registry.yaml").write_text("toy: {fil: x}\n")
    with pytest.raises(UserError, match=r"registry\.yaml"):
        registry.names()


def test_a_digest_that_yaml_takes_for_a_number_is_named(home: Path) -> None:
    row = "toy: {file: x, licence: CC0, size_mb: 1, sha256_prefix: 12345678}\n"
    (home / "registry.yaml").write_text(row)
    with pytest.raises(UserError, match="quotes"):
        registry.names()


def test_fetch_downloads_checks_and_renames(home: Path, official: Path, server: str) -> None:
    sha256 = hashlib.sha256(official.read_bytes()).hexdigest()
    path = register(home, f"{server}/file", sha256)
    seen: list[tuple[int, int | None]] = []
    assert fetch("toy", progress=lambda done, total: seen.append((done, total))) == path
    assert path.read_bytes() == official.read_bytes()
    assert seen[-1] == (len(Server.content), len(Server.content))
    assert [p.name for p in path.parent.iterdir()] == ["toy.safetensors"]
    fetch("toy")
    assert len(Server.ranges) == 1, "a file that is there is not fetched again"


def test_fetch_goes_on_where_it_stopped(home: Path, official: Path, server: str) -> None:
    path = register(home, f"{server}/file", hashlib.sha256(official.read_bytes()).hexdigest())
    Server.cut = 50
    with pytest.raises(UserError, match="run it again"):
        fetch("toy")
    assert not path.exists()
    fetch("toy")
    assert Server.ranges == [None, "bytes=50-"]
    assert path.read_bytes() == official.read_bytes()


def test_fetch_refuses_a_wrong_file_and_leaves_nothing(home: Path, server: str) -> None:
    path = register(home, f"{server}/file", "0" * 64)
    with pytest.raises(UserError, match="not the official one"):
        fetch("toy")
    assert list(path.parent.iterdir()) == []


def test_fetch_refuses_what_is_no_weight_file(home: Path, server: str) -> None:
    Server.content = b"<html>log in first</html>"
    path = register(home, f"{server}/file", None)
    with pytest.raises(UserError, match="not a readable weight file"):
        fetch("toy")
    assert list(path.parent.iterdir()) == []


def test_fetch_reports_the_server_and_a_way_out(home: Path, server: str) -> None:
    register(home, f"{server}/missing", None)
    with pytest.raises(UserError, match="404") as error:
        fetch("toy")
    assert "coin-ray models add toy FILE" in str(error.value)


def test_add_copies_a_good_file(home: Path, official: Path) -> None:
    path = register(home, "http://unused", None)
    assert add("toy", official) == path
    assert torch.equal(load_state("toy")["a"], STATE["a"])


@pytest.mark.parametrize(
    ("name", "content"), [("x.safetensors", b"garbage"), ("x.pth", b"PK"), ("none", None)]
)
def test_add_refuses_a_bad_file(
    home: Path, tmp_path: Path, name: str, content: bytes | None
) -> None:
    path = register(home, "http://unused", None)
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name):
        add("toy", tmp_path / name)
    assert list(path.parent.iterdir()) == []


def test_add_refuses_a_packaged_name(official: Path) -> None:
    with pytest.raises(UserError, match="ships in the package"):
        add("mae_mini", official)


@pytest.mark.parametrize("wrap", [None, "model", "state_dict", "teacher"])
def test_torch_files_are_read_as_plain_tensors(tmp_path: Path, wrap: str | None) -> None:
    path = tmp_path / "x.pth"
    torch.save({wrap: STATE, "epoch": 3} if wrap else STATE, path)
    state = read_state(path)
    assert sorted(state) == ["a", "b"]
    assert torch.equal(state["a"], STATE["a"])


class Payload:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("executed",)


def test_code_in_a_torch_file_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Payload()}, tmp_path / "x.pth")
    with pytest.raises(UserError, match="not a readable weight file"):
        read_state(tmp_path / "x.pth")
    assert not (tmp_path / "executed").exists()


def test_a_file_cut_short_is_refused(tmp_path: Path, official: Path) -> None:
    short = tmp_path / "short.safetensors"
    short.write_bytes(official.read_bytes()[:-5])
    with pytest.raises(UserError, match=r"short\.safetensors"):
        read_state(short)
    torch.save(STATE, tmp_path / "whole.pth")
    (tmp_path / "short.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:300])
    with pytest.raises(UserError, match=r"short\.pth"):
        read_state(tmp_path / "short.pth")


def test_the_commands(home: Path, official: Path, server: str) -> None:
    path = register(home, f"{server}/file", hashlib.sha256(official.read_bytes()).hexdigest())
    run = CliRunner().invoke
    assert "sam_vit_h" in run(app, ["list"]).output
    assert str(path.name) in run(app, ["fetch", "toy"]).output.replace("\n", "")
    assert "your own" in run(app, ["verify", "toy"]).output
    path.write_bytes(b"changed")
    assert isinstance(run(app, ["verify"]).exception, UserError)
    path.unlink()
    assert run(app, ["add", "toy", str(official)]).exit_code == 0
    assert path.is_file()
