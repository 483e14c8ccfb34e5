"""``coin-ray store``, ``models`` and ``doctor`` as a user calls them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import Result

from coin_ray.cluster.own import did_not_start
from coin_ray.cluster.probing import Probed
from coin_ray.errors import UserError
from coin_ray.store.artifacts import Artifact, Store
from coin_ray.store.keys import make_key
from coin_ray.weights import registry
from tests.cli_calls import call, enter


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("COIN_RAY_HOME", str(tmp_path / "home"))
    return enter(tmp_path, monkeypatch)


@pytest.fixture(autouse=True)
def no_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    """What others have left on this machine is no matter of these tests."""
    monkeypatch.setattr("coin_ray.cluster.folders._places", list)


@pytest.fixture
def store(folder: Path) -> Store:
    made = Store(folder / ".coin-ray" / "store")
    for stage in ("ucis", "features", "embed"):
        for i in range(2):
            pixels = Artifact({"a": np.zeros(50_000, np.uint8)})
            made.save(make_key(stage, 1, f"t{i}", {"i": i}, {}), pixels, 1.0)
    return made


def rows(done: Result) -> dict[str, list[str]]:
    return {li.split()[0]: li.split()[1:] for li in done.stdout.splitlines() if li.strip()}


def test_store_ls(store: Store) -> None:
    done = call("store", "ls")
    assert done.exit_code == 0, done.output
    found = rows(done)
    assert found["ucis"][0] == "2" and found["ucis"][1:3] == ["101", "kB"]
    assert found["total"][0] == "6" and 300 < int(found["total"][1]) < 310  # with the manifests
    stages = [li.split()[0] for li in done.stdout.splitlines() if li.split()[1:2] == ["2"]]
    assert stages == ["ucis", "features", "embed"]  # in the chain's order


def test_store_gc(store: Store) -> None:
    (store.root / "leases" / "ucis").mkdir(parents=True)
    (store.root / "leases" / "ucis" / "t-1").write_text("")
    told = call("store", "gc", "--quota", "120kB", "--dry-run").stdout
    assert "would free 101 kB (quota 120 kB)" in told
    assert len(store.folders("features") + store.folders("embed")) == 4
    assert "freed 101 kB" in call("store", "gc", "--quota", "120kB").stdout
    assert len(store.folders("features") + store.folders("embed")) == 2
    assert len(store.folders("ucis")) == 2
    assert "freed 0 B" in call("store", "gc").stdout


def test_store_verify(store: Store) -> None:
    assert "6 artifacts, all as they were written" in call("store", "verify").stdout
    data = store.root / "features" / store.folders("features")[0] / "data.safetensors"
    data.write_bytes(data.read_bytes()[:100])
    done = call("store", "verify")
    assert done.exit_code == 1
    assert f"features/{data.parent.name}: its data (100 of " in done.stdout
    assert "1 of 6 artifacts are broken; --fix removes them" in done.stderr
    fixed = call("store", "verify", "--fix")
    assert fixed.exit_code == 0 and "1 of 6 artifacts removed" in fixed.stdout
    assert "5 artifacts, all as they were written" in call("store", "verify").stdout


@pytest.mark.parametrize("verb", ["ls", "gc", "verify"])
def test_without_a_store(verb: str) -> None:
    done = call("store", verb)
    assert done.exit_code == 2 and "there is no store" in done.stderr


@pytest.mark.parametrize("quota", ["many", "5XB", "-1GB", ""])
def test_a_quota_that_is_none(store: Store, quota: str) -> None:
    done = call("store", "gc", f"--quota={quota}")
    assert done.exit_code == 2 and "500MB or 20GB" in done.stderr


# --- models


@pytest.fixture
def own(folder: Path) -> Path:
    path = folder / "mine.safetensors"
    save_file({"a": torch.ones(3)}, path)
    return path


def test_weights_of_ones_own_are_registered(own: Path, folder: Path) -> None:
    done = call(
        "models", "add", "mae_large_fit3d", str(own), "--licence", "MIT", "--like", "mae_large"
    )
    assert done.exit_code == 0, done.output
    weights = registry.entry("mae_large_fit3d")
    assert (weights.licence, weights.build) == ("MIT", registry.entry("mae_large").build)
    assert registry.locate("mae_large_fit3d").read_bytes() == own.read_bytes()
    assert weights.sha256 == registry.file_digest(own)
    listed = next(
        li for li in call("models", "list").stdout.splitlines() if "mae_large_fit3d" in li
    )
    assert "MIT" in listed and "your own" in listed
    assert "ok   mae_large_fit3d: sha256 " in call("models", "verify", "mae_large_fit3d").stdout
    again = call("models", "add", "mae_large_fit3d", str(own), "--licence", "MIT")
    assert again.exit_code == 2 and "registered already" in again.stderr


def test_ones_own_may_replace_an_official_file(own: Path, folder: Path) -> None:
    home = folder / "home"
    home.mkdir()
    (home / "registry.yaml").write_text("# mine\nother: {file: o.pth, licence: CC0, size_mb: 1}\n")
    assert call("models", "add", "mae_base", str(own), "--licence", "CC0").exit_code == 0
    assert registry.entry("mae_base").licence == "CC0"
    assert registry.entry("mae_base").build == {"model": "vit_base_patch16_224.mae"}
    assert registry.entry("other").file == "o.pth"
    assert (home / "registry.yaml").read_text().startswith("# mine\n")


def test_what_add_refuses(own: Path, folder: Path) -> None:
    (folder / "bad.safetensors").write_bytes(b"no")
    for args, text in (
        (("x", str(own), "--licence", "MIT"), "nothing says which network"),
        (("x", str(own), "--licence", "MIT", "--like", "mae_bsae"), "did you mean mae_base"),
        (("mae_base", "bad.safetensors", "--licence", "MIT"), "not a readable weight file"),
        (("mae_base", "nothing.pth", "--licence", "MIT"), "no such file"),
        (("mae_base", str(own), "--like", "mae_large"), "say their --licence too"),
        (("sam_vit_b", str(own)), "not in the format of sam_vit_b"),
    ):
        done = call("models", "add", *args)
        assert done.exit_code == 2 and text in done.stderr, (args, done.output)
    assert not (folder / "home" / "registry.yaml").exists()


def test_verify_goes_on_after_a_broken_file(own: Path) -> None:
    for name in ("mae_base", "mae_large", "mae_huge"):
        call("models", "add", name, str(own), "--licence", "MIT")
    for name in ("mae_base", "mae_huge"):
        registry.locate(name).write_bytes(b"broken")
    done = call("models", "verify")
    assert done.exit_code == 2
    for part in ("fail mae_base", "ok   mae_large", "fail mae_huge"):
        assert part in done.stdout
    assert "2 files cannot be used" in done.stderr


# --- doctor


SOCKETS = [("127.0.0.1", 8265, "python"), ("127.0.0.1", 4000, "raylet")]


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Stands for the cluster: what each node says of the store."""
    seen = {"head": "", "worker": ""}
    monkeypatch.setattr(
        "coin_ray.cluster.probing.probe",
        lambda address, folder: Probed(seen, [] if address else SOCKETS, {}),
    )
    return seen


