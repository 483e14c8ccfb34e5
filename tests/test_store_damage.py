"""Whatever has happened to an artifact: it is thrown away, made again and counted; nothing else."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coin_ray.data.synthetic import generated_samples
from coin_ray.errors import UserError
from coin_ray.pipeline.runner import open_local, run_local
from coin_ray.planning.ledger import read_ledger
from coin_ray.store import artifacts as rooms
from coin_ray.store.artifacts import Artifact, CorruptArtifact, Store
from coin_ray.store.keys import Key, make_key
from coin_ray.store.why import Stored, causes
from tests.cli_calls import call
from tests.test_pipeline_cell import config

FIXTURE = Path(__file__).parent / "fixtures" / "store_0_1"
KEY = make_key("score", 2, "tile", {"terms": ["iou"]}, {"image": "abc"}, ("iou", 64.0))
MADE = Artifact({"agreement": np.arange(3.0)}, {"instances": 3, "agreement_sum": 3.0})


def edited(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], Any]:
    """Damage by a change of the manifest's content."""

    def act(folder: Path) -> None:
        found = json.loads((folder / "manifest.json").read_text())
        change(found)
        (folder / "manifest.json").write_text(json.dumps(found))

    return act


def manifest(content: bytes) -> Callable[[Path], Any]:
    return lambda folder: (folder / "manifest.json").write_bytes(content)


