"""Hours of a plan: rates come from timings, and what no node can give is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coin_ray.data.dataset import DataSet
from coin_ray.data.synthetic import generated_samples
from coin_ray.errors import UserError
from coin_ray.planning.estimate import estimate
from coin_ray.planning.ledger import read_ledger
from coin_ray.planning.machines import Node, refuse_impossible
from coin_ray.planning.plan import plan_cells
from coin_ray.store.artifacts import Store
from tests.planned_cells import FAST, cell, run, timed, two_tiles


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    return two_tiles(tmp_path_factory.mktemp("tiles"))


def test_rates_are_medians_of_seconds_by_work(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for amount, seconds in ((100.0, 1.0), (200.0, 4.0), (100.0, 50.0)):
        timed(store, "predict", "unet 4", amount, seconds, 1000)
    timed(store, "round", "unet 4", 10.0, 5.0, 300)
    timed(store, "round", "unet 4", 20.0, 0.0, 300)  # stopped early: took no time
    ledger = read_ledger(store, ("predict", "round", "features"))
    rate = ledger.rate("predict", "unet 4", "cpu")
    assert rate is not None
    assert (rate.seconds, rate.timings) == (pytest.approx(0.02), 3)
    assert rate.spread == pytest.approx(0.5)  # distances 0.5, 0 and 24 of the rate
    trained = ledger.rate("round", "unet 4", "cpu")
    assert trained is not None and trained.timings == 1
    assert trained.bytes > 300  # of one student, whatever it was trained on
    assert ledger.rate("predict", "unet 8", "cpu") is None
    assert ledger.rate("predict", "unet 4", "cuda") is None


def test_an_estimate_scales_with_images_and_training_and_names_what_it_does_not_know(
    data: Any, tmp_path: Path
) -> None:
    cells = [cell({"uss": {"family": "none"}})]
    run(cells, data, tmp_path)
    bigger = DataSet(
        train=data.train,
        samples=tuple(generated_samples(tmp_path / "big", 1, size=128, seed=8)),
    )
    longer = [cell({"uss": {"family": "none"}, "student": {**FAST, "iterations": 200}})]
    plan = plan_cells(longer, {"d": bigger}, tmp_path)
    ledger = read_ledger(Store(tmp_path / "store"), plan.stages)
    node = Node(cpus=4, gpus=0, memory=2**30)
    cost = estimate(plan, ledger, [node], device="cpu", resources={}, workers=1)
    assert cost.untimed == () and cost.total.complete and cost.timings > 0
    rate = ledger.rate("round", "unet 4", "cpu")
    assert rate is not None
    trained = rate.seconds * 200 * 1 * 32**2 / 3600
    assert cost.stages["round"].cpu_hours == pytest.approx(trained)
    # One row of rounds cannot be spread over four cores.
    assert cost.wall_hours == pytest.approx(max(trained, cost.total.cpu_hours / 4))
    mask = ledger.rate("ucis", "stain", "cpu")
    assert mask is not None
    assert cost.stages["ucis"].cpu_hours == pytest.approx(mask.seconds * 128**2 / 3600)
    assert cost.stages["ucis"].bytes == pytest.approx(mask.bytes * 128**2)

    half = estimate(plan, ledger, [node], device="cpu", resources={}, done={"round": 0.5})
    assert half.stages["round"].cpu_hours == pytest.approx(trained / 2)
    greedy = {"round": {"cpu": 2.0}}
    twice = estimate(plan, ledger, [node], device="cpu", resources=greedy)
    assert twice.stages["round"].cpu_hours == pytest.approx(2 * trained)

    other = plan_cells([cell({})], {"d": bigger}, tmp_path)
    some = estimate(
        other, read_ledger(Store(tmp_path / "store"), other.stages), [node], device="cpu",
        resources={},
    )  # fmt: skip
    assert "features mae mini" in some.untimed and "transport" in some.untimed
    assert not some.total.complete and some.saved is None
    none = estimate(
        other, read_ledger(Store(tmp_path / "no"), ()), [node], device="cpu", resources={}
    )
    assert none.timings == 0 and none.total.cpu_hours == 0


def test_impossible_requests_name_the_nodes() -> None:
    nodes = [Node(8, 1, 64 * 2**30), Node(8, 1, 64 * 2**30), Node(2, 0, 8 * 2**30)]
    refuse_impossible({}, nodes, device="cpu", workers=4)
    with pytest.raises(UserError) as error:
        refuse_impossible(
            {"stage": {"cpu": 16.0}, "round": {"cpu": 8.0}}, nodes, device="cpu", workers=3
        )
    text = str(error.value)
    assert "16 CPU" in text and "3 workers" in text and "room for 2" in text
    assert "2 × (8 CPU, 1 GPU, 64 GiB); 1 × (2 CPU, 0 GPU, 8 GiB)" in text