def marks(done: Result) -> dict[str, str]:
    return {li[5:23].strip(): li.split()[0] for li in done.stdout.splitlines()}


def test_doctor(nodes: dict[str, str], folder: Path) -> None:
    done = call("doctor")
    assert done.exit_code == 0, done.output
    found = marks(done)
    assert set(found.values()) <= {"ok", "warn"}
    for what in ("python", "torch", "small models", "workspace", "free disk", "Ray", "tracker"):
        assert found[what] in ("ok", "warn"), what
    assert found["paper's models"] == "warn" and "coin-ray models fetch" in done.stdout
    assert "runs tasks on 2 nodes" in done.stdout and "on worker: read and written" in done.stdout
    assert not (folder / ".coin-ray").exists()


def test_doctor_says_what_listens_where(
    nodes: dict[str, str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = call("doctor").stdout
    assert "on 127.0.0.1 alone, with a token: ports 4000, 8265" in told
    assert "MLflow listens" in told and "on 127.0.0.1 alone, port 5000 or a free one" in told
    assert "Ray listens" not in call("doctor", "--address", "10.0.0.1:6379").stdout
    monkeypatch.setitem(globals(), "SOCKETS", [*SOCKETS, ("::", 4000, "raylet")])
    done = call("doctor")
    assert marks(done)["Ray listens"] == "warn" and ":::4000 (raylet)" in done.stdout


def test_doctor_looks_at_the_token_in_the_home_folder(
    nodes: dict[str, str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "home", lambda: folder)
    assert "Ray's token" not in call("doctor").stdout
    token = folder / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("secret")
    token.chmod(0o644)
    done = call("doctor")
    assert marks(done)["Ray's token"] == "warn" and f"chmod 600 {token}" in done.stdout
    token.chmod(0o600)
    assert marks(call("doctor"))["Ray's token"] == "ok"


def test_doctor_tells_what_to_do(
    nodes: dict[str, str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes["worker"] = "FileNotFoundError: No such file or directory"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    done = call("doctor", "--address", "10.0.0.1:6379")
    assert done.exit_code == 1
    assert marks(done)["store"] == "fail" and marks(done)["tracker"] == "fail"
    assert "has to be one folder that all nodes see" in done.stdout
    assert "check MLFLOW_TRACKING_URI" in done.stdout and "secret" not in done.stdout


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (UserError("no Ray cluster answers at x", do="start one"), "no Ray cluster answers at x"),
        (
            did_not_start(OSError(28, "No space left on device")),
            "No space left on device  ->  make",
        ),
        (RuntimeError("version mismatch\nmore"), "cannot run a task: version mismatch"),
        (TimeoutError(), "cannot run a task: TimeoutError"),
    ],
)
def test_doctor_without_ray(error: Exception, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def probe(address: str | None, folder: Path) -> dict[str, str]:
        raise error

    monkeypatch.setattr("coin_ray.cluster.probing.probe", probe)
    done = call("doctor")
    assert done.exit_code == 1 and marks(done)["Ray"] == "fail" and text in done.stdout
    assert "tracker" in marks(done)  # it goes on