def without_folder(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("a file")


def flipped(folder: Path) -> None:
    raw = bytearray((folder / "data.safetensors").read_bytes())
    raw[-1] ^= 1
    (folder / "data.safetensors").write_bytes(raw)


def truncated(folder: Path) -> None:
    raw = (folder / "manifest.json").read_bytes()
    (folder / "manifest.json").write_bytes(raw[: len(raw) // 2])


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "data gone": lambda folder: (folder / "data.safetensors").unlink(),
    "data flipped": flipped,
    "data cut": lambda folder: os.truncate(folder / "data.safetensors", 20),
    "manifest gone": lambda folder: (folder / "manifest.json").unlink(),
    "manifest cut": truncated,
    "manifest empty": manifest(b""),
    "manifest no UTF-8": manifest(b"\xff\xfe\xfa{"),
    "manifest a list": manifest(b"[]"),
    "manifest null": manifest(b"null"),
    "manifest nested": manifest(b"[" * 100_000),
    "manifest NaN": manifest(b'{"seconds": NaN}'),
    "manifest a folder": lambda folder: (
        (folder / "manifest.json").unlink(),
        (folder / "manifest.json").mkdir(),
    ),
    "info gone": edited(lambda m: m.pop("info")),
    "info changed": edited(lambda m: m["info"].update(instances=4)),
    "seconds changed": edited(lambda m: m.update(seconds=99.0)),
    "kind changed": edited(lambda m: m.update(kind="other")),
    "fields changed": edited(lambda m: m.update(fields="{}")),
    "digest gone": edited(lambda m: m.pop("digest")),
    "version gone": edited(lambda m: m.pop("version")),
    "folder empty": lambda folder: [path.unlink() for path in folder.iterdir()],
    "folder a file": without_folder,
    "folder a dangling link": lambda folder: (
        shutil.rmtree(folder),
        folder.symlink_to(folder.parent / "nowhere"),
    ),
}


@pytest.fixture(params=DAMAGE)
def damaged(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    store.save(KEY, MADE, 1.0)
    store.save(make_key("score", 2, "other", {}, {}), MADE, 1.0)
    DAMAGE[request.param](store.folder(KEY))
    return store


def test_a_damaged_artifact_is_made_again_and_counted(damaged: Store) -> None:
    with pytest.raises(CorruptArtifact):
        damaged.load(KEY)
    told: list[Key] = []
    found = damaged.get(KEY, lambda: MADE, lambda key, seconds: told.append(key))
    assert told == [KEY] and found.info == MADE.info
    assert damaged.load(KEY).arrays["agreement"].tolist() == [0, 1, 2]
    assert [line.partition(": ")[0] for line in damaged.damaged()] == [KEY.path]
    assert not list((damaged.root / "tmp").iterdir())


def test_plan_and_reader_agree_about_what_is_there(
    damaged: Store, request: pytest.FixtureRequest
) -> None:
    unread = "data flipped" in request.node.name  # only reading all of it tells
    assert damaged.has(KEY) is unread
    assert damaged.stored([KEY]) == ({KEY.digest} if unread else set())
    if not unread:
        with pytest.raises(CorruptArtifact):
            damaged.info(KEY)
    # Nobody else who looks at manifests falls over it.
    read_ledger(damaged, ["score"])
    key = make_key("score", 2, "tile", {"terms": ["new"]}, {"image": "abc"})
    assert causes(key, {}, Stored(damaged)) is not None


def test_verify_finds_and_mends_it(damaged: Store) -> None:
    workspace = str(damaged.root.parent)
    done = call("store", "verify", "--workspace", workspace)
    assert done.exit_code == 1 and f"{KEY.path}: " in done.stdout, done.output
    done = call("store", "verify", "--workspace", workspace, "--fix")
    assert done.exit_code == 0 and "1 of 2 artifacts removed" in done.stdout, done.output
    done = call("store", "verify", "--workspace", workspace)
    assert "1 artifacts, all as they were written" in done.stdout
    assert "1 found damaged and thrown away before" in done.stdout
    assert call("store", "ls", "--workspace", workspace).exit_code == 0


def test_a_training_that_finds_a_damaged_artifact_replaces_it(damaged: Store) -> None:
    """Rounds are saved without ``get``."""
    if not damaged.has(KEY):
        damaged.save(KEY, MADE, 1.0)
        assert damaged.load(KEY).info == MADE.info


def test_a_file_in_the_place_of_a_stage(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.root.mkdir()
    (store.root / "score").write_text("a file")
    assert not store.has(KEY) and store.stored([KEY]) == set() and store.stages() == []
    assert call("store", "verify", "--workspace", str(tmp_path)).exit_code == 1
    store.get(KEY, lambda: MADE)
    assert store.has(KEY)


def test_a_damaged_student_is_trained_again(tmp_path: Path) -> None:
    tiles = generated_samples(tmp_path / "tiles", 1, size=64, seed=3)
    cell = config(uss={"family": "none"}, student={"iterations": 1}, rounds={"count": 1})
    run = open_local(cell, 0, [tile.image for tile in tiles], tmp_path)
    first = run_local(run, tiles)
    flipped(run.store.folder(run.key("round", round_=1)))
    for stage in ("predict", "evaluate"):
        shutil.rmtree(run.store.root / stage)
    assert run_local(run, tiles) == first
    assert len(run.store.damaged()) == 1


# --- values


def test_swapped_names_of_metrics_are_found(tmp_path: Path) -> None:
    store, key = Store(tmp_path), make_key("evaluate", 1, "tile-ucis", {}, {})
    store.save(key, Artifact({"values": np.arange(2.0)}, {"names": ["aji", "pq"]}), 1.0)
    path = store.folder(key) / "manifest.json"
    path.write_text(path.read_text().replace('["aji", "pq"]', '["pq", "aji"]'))
    assert not store.has(key)


V1: dict[str, list[Callable[[dict[str, Any]], Any]]] = {
    "evaluate": [lambda i: i["names"].reverse(), lambda i: i["names"].pop(), dict.clear],
    "score": [lambda i: i.update(instances=-1), lambda i: i.update(agreement_sum=10**400)],
    "select": [lambda i: i.pop("threshold"), lambda i: i.update(accepted=True)],
    "round": [lambda i: i.update(loss=None), lambda i: i.update(more=1)],
    "ucis_model": [lambda i: i["log"].update(loss=[]), lambda i: i.update(steps=3)],
    "ucis": [lambda i: i.update(more=1)],
    "predict": [lambda i: i.update(more=10**400)],
}


@pytest.mark.parametrize("stage", V1)
def test_values_of_version_1_are_held_against_their_schema(tmp_path: Path, stage: str) -> None:
    store = Store(Path(shutil.copytree(FIXTURE / "store", tmp_path / "store")))
    folder = store.root / stage / store.folders(stage)[0]
    whole = (folder / "manifest.json").read_text()
    for change in V1[stage]:
        edited(lambda m, change=change: change(m["info"]))(folder)
        with pytest.raises(CorruptArtifact, match="info"):
            store.manifest(stage, folder.name)
        (folder / "manifest.json").write_text(whole)
    assert store.manifest(stage, folder.name)["info"] == json.loads(whole)["info"]


def test_verify_counts_what_is_of_version_1(tmp_path: Path) -> None:
    shutil.copytree(FIXTURE / "store", tmp_path / "store")
    done = call("store", "verify", "--workspace", str(tmp_path))
    count = sum(
        len(Store(tmp_path / "store").folders(s)) for s in Store(tmp_path / "store").stages()
    )
    assert done.exit_code == 0 and f"{count} of version 1" in done.stdout, done.output


def test_a_later_version_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    monkeypatch.setattr("coin_ray.store.manifest.VERSION", 3)
    store.save(KEY, MADE, 1.0)
    monkeypatch.undo()
    with pytest.raises(UserError, match="version 3"):
        store.get(KEY, lambda: pytest.fail("it is there"))


# --- stores that cannot be written


def full(*args: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    monkeypatch.setattr(rooms, "write", full)
    with pytest.raises(UserError, match="No space left") as told:
        store.get(KEY, lambda: MADE)
    assert KEY.path in str(told.value) and "store gc" in str(told.value)
    assert not list(tmp_path.glob("tmp/*")) and not list(tmp_path.glob("leases/*/*"))
    monkeypatch.undo()
    assert store.get(KEY, lambda: MADE).info == MADE.info


READ_ONLY = """
import sys, pathlib
from coin_ray.errors import UserError
from coin_ray.store.artifacts import Store
from tests.test_store_damage import KEY, MADE
from coin_ray.store.keys import make_key
store = Store(pathlib.Path(sys.argv[1]))
assert store.get(KEY, lambda: 1 / 0).info == MADE.info
for other in (make_key("score", 2, "missing", {}, {}), make_key("score", 2, "bad", {}, {})):
    try:
        store.get(other, lambda: 1 / 0)
    except UserError as error:
        print(error)
"""


def mounted(folder: Path, options: str, script: str) -> subprocess.CompletedProcess[str]:
    """Run ``script`` where ``folder`` is mounted so; skips where this machine does not mount."""
    probe = ["unshare", "-rm", "mount", "-t", "tmpfs", "none", str(folder)]
    if shutil.which("unshare") is None or subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a file system")
    command = f'mount {options} "$1" && exec "$2" -c "$3" "$1"'
    arguments = ["sh", str(folder), sys.executable, script]
    root = str(Path(__file__).parent.parent)
    return subprocess.run(
        ["unshare", "-rm", "sh", "-c", command, *arguments],
        capture_output=True, text=True, cwd=root, env={**os.environ, "PYTHONPATH": root},
    )  # fmt: skip


def test_a_store_for_reading_only_serves_what_it_has(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.save(KEY, MADE, 1.0)
    bad = make_key("score", 2, "bad", {}, {})
    store.save(bad, MADE, 1.0)
    (store.folder(bad) / "manifest.json").write_text("")
    options = f'--bind "{store.root}" "{store.root}" && mount -o remount,ro,bind'
    done = mounted(store.root, options, READ_ONLY)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("which cannot be written") == 2
    assert "score/missing-" in done.stdout and "--workspace" in done.stdout


# --- links


def test_nothing_is_written_or_removed_through_a_link(tmp_path: Path) -> None:
    outside, store = tmp_path / "outside", Store(tmp_path / "store")
    (outside / "a").mkdir(parents=True)
    (outside / "a" / "mine").write_text("not a lease")
    os.utime(outside / "a" / "mine", (0, 0))
    store.save(KEY, MADE, 1.0)
    for name in ("leases", "ucis"):
        shutil.rmtree(store.root / name, ignore_errors=True)
        (store.root / name).symlink_to(outside)
    key = make_key("ucis", 1, "tile", {}, {})
    with pytest.raises(UserError, match="leads out of the store"):
        store.get(key, lambda: MADE)
    done = call("store", "gc", "--workspace", str(tmp_path))
    assert done.exit_code == 2 and "leads out of the store" in done.stderr
    assert (outside / "a" / "mine").read_text() == "not a lease"
    assert sorted(p.name for p in outside.iterdir()) == ["a"]


ROOM = """
import pathlib, sys
from coin_ray.errors import UserError
from tests.fixtures.make_store import FIXTURE_TILES, configuration, run_cell, samples
small = pathlib.Path(sys.argv[1])
tiles, config = samples(FIXTURE_TILES), configuration("coarse alone")
filler, failures = small / "filler", 0
filler.write_bytes(bytes(1_000_000))
while True:
    try:
        rows, facts, _ = run_cell(config, tiles, small)
        break
    except UserError as error:
        assert "No space left" in str(error), error
        failures += 1
        left = filler.stat().st_size - 100_000
        filler.write_bytes(bytes(left))
print(failures)
assert run_cell(config, tiles, small)[2] == []
whole = run_cell(config, tiles, pathlib.Path(sys.argv[2]))[0]
assert list(map(str, rows)) == list(map(str, whole))
"""


@pytest.mark.slow
def test_a_disk_that_fills_leaves_what_the_same_command_goes_on_from(tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    script = ROOM.replace("sys.argv[2]", repr(str(tmp_path / "large")))
    done = mounted(tmp_path / "small", "-t tmpfs -o size=1100k none", script)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 3
