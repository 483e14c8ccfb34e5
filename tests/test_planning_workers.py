"""When more workers of a round stop paying: what they share, and what they do not."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from coin_ray.data.dataset import DataSet
from coin_ray.data.synthetic import generated_samples
from coin_ray.planning.ledger import Ledger, Rate
from coin_ray.planning.plan import plan_cells
from coin_ray.planning.workers import NEAR, START, Paying, paying
from coin_ray.training.world import World
from tests.test_pipeline_cell import config

BATCH, STEPS, CROP = 6, 100, 32
STUDENT = {"iterations": STEPS, "width": 4, "batch": BATCH, "crop": CROP}
HOUR = 3600.0


def told(folder: Path, *, seeds: int = 1, places: int = 8, size: float = 1e3, **asked: int) -> Any:
    """Of cells with two rounds of an hour each, whose student has ``size`` bytes."""
    tiles = generated_samples(folder, 1, size=64, seed=4)
    data: Any = DataSet(train=tuple(s.image for s in tiles), samples=tuple(tiles))
    one = config(student=STUDENT, rounds={"count": 2}, uss={"family": "none"})
    cells: Any = [
        SimpleNamespace(config=one, seed=seed, data=SimpleNamespace(name="d"), oracle="")
        for seed in range(seeds)
    ]
    rate = Rate(HOUR / (STEPS * BATCH * CROP**2), size, 1, 0.0)
    ledger = Ledger({("round", "unet 4", "cpu"): rate})
    plan = plan_cells(cells, {"d": data}, folder)
    given = {"near": places, "workers": 1} | asked
    return paying(plan, ledger, device="cpu", places=places, **given)


def test_crops_are_shared_whole_and_the_start_is_not(tmp_path: Path) -> None:
    found: Paying = told(tmp_path)
    assert (found.trainings, found.places) == (1, 8)
    assert list(found.hours) == [1, 2, 3, 4, 5, 6]  # a batch of six has no work for more
    for workers, hours in found.hours.items():
        whole = max(len(World(rank, workers).share(BATCH, 1, "", "")) for rank in range(workers))
        exchange = 2 * STEPS * 2 * (workers - 1) / workers * 1e3 / NEAR["cpu"]
        seconds = START * (workers > 1) + 2 * HOUR * whole / BATCH + exchange
        assert hours * HOUR == pytest.approx(seconds)
    assert found.most == 6


def test_the_exchange_of_gradients_is_what_stops_it(tmp_path: Path) -> None:
    found: Paying = told(tmp_path, size=6e9)
    assert found.most == 2 and found.hours[3] * 3 > 2 * found.hours[1] >= found.hours[2] * 2
    apart: Paying = told(tmp_path, size=6e9, near=1)
    assert apart.hours[2] < found.hours[2]  # a network of 10 gigabit is faster than gloo here


def test_cells_are_counted_and_what_was_never_timed_is_not_told(tmp_path: Path) -> None:
    found: Paying = told(tmp_path, seeds=3, places=2, workers=4)
    assert (found.trainings, found.places, list(found.hours)) == (3, 2, [1, 2, 3, 4])
    assert told(tmp_path, seeds=0) is None
