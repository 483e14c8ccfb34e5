"""Upkeep of the store: what is collected, what is an orphan, what is damage."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coin_ray.data.dataset import DataSet
from coin_ray.pipeline.stages import LARGE, STAGES
from coin_ray.store.artifacts import CHECKPOINTS, Artifact, Store
from coin_ray.store.upkeep import check, collectable, leases, orphans, remove
from tests.planned_cells import timed, two_tiles


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    return two_tiles(tmp_path_factory.mktemp("tiles"))


def test_collecting_takes_the_least_recently_used_first(tmp_path: Path) -> None:
    import os

    store = Store(tmp_path)
    for i, stage in enumerate(("features", "embed", "features", "round")):
        timed(store, stage, "", float(i + 1), 1.0, 10_000)
    used = {"t1": 300, "t2": 100, "t3": 200}
    for stage in ("features", "embed"):
        for folder in store.folders(stage):
            os.utime(tmp_path / stage / folder / "manifest.json", (0, used[folder[:2]]))
    sizes = {entry.name[:2]: entry.bytes for entry in collectable(store, 0, LARGE)}
    assert list(sizes) == ["t2", "t3", "t1"]  # and no round
    assert collectable(store, sum(sizes.values()), LARGE) == []
    going = collectable(store, sizes["t1"] + sizes["t3"], LARGE)
    assert [entry.name[:2] for entry in going] == ["t2"]
    for entry in going:
        remove(store, store.root / entry.stage / entry.name)
    assert store.folders("embed") == [] and len(store.folders("features")) == 2


def test_what_an_artifact_takes_is_told_by_two_looks_at_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    from coin_ray.store import upkeep

    store, looks = Store(tmp_path), Counter[str]()
    for i in range(5):
        timed(store, "features", "", float(i + 1), 1.0, 100)
    (tmp_path / "features" / "empty").mkdir()
    (tmp_path / "features" / "stray").write_text("no artifact")
    look = os.stat

    def counting(path: Any, *rest: Any, **options: Any) -> Any:
        looks[str(path).rpartition("/")[2]] += 1
        return look(path, *rest, **options)

    monkeypatch.setattr(upkeep.os, "stat", counting)
    found = upkeep.entries(store, "features")
    monkeypatch.undo()
    own = {path.name for path in (tmp_path / "features").iterdir()} - {"stray"}
    assert {entry.name for entry in found} == own
    for entry in found:
        files = list((tmp_path / "features" / entry.name).iterdir())
        assert entry.bytes == sum(path.stat().st_size for path in files)
        times = [path.stat().st_mtime for path in files if path.name == "manifest.json"]
        assert [entry.used] == (times or [0.0])
    assert looks["manifest.json"] == looks["data.safetensors"] == 7 and looks.total() <= 16


def test_orphans_are_old_scratch_leases_of_the_dead_and_checkpoints_without_use(
    tmp_path: Path,
) -> None:
    import os

    store = Store(tmp_path)
    for name, age in (("old", 7200), ("new", 0)):
        folder = tmp_path / "tmp" / name
        folder.mkdir(parents=True)
        os.utime(folder, (0, time.time() - age))
    # The clock of another machine may be wrong by more than a lease lasts.
    for name, age in (("dead", 7200), ("live", 60)):
        claim = tmp_path / "leases" / "ucis" / name
        claim.parent.mkdir(parents=True, exist_ok=True)
        claim.write_text("elsewhere:1:x")
        os.utime(claim, (0, time.time() - age))
    for name, age in (("forgotten", 40), ("ended", 0), ("going", 3)):
        folder = store.root / CHECKPOINTS / "round" / name
        folder.mkdir(parents=True)
        os.utime(folder, (0, time.time() - 86400 * age))
    (store.root / "round" / "ended").mkdir(parents=True)
    assert [work.path for work in leases(store)] == ["ucis/dead", "ucis/live"]
    found = orphans(store)
    assert [path.name for path in found] == ["old", "ended", "forgotten", "dead"]
    for path in found:
        remove(store, path)
    assert orphans(store) == [] and (tmp_path / "tmp" / "new").is_dir()


@pytest.mark.parametrize("how", ["data", "short", "manifest", "fields", "gone", "moved"])
def test_every_kind_of_damage_is_found(tmp_path: Path, how: str) -> None:
    store = Store(tmp_path)
    from coin_ray.store.keys import SHORT, make_key

    for i in range(3):
        store.save(make_key("ucis", 1, f"t{i}", {"i": i}, {}), Artifact({"a": np.arange(9)}), 1.0)
    bad = tmp_path / "ucis" / store.folders("ucis")[1]
    data, manifest = bad / "data.safetensors", bad / "manifest.json"
    if how == "data":
        data.write_bytes(data.read_bytes()[:-1] + b"x")
    if how == "short":
        data.write_bytes(data.read_bytes()[:-4])
    if how == "manifest":
        manifest.write_text("{")
    if how == "fields":
        told = json.loads(manifest.read_text())
        manifest.write_text(json.dumps({**told, "fields": told["fields"].replace("1", "2")}))
    if how == "gone":
        data.unlink()
    if how == "moved":
        bad = bad.rename(bad.with_name(f"t9-{'0' * SHORT}"))
    assert [found.path for found in check(store, STAGES) if found.fault] == [bad]
