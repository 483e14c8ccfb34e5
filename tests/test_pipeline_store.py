"""The store: whole or absent, once, and never the wrong data."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import pytest

from coin_ray.identity import canonical
from coin_ray.store import lease
from coin_ray.store.artifacts import Artifact, CorruptArtifact, Store
from coin_ray.store.keys import make_key
from coin_ray.store.timing import leave_out


def key(value: float = 0.1, name: str = "tile"):
    return make_key("ucis", 1, name, {"sigma": value}, {"image": "abc"})


def test_key_is_the_same_in_every_process_and_version():
    # Golden: if it changes, every user's store is worthless and nobody said so.
    assert key().digest == "953a012f30995e8fa4d49f546325caa90e581984054948572de283c5f1c30211"
    assert canonical({"b": 0.1, "a": [1, None]}) == '{"a":[1,null],"b":0.1}'


def test_key_changes_with_settings_inputs_stage_and_version():
    keys = {
        key().digest,
        key(0.2).digest,
        make_key("ucis", 2, "tile", {"sigma": 0.1}, {"image": "abc"}).digest,
        make_key("refine", 1, "tile", {"sigma": 0.1}, {"image": "abc"}).digest,
        make_key("ucis", 1, "tile", {"sigma": 0.1}, {"image": "abd"}).digest,
    }
    assert len(keys) == 5
    assert key(name="a/../b").path.count("/") == 1


def test_nan_is_refused_in_a_key():
    with pytest.raises(ValueError, match="not JSON compliant"):
        key(float("nan"))


def test_round_trip_and_single_computation(tmp_path: Path):
    store, calls = Store(tmp_path), []

    def compute() -> Artifact:
        calls.append(1)
        arrays = {"mask": np.eye(3, dtype=bool), "half": np.ones((2, 2), np.float16)}
        return Artifact(arrays, {"n": 3})

    told: list[str] = []
    for _ in range(2):
        found = store.get(key(), compute, lambda k, seconds: told.append(k.stage))
        assert found.arrays["mask"].dtype == bool
        assert found.arrays["mask"].sum() == 3
        assert found.info == {"n": 3}
    assert len(calls) == 1
    assert told == ["ucis"]
    assert not list((tmp_path / "tmp").iterdir())
    assert not list((tmp_path / "leases").glob("*/*"))


def test_a_failing_stage_leaves_nothing(tmp_path: Path):
    store = Store(tmp_path)

    def fail() -> Artifact:
        raise RuntimeError("no tissue")

    with pytest.raises(RuntimeError, match="no tissue"):
        store.get(key(), fail)
    assert not store.has(key())
    assert store.stages() == []
    assert not list((tmp_path / "leases").glob("*/*"))


def test_damaged_data_are_noticed_and_made_again(tmp_path: Path):
    store = Store(tmp_path)
    store.save(key(), Artifact({"a": np.arange(4)}), 0.0)
    data = store.folder(key()) / "data.safetensors"
    raw = bytearray(data.read_bytes())
    raw[-1] ^= 1
    data.write_bytes(bytes(raw))
    with pytest.raises(CorruptArtifact):
        store.load(key())
    again = store.get(key(), lambda: Artifact({"a": np.arange(4) + 1}))
    assert again.arrays["a"].tolist() == [1, 2, 3, 4]
    assert store.load(key()).arrays["a"].tolist() == [1, 2, 3, 4]


def test_the_first_writer_wins(tmp_path: Path):
    store = Store(tmp_path)
    store.save(key(), Artifact({"a": np.zeros(1)}), 0.0)
    store.save(key(), Artifact({"a": np.ones(1)}), 0.0)
    assert store.load(key()).arrays["a"] == 0


def _compute_slowly(root: str, log: str) -> None:
    def compute() -> Artifact:
        with open(log, "a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(0.5)
        return Artifact({"a": np.arange(3)})

    assert Store(Path(root)).get(key(), compute).arrays["a"].tolist() == [0, 1, 2]


def test_two_processes_compute_once(tmp_path: Path):
    context = multiprocessing.get_context("spawn")
    log = tmp_path / "log"
    workers = [
        context.Process(target=_compute_slowly, args=(str(tmp_path / "store"), str(log)))
        for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert len(log.read_text().split()) == 1


def test_the_lease_of_a_dead_process_is_taken_over(tmp_path: Path):
    path = tmp_path / "claim"
    child = multiprocessing.get_context("spawn").Process(target=lease.acquire, args=(path,))
    child.start()
    child.join()
    assert path.exists()
    assert lease.acquire(path) is None  # clears the dead owner's
    token = lease.acquire(path)
    assert token is not None
    assert lease.acquire(path) is None  # now it is ours
    lease.release(path, "somebody else")
    assert path.exists()
    lease.release(path, token)
    assert not path.exists()


@pytest.mark.parametrize("skew", [-86_400, 0, 86_400])
def test_the_lease_of_a_silent_machine_is_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, skew: float
):
    """Whatever the clock of that machine says: the waiter's own tells how long nothing changed."""
    path, now = tmp_path / "claim", time.monotonic()
    path.write_text("elsewhere:1:token")
    os.utime(path, (0, time.time() + skew))
    assert lease.acquire(path) is None
    monkeypatch.setattr(time, "monotonic", lambda: now + lease.STALE - 1)
    assert lease.acquire(path) is None
    os.utime(path, (0, time.time() + skew + 5))  # a heartbeat
    assert lease.acquire(path) is None
    monkeypatch.setattr(time, "monotonic", lambda: now + 2 * lease.STALE - 2)
    assert lease.acquire(path) is None and path.exists()
    monkeypatch.setattr(time, "monotonic", lambda: now + 2 * lease.STALE + 1)
    assert lease.acquire(path) is None and not path.exists()
    assert lease.acquire(path) is not None


