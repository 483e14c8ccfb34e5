"""The recursion: labels remade and remembered, training that stops, results that are redrawn."""

from __future__ import annotations

import copy
import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from coin_ray.data.dataset import DataSet
from coin_ray.data.synthetic import generated_samples
from coin_ray.distillation import training
from coin_ray.labels import areas
from coin_ray.pipeline import refs
from coin_ray.pipeline.cell import CellRun
from coin_ray.pipeline.runner import open_local, run_local
from coin_ray.pipeline.settings import Cell
from coin_ray.pipeline.stage import Ref, Truth
from coin_ray.pipeline.training import train_stage
from coin_ray.planning.plan import plan_cells
from coin_ray.store.artifacts import CHECKPOINTS
from coin_ray.store.keys import Key
from coin_ray.training.world import HERE
from tests.conftest import SEED, TINY


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return list(generated_samples(tmp_path_factory.mktemp("tiles"), 2, size=96, seed=3))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all tests of this file: they share what their settings share."""
    return tmp_path_factory.mktemp("workspace")


@pytest.fixture(scope="module")
def opened(tiles: list[Any], workspace: Path) -> Any:
    """``opened(labels={...}, ...)``: a cell without a backbone and with 15 steps a round."""

    def make(seed: int = 0, done: list[Key] | None = None, **sections: dict[str, Any]) -> CellRun:
        values = copy.deepcopy(TINY) | {"uss": {"family": "none"}}
        values["student"]["iterations"] = 15
        for name, patch in sections.items():
            values[name] = values.get(name, {}) | patch
        told = (lambda key, seconds: done.append(key)) if done is not None else None
        images = [s.image for s in tiles]
        return open_local(Cell.model_validate(values), seed, images, workspace, done=told)

    return make


def metrics_of(run: CellRun) -> list[dict[str, float]]:
    heard: list[dict[str, float]] = []
    train_stage(run, HERE, lambda round_, metrics, seconds: heard.append(dict(metrics)), "round")
    return heard


def labels_key(run: CellRun, image: Any, round_: int) -> Key:
    return run.chain.key(refs.labels(run.chain, image, round_))


def same_arrays(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(a[k].tobytes() == b[k].tobytes() for k in a)


@pytest.mark.trained
def test_labels_settle_down_and_every_round_logs_them(opened: Any) -> None:
    heard = metrics_of(
        opened(SEED, select={"rule": "otsu"}, labels={"memory": True}, rounds={"count": 4})
    )
    churn = [m["churn"] for m in heard]
    assert churn[0] == 1  # before the first labels there were none
    assert churn[3] < churn[1] / 2  # .52 to .57, then 0 to .09
    for m in heard:
        assert 0 < m["accepted"] <= m["instances"]
        assert m["score_std"] > 0
        assert m["labelled"] >= m["accepted"] * 0.8  # a mask may hide another


def test_churn_is_one_minus_the_iou_of_the_label_foregrounds(opened: Any) -> None:
    run = opened()
    heard = metrics_of(run)
    shared = either = 0
    for image in run.train:
        first, second = (run.labels(image, r).arrays["label_map"] > 0 for r in (1, 2))
        shared, either = shared + (first & second).sum(), either + (first | second).sum()
    assert heard[1]["churn"] == pytest.approx(1 - shared / either)


@pytest.mark.parametrize("memory", [False, True])
def test_a_refresh_with_an_unchanged_student_is_a_fixed_point(opened: Any, memory: bool) -> None:
    """Any churn stops round 2; round 3 then labels with the same student, and again round 4."""
    run = opened(rounds={"count": 4, "early_stop": 1.0}, labels={"memory": memory})
    heard = metrics_of(run)
    assert [m["stopped"] for m in heard] == [0, 1, 1, 1]
    assert [m["churn"] for m in heard[2:]] == [0, 0]
    for image in run.train:
        second, third = run.labels(image, 2), run.labels(image, 3)
        assert same_arrays(second.arrays, third.arrays)
        predicted = [run.array("predict", image, r).tobytes() for r in (1, 4)]
        assert predicted[0] == predicted[1]
    assert same_arrays(run.student(1).arrays, run.student(4).arrays)
    assert run.student(4).info["iterations"] == 0
    assert heard[3]["loss"] == heard[0]["loss"]


def test_early_stop_is_off_by_default_and_never_stops_the_first_labels(opened: Any) -> None:
    assert [m["stopped"] for m in metrics_of(opened())] == [0, 0]
    heard = metrics_of(opened(rounds={"count": 3, "refresh": 2, "early_stop": 1.0}))
    assert [m["stopped"] for m in heard] == [0, 0, 1]


def test_labels_between_refreshes_are_those_of_the_last(opened: Any) -> None:
    computed: list[Key] = []
    run = opened(0, computed, rounds={"count": 3, "refresh": 2}, select={"rule": "mean"})
    heard = metrics_of(run)
    assert sum(k.stage == "select" for k in computed) == 2 * len(run.train)  # rounds 1 and 3
    assert heard[0]["accepted"] == heard[1]["accepted"]
    for image in run.train:
        assert labels_key(run, image, 2) == labels_key(run, image, 1)
        assert labels_key(run, image, 3) != labels_key(run, image, 1)
    fields = run.key("round", round_=2).fields
    assert all(labels_key(run, image, 1).digest in fields for image in run.train)
    assert not same_arrays(run.student(1).arrays, run.student(2).arrays)


def test_rounds_of_one_schedule_are_one_training(opened: Any) -> None:
    """Two rounds on the same labels end as one of twice the steps; their keys say of how many."""
    rounds = {"schedule": "continuous", "count": 2, "refresh": 2}
    parts = opened(rounds=rounds)
    whole = opened(rounds=rounds | {"count": 1}, student={"iterations": 30})
    metrics_of(parts), metrics_of(whole)
    assert same_arrays(parts.student(2).arrays, whole.student(1).arrays)
    anew = opened(rounds={"count": 2, "refresh": 2})
    metrics_of(anew)
    assert not same_arrays(parts.student(2).arrays, anew.student(2).arrays)
    longer = opened(rounds=rounds | {"count": 3})
    first = [run.key("round", round_=1) for run in (parts, longer, anew)]
    assert len({key.digest for key in first}) == 3
    for image in parts.train:  # the label maps of a student that the next round goes on from
        assert parts.array("predict", image, 1).shape == image.load().shape[:2]


def test_a_remembered_mask_stays_where_the_student_no_longer_predicts_it(opened: Any) -> None:
    plain, remembering = opened(), opened(labels={"memory": True})
    metrics_of(plain)
    metrics_of(remembering)
    for image in plain.train:
        # Round 1 has nothing to remember, so both start from the same labels.
        first = remembering.labels(image, 1).arrays
        assert np.array_equal(first["label_map"], plain.labels(image, 1).arrays["label_map"])
        second = remembering.labels(image, 2).arrays
        assert ((second["label_map"] > 0) | (first["label_map"] == 0)).mean() > 0.99
        assert not (second["ignore"] & (second["label_map"] > 0)).any()


def test_the_result_is_redrawn_and_the_next_round_is_not(opened: Any, tiles: list[Any]) -> None:
    computed: list[Key] = []
    plain = opened()
    run = opened(0, computed, infer={"redraw": True}, instances={"min_area": 20})
    small = opened(instances={"min_area": 20})
    rows, facts = run_local(run, tiles)
    before, before_facts = run_local(small, tiles)
    assert facts["agreement"] == before_facts["agreement"]  # of the student, not of its redrawing
    found = 0
    for image in run.train:
        predicted, result = run.array("predict", image, 2), run.labels_at(image, "round_2")
        assert labels_key(run, image, 2) == labels_key(small, image, 2)
        masks = run.masks(image, 3)
        assert len(masks) == predicted.max()
        assert areas(result).min() >= 20
        surest = int(masks.predicted_iou.argmax())
        y0, x0, y1, x1 = masks.boxes[surest]
        own = result[y0:y1, x0:x1][masks.crops[surest]]
        assert own.min() == own.max() > 0  # nothing is painted over the surest
        found += int(result.max())
    assert facts["instances_per_image"] == found / len(run.train)
    assert {r["step"] for r in rows} == {r["step"] for r in before}
    aji = [[r["value"] for r in x if r["metric"] == "aji"] for x in (rows, before)]
    assert aji[0] != aji[1]
    measured = Ref("evaluate", run.train[0], step="round_1", truth=Truth("t", None))
    assert plain.chain.key(measured) != run.chain.key(measured)


def test_labels_may_come_of_cheaper_predictions_than_results(opened: Any, tiles: list[Any]) -> None:
    computed: list[Key] = []
    plain, again = opened(), opened(relabel={"scales": [1.0], "crf": False})
    run = opened(0, computed, relabel={"scales": [0.5]}, infer={"redraw": True})
    data = DataSet(train=run.train, samples=tiles)
    cell = SimpleNamespace(config=run.config, seed=0, data=SimpleNamespace(name="d"), oracle="")
    planned = plan_cells([cell], {"d": data}, run.store.root.parent).to_compute
    run_local(run, tiles)
    assert planned == Counter(key.stage for key in computed)
    assert plan_cells([cell], {"d": data}, run.store.root.parent).to_compute == {}
    for image in run.train:
        cheap, dear = Ref("predict", image, 1, step="labels"), Ref("predict", image, 1)
        told = [json.loads(run.chain.key(ref).fields)["settings"] for ref in (cheap, dear)]
        assert [settings["infer"]["scales"] for settings in told] == [[0.5], [1.0]]
        assert labels_key(again, image, 2) == labels_key(plain, image, 2)  # the same as infer
        assert labels_key(run, image, 2) != labels_key(plain, image, 2)
        assert run.chain.key(dear) == plain.chain.key(dear)
        for ref, seen in (
            (Ref("score", image, 2), cheap),
            (Ref("masks", image, 2), cheap),
            (Ref("masks", image, 2, step="result"), dear),
            (Ref("score", image, 3), Ref("predict", image, 2)),
            (Ref("masks", image, 3), Ref("predict", image, 2)),
        ):
            assert run.chain.sources(ref)["instances"] == seen
        drawn = run.chain.sources(Ref("redraw", image, 1))
        assert drawn["masks"] == Ref("masks", image, 2, step="result")
    assert len({key.amount for key in computed if key.stage == "predict"}) == 2


@pytest.mark.parametrize(
    "sections",
    [
        {"infer": {"redraw": True}},
        {"rounds": {"count": 3, "refresh": 2}, "infer": {"redraw": True}},
        {"labels": {"memory": True}, "rounds": {"count": 0}},
    ],
)
def test_the_plan_predicts_the_computed_stages(
    tiles: list[Any], tmp_path: Path, sections: dict[str, Any]
) -> None:
    values = TINY | {"uss": {"family": "none"}} | sections
    values["infer"] = TINY["infer"] | sections.get("infer", {})
    cell, computed = Cell.model_validate(values), list[Key]()
    images = [s.image for s in tiles[:1]]
    run = open_local(cell, 0, images, tmp_path, done=lambda key, seconds: computed.append(key))
    run_local(run, tiles)  # the second tile is held out
    data = DataSet(train=images, samples=tiles)
    planned = SimpleNamespace(config=cell, seed=0, data=SimpleNamespace(name="d"), oracle="")
    plan = plan_cells([planned], {"d": data}, tmp_path)
    assert set(plan.keys) == plan.present == {k.digest for k in computed}


def test_a_run_killed_inside_a_round_goes_on_inside_it(
    tiles: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No step before the checkpoint is done again, and the result is that of an unbroken run."""
    steps, stop = list[int](), 0
    losses = training._losses

    def counted(*arguments: Any) -> dict[str, torch.Tensor]:
        if len(steps) == stop:
            raise KeyboardInterrupt
        steps.append(1)
        return losses(*arguments)

    monkeypatch.setattr(training, "_losses", counted)

    def cell(name: str, every: float) -> CellRun:
        values = copy.deepcopy(TINY) | {"uss": {"family": "none"}}
        values["student"]["iterations"] = 6
        values["rounds"] = {"count": 2, "checkpoint": every}
        config = Cell.model_validate(values)
        return open_local(config, 0, [s.image for s in tiles], tmp_path / name)

    stop = 99
    whole = cell("whole", 60.0)
    expected = run_local(whole, tiles)
    assert len(steps) == 12
    broken = cell("broken", 0.0)
    kept = broken.store.root / CHECKPOINTS / "round"
    for already, stop in ((0, 4), (4, 9)):  # in the first round, then in the second
        del steps[:]
        steps += [1] * already
        with pytest.raises(KeyboardInterrupt):
            run_local(broken, tiles)
        assert len(steps) == stop and len(list(kept.iterdir())) == 1
    stop = 99
    assert run_local(broken, tiles) == expected
    assert len(steps) == 12
    assert not list(kept.iterdir())
    for round_ in (1, 2):
        one, two = whole.student(round_), broken.student(round_)
        assert same_arrays(one.arrays, two.arrays) and one.info["loss"] == two.info["loss"]
        assert whole.key("round", round_=round_) == broken.key("round", round_=round_)
