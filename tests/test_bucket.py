"""A workspace in a bucket: each machine has a folder of its own in front of it, and what one wrote
another finds. The bucket throttles, fails and lies about listings."""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from coin_ray import bucket
from coin_ray.cluster import leases
from coin_ray.cluster.probing import Probed, measured
from coin_ray.data.synthetic import generated_samples
from coin_ray.errors import UserError
from coin_ray.files import longest, seen, write_text
from coin_ray.store import lease
from coin_ray.store.artifacts import Artifact, CorruptArtifact, Store
from coin_ray.store.keys import make_key
from coin_ray.tracking.journal import Journal, journals
from tests.cli_calls import call
from tests.pretended_bucket import Door

KEY = make_key("score", 2, "tile", {}, {"image": "abc"})
MADE = Artifact({"a": np.arange(3)}, {"n": 3})


@pytest.fixture
def here(door: Door) -> Store:
    return Store(bucket.local("s3://studies/one/store"))


@pytest.fixture
def there(door: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The same store on another machine."""
    with monkeypatch.context() as other:
        other.setenv("COIN_RAY_CACHE", str(tmp_path / "there"))
        return Store(bucket.local("s3://studies/one/store"))


def fail() -> Artifact:
    raise AssertionError("it has been computed already")


@pytest.mark.parametrize("url", ["s3://", "s3://b/../c", "gs://", "s3://b//c", "s3://../x"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(UserError, match="no address"):
        bucket.local(url)


def test_a_path_says_what_it_stands_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COIN_RAY_CACHE", str(tmp_path))
    for text in ("s3://studies/a/b", "s3:/studies/a/b/"):  # as a path has it
        assert bucket.address(bucket.local(text) / "c") == "s3://studies/a/b/c"
    assert bucket.local("some/folder") == Path("some/folder")
    assert bucket.address(tmp_path) is None


def test_what_one_machine_made_another_finds(here: Store, there: Store, door: Door) -> None:
    here.get(KEY, lambda: MADE)
    assert there.has(KEY) and there.seconds(KEY) == here.seconds(KEY)
    assert not there.folders("score"), "its times are read without it"
    assert there.holds(KEY) and there.info(KEY) == {"n": 3}
    assert there.get(KEY, fail).arrays["a"].tolist() == [0, 1, 2]
    assert there.stored([KEY, make_key("score", 2, "no", {}, {})]) == {KEY.digest}
    assert door.asked["LIST"] == 1, "nothing but a plan lists"
    begun = door.asked["all"]
    there.get(KEY, fail)
    assert door.asked["all"] == begun, "what is here is not asked for again"


def test_nothing_is_decided_by_a_listing(here: Store, there: Store, door: Door) -> None:
    door.lists = False
    here.get(KEY, lambda: MADE)
    assert there.get(KEY, fail).info == MADE.info and there.holds(KEY)
    path = here.root.parent / "runs" / "cell" / "metrics.json"
    write_text(path, "{}")
    assert seen(there.root.parent / "runs" / "cell" / "metrics.json")


def test_the_first_writer_wins(here: Store, there: Store) -> None:
    here.save(KEY, Artifact({"a": np.zeros(1)}), 0.0)
    there.save(KEY, Artifact({"a": np.ones(1)}), 0.0)
    assert there.load(KEY).arrays["a"] == here.load(KEY).arrays["a"] == 0


@pytest.mark.parametrize("fault", ["throttled", "failing", "deaf"])
def test_a_bucket_that_fails_now_and_then_is_asked_again(
    here: Store, there: Store, door: Door, fault: str
) -> None:
    setattr(door, fault, 3)
    for n in range(4):
        key = make_key("score", 2, f"tile{n}", {}, {})
        here.get(key, lambda: MADE)
        assert there.get(key, fail).info == MADE.info


def test_a_bucket_that_is_away_is_an_error_and_nothing_is_half_there(
    here: Store, there: Store, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = {"config_kwargs": {"retries": {"max_attempts": 1}}, "max_concurrency": 1}
    monkeypatch.setattr(bucket, "_OPTIONS", {"s3": once})
    bucket._system.cache_clear()
    door.failing = 1
    with pytest.raises(OSError):
        here.get(KEY, lambda: MADE)
    door.failing = 0
    assert not here.has(KEY) and not there.has(KEY)
    assert there.get(KEY, lambda: MADE).info == MADE.info


def test_a_damaged_object_is_made_again(here: Store, there: Store) -> None:
    here.save(KEY, MADE, 0.0)
    raw = bytearray(bucket.read(here.folder(KEY)) or b"")
    raw[-1] ^= 1
    bucket.write(here.folder(KEY), bytes(raw))
    with pytest.raises(CorruptArtifact):
        there.load(KEY)
    assert there.get(KEY, lambda: MADE).info == MADE.info
    shutil.rmtree(here.root)
    assert here.get(KEY, fail).info == MADE.info


def test_two_machines_compute_once(here: Store, there: Store) -> None:
    calls: list[int] = []

    def compute() -> Artifact:
        calls.append(1)
        time.sleep(1)
        return MADE

    machines = [threading.Thread(target=store.get, args=(KEY, compute)) for store in (here, there)]
    for machine in machines:
        machine.start()
    for machine in machines:
        machine.join()
    assert len(calls) == 1
    assert bucket.read(here.claim(KEY)) is None, "the lease is given back"


def test_the_lease_of_a_silent_machine_is_taken_over(
    here: Store, there: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.monotonic()
    monkeypatch.setattr(lease, "ASK", 0.0)
    bucket.write(here.claim(KEY), b"elsewhere:1:token")
    assert there.reserve(KEY) is None
    monkeypatch.setattr(time, "monotonic", lambda: now + lease.STALE + 5)
    bucket.write(here.claim(KEY), b"elsewhere:1:token:1")  # a heartbeat
    assert there.reserve(KEY) is None and there.reserve(KEY) is None
    monkeypatch.setattr(time, "monotonic", lambda: now + 2 * lease.STALE + 10)
    assert there.reserve(KEY) is None
    assert there.reserve(KEY) is not None
    assert here.reserve(KEY) is None


def test_a_lease_is_kept_alive_in_the_bucket(
    here: Store, there: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT", 0.05)
    monkeypatch.setattr(lease, "ASK", 0.0)
    token = here.reserve(KEY)
    assert token is not None
    with lease.held(here.claim(KEY), token):
        time.sleep(0.5)
        assert (bucket.read(here.claim(KEY)) or b"").decode().startswith(f"{token}:")
        assert there.reserve(KEY) is None
    assert there.reserve(KEY) is not None


class Kept:
    """What ``ActorLeases`` asks its actor for, in this process."""

    def __init__(self) -> None:
        self.actor = leases.LeaseActor.__new__(leases.LeaseActor)
        self.actor._held, self.actor._idle, self.actor._asked = {}, 600.0, 0.0

    def take(self, name: str, token: str) -> bool:
        return self.actor.take(name, token)

    def give(self, name: str, token: str) -> None:
        self.actor.give(name, token)


def test_on_a_cluster_an_actor_keeps_the_leases(
    here: Store, there: Store, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, now = Kept(), time.monotonic()
    monkeypatch.setattr(lease, "cluster", lambda: kept)
    monkeypatch.setattr(lease, "HEARTBEAT", 0.05)
    monkeypatch.setattr(lease, "ASK", 0.0)
    begun = door.asked["all"]
    token = here.reserve(KEY)
    assert token is not None
    with lease.held(here.claim(KEY), token):
        assert there.reserve(KEY) is None
        kept.actor._held.clear()  # it was started anew
        time.sleep(0.5)
        assert there.reserve(KEY) is None, "the next heartbeat told it"
    token = there.reserve(KEY)
    assert token is not None and here.reserve(KEY) is None
    monkeypatch.setattr(time, "monotonic", lambda: now + lease.STALE + 60)
    assert here.reserve(KEY) is not None, "nobody has heard of the other for long"
    kept.give(bucket.address(here.claim(KEY)) or "", token)
    assert kept.actor._held, "whose lease is gone gives back nothing"
    assert door.asked["all"] == begun, "the bucket was not asked"


def test_leases_that_nobody_gives_back_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, now = Kept(), time.monotonic()
    kept.take("a", "of a node that is lost")
    monkeypatch.setattr(time, "monotonic", lambda: now + lease.STALE + 60)
    kept.take("b", "1")
    kept.actor.end()
    assert list(kept.actor._held) == ["b"]


def test_the_store_of_a_bucket_is_listed_and_cleared(
    here: Store, there: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [make_key("embed", 2, f"tile{n}", {}, {}) for n in range(3)]
    for key in (*keys, KEY):
        here.get(key, lambda: Artifact({"a": np.zeros(50_000, np.uint8)}))
    monkeypatch.setenv("COIN_RAY_CACHE", str(there.root).partition(f"/{bucket.MIRRORS}/")[0])
    monkeypatch.setattr("coin_ray.cluster.folders._places", list)  # other tests' sessions end there
    workspace = ("--workspace", "s3://studies/one")
    told = call("store", "ls", *workspace).output
    assert re.search(r"embed +3 +15[12] kB", told) and re.search(r"score +1 ", told), told
    assert "store: s3://studies/one/store" in told
    assert there.get(keys[1], fail).arrays["a"].size == 50_000
    left = there.root.parent / "ray" / "run"
    for path in (there.claim(keys[0]), left / "state", there.checkpoints(KEY) / "last"):
        bucket.write(path, b"left")
    bucket.write(there.checkpoints(make_key("round", 1, "r", {}, {})) / "last", b"needed")
    gc = ("store", "gc", *workspace, "--quota", "0B")
    assert "embed: 3 artifacts" in call(*gc, "--dry-run").output and len(artifacts("one")) == 7
    now = time.time()
    for module in ("store.bucket_upkeep", "store.upkeep"):
        monkeypatch.setattr(f"coin_ray.{module}.clock", lambda folder: now + 7200)
    done = call(*gc)
    assert done.exit_code == 0 and "2 unfinished artifacts" in done.output, done.output
    assert "1 folders of Ray" in done.output
    kept = artifacts("one")
    assert {name.partition("/")[0] for name in kept} == {"score", "checkpoints"} and len(kept) == 2
    assert not bucket.names(left) and not there.has(keys[1]), "nor is there a copy here"


def test_what_a_bucket_holds_is_verified_whatever_lies_here(
    here: Store, there: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [make_key("score", 2, f"tile{n}", {"n": n}, {}) for n in range(4)]
    for key in keys:
        here.get(key, lambda: MADE)
    raw = bucket.read(here.folder(keys[1])) or b""
    bucket.write(here.folder(keys[1]), raw[:-1] + bytes([raw[-1] ^ 1]))
    bucket.write(here.folder(keys[2]), raw[:40])
    bucket.write(here.folder(keys[3]), raw)  # of another key
    verify = ("store", "verify", "--workspace", "s3://studies/one")
    elsewhere = str(there.root).partition(f"/{bucket.MIRRORS}/")[0]
    for machine in (os.environ["COIN_RAY_CACHE"], elsewhere):  # with copies, and without
        monkeypatch.setenv("COIN_RAY_CACHE", machine)
        done = call(*verify)
        assert done.exit_code == 1 and "3 of 4 artifacts are broken" in done.output, done.output
        told = [line for line in done.output.splitlines() if line.startswith("score/")]
        assert len(told) == 3 and keys[0].path not in done.output
    assert here.has(keys[1]), "the copy is whole"
    done = call(*verify, "--fix")
    assert done.exit_code == 0 and "3 of 4 artifacts removed" in done.output, done.output
    assert artifacts("one") == {keys[0].path} and there.get(keys[0], fail).info == MADE.info
    assert not there.has(keys[1]) and len(there.damaged()) == 3
    assert (
        "1 artifacts, all as they were written, read from s3://studies/one" in call(*verify).output
    )


def test_what_a_machine_keeps_is_bounded(here: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COIN_RAY_CACHE_GB", "0.0001")  # 100 kB
    keys = [make_key("score", 2, f"tile{n}", {}, {}) for n in range(8)]
    for n, key in enumerate(keys):
        here.get(key, lambda: Artifact({"a": np.zeros(30_000, np.uint8)}))
        os.utime(here.folder(key) / "manifest.json", (n, n))
    assert 1 <= len(here.folders("score")) <= 4
    assert all(here.get(key, fail).arrays["a"].size == 30_000 for key in keys)
    assert all(here.seconds(key) >= 0 and here.info(key) == {} for key in keys), "what went, too"


def test_journals_and_what_was_written_whole_are_there(here: Store, there: Store) -> None:
    one, other = here.root.parent, there.root.parent
    journal = Journal(one / "journal" / "s.jsonl")
    for n in range(3):
        journal.append({"n": n})
    journal.close()
    (found,) = journals(other / "journal")
    assert [json.loads(line)["n"] for line in found.read_text().splitlines()] == [0, 1, 2]
    bucket.write(found, b"")
    assert longest(found).read_text(), "of two the longer one is the younger"
    write_text(one / "runs" / "a", "first")
    assert seen(other / "runs" / "a")
    write_text(one / "runs" / "a", "again")
    assert seen(other / "runs" / "a") and (other / "runs" / "a").read_text() == "again"


def test_images_lie_in_a_bucket(here: Store, there: Store, tmp_path: Path) -> None:
    tiles = generated_samples(bucket.local("s3://studies/tiles"), 2, size=64, seed=3)
    shutil.rmtree(tmp_path / "here")
    assert tiles[0].image.digest() and tiles[1].image.load().shape == (64, 64, 3)
    shutil.rmtree(tmp_path / "here")
    done = call("plan", "baseline", "--data", "s3://studies/tiles", "--workspace", "s3://studies/w")
    assert done.exit_code == 0, done.output
    assert "tiles has 2 labelled images" in done.output, done.output
    assert "data tiles: s3://studies/tiles" in done.output, done.output


SWEEP = (
    "--data", "s3://studies/tiles", "--seeds", "1", "--set", "rounds.count=1",
    "--set", "student.iterations=1", "--set", "uss.family=none", "--workspace", "s3://studies/w",
)  # fmt: skip


def artifacts(workspace: str = "w") -> set[str]:
    return set(bucket.names(bucket.local(f"s3://studies/{workspace}/store")))


@pytest.mark.parametrize(
    "where", ["here", pytest.param("on a cluster", marks=(pytest.mark.ray, pytest.mark.slow))]
)
def test_a_study_runs_and_another_machine_finds_all_of_it(
    door: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """The driver's machine is lost with its folder; the same command computes nothing again."""
    generated_samples(bucket.local("s3://studies/tiles"), 1, size=64, seed=3)
    door.throttled = 50
    how = ["--local"] if where == "here" else ["--address", "local"]
    done = call("sweep", "baseline", *SWEEP, *how)
    assert done.exit_code == 0, done.output
    made = artifacts()
    assert {name.partition("/")[0] for name in made} >= {"round", "evaluate"}, "and no lease"
    assert not {"leases", "tmp", "checkpoints"} & {name.partition("/")[0] for name in made}
    assert not bucket.names(bucket.local("s3://studies/w/ray"))
    kept = [path for path in door.paths if "/store/leases/" in path]
    assert bool(kept) is (where == "here"), "on a cluster an actor keeps the leases"
    monkeypatch.setenv("COIN_RAY_CACHE", str(tmp_path / "there"))
    report = call("report", "baseline", *SWEEP)
    assert report.exit_code == 0, report.output
    assert "ended" in call("status", *SWEEP[-2:]).output
    again = call("sweep", "baseline", *SWEEP, "--local")
    assert again.exit_code == 0 and artifacts() == made, again.output
    assert "to compute: nothing" in again.output


def test_doctor_says_how_a_bucket_is_reached(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    def probe(address: str | None, folder: Path) -> Probed:
        assert bucket.address(folder) == "s3://studies/w"
        speed = {"one": measured(folder / "x")}
        return Probed({"one": "", "two": "it is not seen there"}, [], speed)

    monkeypatch.setattr("coin_ray.cluster.probing.probe", probe)
    told = call("doctor", "--workspace", "s3://studies/w").output
    assert "s3://studies/w: read and written" in told and "on one: read and written" in told
    assert len(re.findall("MB/s, clock [01] s off", told)) == 2, told  # S3 tells whole seconds
    assert "s3://studies/w has to be a bucket that all nodes see" in told
    assert bucket.names(bucket.local("s3://studies")) == {}
    done = call("doctor", "--workspace", "s3://nobodys/w")
    assert done.exit_code == 1 and "check the name, the rights" in done.output, done.output