def test_a_lease_that_cannot_be_written_is_held_by_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(*args: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fdopen", full)
    with pytest.raises(OSError, match="No space"):
        lease.acquire(tmp_path / "claim")
    assert list(tmp_path.iterdir()) == []


def test_who_was_taken_for_dead_keeps_nobody_elses_lease_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(lease, "HEARTBEAT", 0.01)
    path = tmp_path / "claim"
    token = lease.acquire(path)
    assert token is not None
    with lease.held(path, token):
        path.write_text("elsewhere:1:token")
        time.sleep(0.05)
        os.utime(path, (0, 0))
        time.sleep(0.05)
        assert path.stat().st_mtime == 0
    assert path.exists()


@pytest.mark.parametrize("content", [b"\xff\xfe", b"", None])
def test_what_lies_in_the_place_of_a_lease_is_waited_for_and_then_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
):
    path, now = tmp_path / "claim", time.monotonic()
    path.mkdir() if content is None else path.write_bytes(content)
    assert lease.holder(path, time.time()) is not None
    assert lease.acquire(path) is None
    monkeypatch.setattr(time, "monotonic", lambda: now + lease.STALE + 1)
    assert lease.acquire(path) is None
    assert lease.acquire(path) is not None


def test_the_manifest_says_what_the_artifact_is(tmp_path: Path):
    store = Store(tmp_path)
    store.save(key(), Artifact({"a": np.zeros(2)}, {"n": 1}), 1.5)
    manifest = json.loads((store.folder(key()) / "manifest.json").read_text())
    assert json.loads(manifest["fields"])["settings"] == {"sigma": 0.1}
    assert (manifest["seconds"], manifest["device"]) == (1.5, "cpu")


def test_only_a_stage_of_the_device_is_timed_for_it(tmp_path: Path):
    store = Store(tmp_path, "cuda:1")
    for stage, device in (("features", "cuda"), ("transport", "cpu")):
        made = make_key(stage, 1, "tile", {}, {}, ("mae base", 12.0), device == "cuda")
        store.save(made, Artifact(), 1.0)
        manifest = store.manifest(stage, made.folder)
        assert manifest["device"] == device
        assert (manifest["kind"], manifest["amount"]) == ("mae base", 12.0)


def test_a_stage_is_not_charged_for_its_inputs(tmp_path: Path):
    store, seconds = Store(tmp_path), dict[str, float]()
    inner, outer = make_key("ucis", 1, "a", {}, {}), make_key("refine", 1, "a", {}, {})

    def below() -> Artifact:
        time.sleep(0.2)
        return Artifact()

    def above() -> Artifact:
        store.get(inner, below, lambda k, s: seconds.__setitem__(k.stage, s))
        leave_out(100.0)  # another process worked on what this one waited for
        time.sleep(0.01)
        return Artifact()

    store.get(outer, above, lambda k, s: seconds.__setitem__(k.stage, s))
    assert seconds["ucis"] >= 0.2
    assert -100 <= seconds["refine"] < -99.8


def test_what_is_stored_is_found_by_one_listing_a_stage(tmp_path: Path):
    store = Store(tmp_path)
    assert store.stored([key()]) == set()
    store.save(key(), Artifact(), 0.0)
    assert store.stored([key(), key(0.2)]) == {key().digest}
    assert store.stages() == ["ucis"]


def test_reading_marks_an_artifact_as_used(tmp_path: Path):
    store = Store(tmp_path)
    store.save(key(), Artifact(), 0.0)
    os.utime(store.folder(key()) / "manifest.json", (1, 1))
    assert store.last_use("ucis", key().folder) == 1
    store.load(key())
    assert store.last_use("ucis", key().folder) > time.time() - 60


def test_who_holds_a_lease(tmp_path: Path):
    path = tmp_path / "claim"
    assert lease.holder(path, time.time()) is None
    lease.acquire(path)
    mine = lease.holder(path, time.time())
    assert mine is not None and mine.alive and mine.pid == str(os.getpid())
    path.write_text("elsewhere:1:token")
    assert lease.holder(path, time.time()).alive
    os.utime(path, (0, time.time() - lease.STALE - 1))
    assert not lease.holder(path, time.time()).alive
