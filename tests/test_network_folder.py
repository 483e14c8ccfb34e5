"""A workspace on a network folder as it is mounted by default: the other machine does not see for
a while what this one has just written, and has another clock."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coin_ray.data.synthetic import generated_samples
from coin_ray.files import make_folder, seen, write_text
from coin_ray.pipeline.runner import open_local, reserve
from coin_ray.pipeline.training import train_stage
from coin_ray.store import lease
from coin_ray.store.artifacts import Artifact, Store
from coin_ray.store.keys import make_key
from coin_ray.store.upkeep import leases, orphans
from coin_ray.training.checkpoint import Checkpoint, Log
from coin_ray.training.world import World
from tests import name_cache
from tests.test_pipeline_cell import config
from tests.test_report_tables import study

SPAWN = multiprocessing.get_context("spawn")
KEY = make_key("score", 2, "tile", {}, {"image": "abc"})
MADE = Artifact({"a": np.arange(3)}, {"n": 3})


def _other(looks: Callable[[Path], Any], acts: Callable[[Path], Any], *rest: Any) -> None:
    root, seconds, meeting = rest
    name_cache.install(seconds)
    looks(root)
    meeting.wait()  # it has looked in vain
    meeting.wait()  # what it looked for is there
    acts(root)


@contextmanager
def another_machine(
    root: Path, looks: Callable[[Path], Any], acts: Callable[[Path], Any], seconds: float
) -> Iterator[None]:
    """It ``looks`` before the body runs and ``acts`` afterwards."""
    meeting = SPAWN.Barrier(2, timeout=60)
    other = SPAWN.Process(target=_other, args=(looks, acts, root, seconds, meeting))
    other.start()
    meeting.wait()
    yield
    meeting.wait()
    other.join()
    assert other.exitcode == 0


def miss(root: Path) -> None:
    store = Store(root)
    assert not store.has(KEY) and not store.holds(KEY)
    for path in (root / "tmp", root / "leases" / "score", root / "score", store.folder(KEY)):
        assert not os.path.lexists(path)


def fail() -> Artifact:
    raise AssertionError("it has been computed already")


def get(root: Path) -> None:
    assert Store(root).get(KEY, fail).info == MADE.info


def load(root: Path) -> None:
    assert Store(root).sound(KEY).info == MADE.info


def info(root: Path) -> None:
    assert Store(root).info(KEY) == MADE.info


def train(root: Path) -> None:
    with ExitStack() as stack:
        assert not reserve(Store(root), KEY, stack)


def save(root: Path) -> None:
    """Computed after all, by one who held no lease."""
    Store(root).save(KEY, Artifact(), 0.0)
    assert Store(root).load(KEY).info == MADE.info


def compute(root: Path) -> None:
    """Into folders that this machine does not see."""
    other = make_key("score", 2, "other", {}, {})
    assert Store(root).get(other, lambda: MADE).info == MADE.info


@pytest.mark.parametrize("acts", [get, load, info, train, save, compute])
def test_what_another_machine_has_just_stored_is_waited_for(
    tmp_path: Path, acts: Callable[[Path], Any]
) -> None:
    store = Store(tmp_path / "store")
    with another_machine(store.root, miss, acts, 1.0):
        store.get(KEY, lambda: MADE)
    assert store.damaged() == [] and store.load(KEY).info == MADE.info
    assert not list(store.root.glob("tmp/*")) and not list(store.root.glob("leases/*/*"))


@pytest.mark.slow
def test_for_as_long_as_a_client_remembers_by_default(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    with another_machine(store.root, miss, get, 30.0):
        store.get(KEY, lambda: MADE)
    assert store.damaged() == []


def test_what_is_nowhere_is_not_waited_for(tmp_path: Path) -> None:
    store, begun = Store(tmp_path / "store"), time.monotonic()
    make_folder(store.root / "score")
    for look in (store.info, store.sound):
        with pytest.raises(FileNotFoundError):
            look(KEY)
    assert not seen(tmp_path / "nothing" / "there") and not store.holds(KEY)
    assert time.monotonic() - begun < 5 and not list((store.root / "score").iterdir())


# --- a training on two machines


def _rank(rank: int, workspace: Path, seconds: float, meeting: Any, told: Any) -> None:
    name_cache.install(seconds)
    tiles = generated_samples(workspace / "tiles", 2, size=64, seed=3)
    cell = config(uss={"family": "none"}, student={"iterations": 2}, rounds={"count": 2})
    images = [tile.image for tile in tiles]
    run = open_local(cell, 0, images, workspace, done=lambda key, s: told.put(key.path))
    rounds = [run.key("round", round_=round_) for round_ in (1, 2)]
    assert not any(map(run.store.has, rounds))
    world = World(rank, 2, meeting.wait)
    train_stage(run, world, lambda round_, metrics, s: told.put((rank, round_, metrics)), "round")
    meeting.wait()


def test_two_ranks_train_each_round_once_and_agree_about_it(tmp_path: Path) -> None:
    list(generated_samples(tmp_path / "tiles", 2, size=64, seed=3))
    meeting, told = SPAWN.Barrier(2, timeout=120), SPAWN.Queue()
    ranks = [SPAWN.Process(target=_rank, args=(r, tmp_path, 1.0, meeting, told)) for r in (0, 1)]
    for rank in ranks:
        rank.start()
    heard = []
    while any(rank.is_alive() for rank in ranks) or not told.empty():
        while not told.empty():
            heard.append(told.get())
        time.sleep(0.05)
    assert [rank.exitcode for rank in ranks] == [0, 0]
    made = [one for one in heard if isinstance(one, str)]
    assert len(made) == len(set(made)), "computed twice"
    assert sum(path.startswith("round/") for path in made) == 2
    facts = {one[:2]: one[2] for one in heard if not isinstance(one, str)}
    assert facts[0, 1] == facts[1, 1] and facts[0, 2] == facts[1, 2]


def no_checkpoint(root: Path) -> None:
    _model()  # imports what takes longer than the machine remembers
    assert not os.path.lexists(root / "round" / "name" / "state")
    assert not os.path.lexists(root / "round" / "name")


def _model() -> tuple[Any, ...]:
    import torch

    model = torch.nn.Linear(1, 1)
    return model, torch.optim.AdamW(model.parameters()), {}


def goes_on(root: Path) -> None:
    checkpoint = Checkpoint(root / "round" / "name" / "state", "a run")
    assert checkpoint.load(*_model()).steps == 3, "it would begin while the others go on"


def test_a_rank_goes_on_from_the_checkpoint_of_another(tmp_path: Path) -> None:
    checkpoint, begun = Checkpoint(tmp_path / "round" / "name" / "state", "a run"), _model()
    with another_machine(tmp_path, no_checkpoint, goes_on, 2.0):
        checkpoint.save(*begun, Log(loss=[1.0, 2.0, 3.0]))


# --- what a cell leaves


def no_results(root: Path) -> None:
    assert not os.path.lexists(root / "mae-0" / "metrics.json")
    assert not os.path.lexists(root / "mae-0" / "config.yaml")
    assert not os.path.lexists(root / "mae-0")


def collects(root: Path) -> None:
    from coin_ray.report.values.collect import collect

    assert collect(study(), root).facts == {"mae-0": {"agreement": 0.5}}


def test_the_driver_reads_the_results_of_a_cell_that_ended_elsewhere(tmp_path: Path) -> None:
    with another_machine(tmp_path, no_results, collects, 1.0):
        cell = study().cells[1]
        settings = cell.config.model_dump(mode="json", by_alias=True)
        write_text(tmp_path / "mae-0" / "config.yaml", json.dumps(settings))
        facts = {"cell": "mae-0", "content": None, "agreement": 0.5}
        write_text(tmp_path / "mae-0" / "metrics.json", json.dumps({"cell": facts, "rows": []}))


# --- clocks


@pytest.mark.parametrize("skew", [-86_400, 86_400])
def test_no_clock_of_ours_takes_a_lease_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, skew: float
) -> None:
    store = Store(tmp_path)
    token = store.reserve(KEY)
    assert token is not None
    path, now = store.claim(KEY), time.time()
    path.write_text("elsewhere:1:token")
    (tmp_path / "tmp" / "being written").mkdir(parents=True)
    monkeypatch.setattr(time, "time", lambda: now + skew)
    assert orphans(store) == []
    assert [work.holder.alive for work in leases(store)] == [True]
    os.utime(path, (0, now - lease.STALE - 5))
    assert [work.holder.alive for work in leases(store)] == [False]
