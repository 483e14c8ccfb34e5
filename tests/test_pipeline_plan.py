"""The plan: what it counts is what runs, however the cells share it; hours come from timings."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from coin_ray.data.dataset import DataSet
from coin_ray.data.sample import Image
from coin_ray.data.synthetic import generated_samples
from coin_ray.pipeline import chain as chain_module
from coin_ray.pipeline.chain import Chain
from coin_ray.pipeline.stages import LARGE
from coin_ray.planning.asked import cell_stages
from coin_ray.planning.contents import identities
from coin_ray.planning.plan import plan_cells
from coin_ray.planning.states import stages_by_cell
from coin_ray.store.artifacts import Artifact, Store
from coin_ray.store.keys import Key
from coin_ray.store.upkeep import collectable, remove
from tests.planned_cells import FAST, cell, run, two_tiles
from tests.test_pipeline_cell import config


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    return two_tiles(tmp_path_factory.mktemp("tiles"))


@pytest.mark.parametrize("redraw", [False, True])
def test_the_plan_predicts_what_runs_however_much_is_stored(
    data: Any, tmp_path: Path, redraw: bool
) -> None:
    infer = {"infer": {"redraw": redraw, "scales": [1.0], "stain_weight": 0.0}}
    cells = [cell(infer), cell({**infer, "select": {"rule": "mean"}}), cell(infer, seed=1)]
    plan = plan_cells(cells, {"d": data}, tmp_path)
    assert plan.stored == 0 and plan.to_compute["round"] == 3
    assert run(cells, data, tmp_path) == plan.to_compute
    assert plan_cells(cells, {"d": data}, tmp_path).to_compute == {}

    # A second round continues what is there; features and embeddings are not needed any more.
    store = Store(tmp_path / "store")
    for entry in collectable(store, 0, LARGE):
        remove(store, store.root / entry.stage / entry.name)
    assert store.folders("features") == [] and store.folders("embed") == []
    assert plan_cells(cells, {"d": data}, tmp_path).to_compute == {}
    assert run(cells, data, tmp_path) == {}
    longer = [cell({**infer, "rounds": {"count": 2}})]
    plan = plan_cells(longer, {"d": data}, tmp_path)
    assert plan.to_compute["round"] == 1 and "features" not in plan.to_compute
    assert run(longer, data, tmp_path) == plan.to_compute

    # What is broken is made again, and nothing else.
    final = "redraw" if redraw else "predict"
    for folder in store.folders(final):  # of both rounds; only the last one is asked for
        if folder.startswith(data.train[0].name):
            store.discard(store.root / final / folder)
    plan = plan_cells(longer, {"d": data}, tmp_path)
    assert plan.to_compute == {final: 1}
    assert run(longer, data, tmp_path) == plan.to_compute
    for stage in ("score", "select"):
        store.discard(store.folder(next(k for k in plan.keys.values() if k.stage == stage)))
    plan = plan_cells(longer, {"d": data}, tmp_path)
    assert plan.to_compute == {"score": 1, "select": 1}
    assert run(longer, data, tmp_path) == plan.to_compute


@pytest.mark.parametrize("redraw", [False, True])
def test_whatever_is_lost_the_plan_predicts_what_is_made_again(
    data: Any, tmp_path: Path, redraw: bool
) -> None:
    infer = {"infer": {"redraw": redraw, "scales": [1.0], "stain_weight": 0.0}}
    longer = {**infer, "rounds": {"count": 2}}
    cells = [cell(longer), cell({**longer, "select": {"rule": "mean"}})]
    run(cells, data, tmp_path / "whole")
    store, draw = Store(tmp_path / "whole" / "store"), random.Random(0)
    stages = plan_cells(cells, {"d": data}, tmp_path / "whole").stages
    there = [(stage, folder) for stage in stages for folder in store.folders(stage)]
    for number in range(8):
        rest = tmp_path / str(number)
        shutil.copytree(tmp_path / "whole", rest)
        if number % 2:
            shutil.rmtree(rest / "runs")
        lost = draw.sample(there, 4)
        for stage, folder in lost:
            shutil.rmtree(rest / "store" / stage / folder)
        plan = plan_cells(cells, {"d": data}, rest)
        assert run(cells, data, rest) == plan.to_compute, lost


def test_a_cell_without_rounds_or_propagation(data: Any, tmp_path: Path) -> None:
    cells = [cell({"rounds": {"count": 0}, "uss": {"family": "none"}}, seed) for seed in (0, 1)]
    plan = plan_cells(cells, {"d": data}, tmp_path)
    assert "round" not in plan.to_compute and "features" not in plan.to_compute
    assert run(cells, data, tmp_path) == plan.to_compute


CONFIGS = [
    {},
    {"select": {"rule": "mean"}},
    {"ot": {"lambda": 0.7}},
    {"rounds": {"count": 3}},
    {"rounds": {"count": 3, "refresh": 2}},
    {"rounds": {"count": 2, "schedule": "continuous"}},
    {"rounds": {"count": 3, "schedule": "continuous"}},
    {"rounds": {"count": 0}},
    {"infer": {"redraw": True, "scales": [1.0]}},
    {"uss": {"family": "none"}},
    {"select": {"rule": "mean"}, "infer": {"redraw": True, "scales": [1.0]}},
    {"ot": {"lambda": 0.7}, "infer": {"redraw": True, "scales": [1.0]}},
    {"ot": {"lambda": 0.7}, "labels": {"missed": "background"}},
    {"uss": {"centroid_scope": "dataset"}, "select": {"scope": "dataset"}},
    {"student": {**FAST, "lr": 0.5}},
    {"student": {**FAST, "lr": 0.5, "iterations": 3}},
]


def test_shared_and_multiplied_keys_count_what_keys_of_their_own_count(
    data: Any, tmp_path: Path
) -> None:
    """Cells share a memo and stand for each other; made one by one the keys are the same."""
    cells = [cell(patch, seed) for seed in range(4) for patch in CONFIGS]
    cells += [cell(CONFIGS[1], 9)]  # a seed that only one of them has
    weights, _ = identities(cells, {"d": data})
    alone = [
        {
            key.digest: key
            for key in cell_stages(
                Chain(c.config, c.seed, data.train, weights.__getitem__, lambda f, n: ""), data
            )
        }
        for c in cells
    ]
    every = {digest: key for own in alone for digest, key in own.items()}

    # One seed has begun: nothing may be said of it by way of another.
    begun = next(key for key in every.values() if key.name == "round1-seed2")
    Store(tmp_path / "store").save(begun, Artifact(), 1.0)

    plan = plan_cells(cells, {"d": data}, tmp_path)
    assert plan.unique == len(every) and plan.stored == 1
    by_stage = Counter(key.stage for key in every.values())
    assert {s: c.unique for s, c in plan.stages.items()} == by_stage
    naive = Counter(key.stage for own in alone for key in own.values())
    assert {s: c.naive for s, c in plan.stages.items()} == naive
    assert sum(plan.to_compute.values()) == len(every) - 1
    assert plan.copies and len(plan.keys) < len(every) / 2
    for stage in by_stage:
        work = sum(key.amount for key in every.values() if key.stage == stage)
        own = [digest for digest, key in plan.keys.items() if key.stage == stage]
        said = (plan.whole[digest].amount * plan.copies.get(digest, 1) for digest in own)
        assert sum(said) == pytest.approx(work)
    for one, own in zip(stages_by_cell(cells, {"d": data}, tmp_path), alone, strict=True):
        assert one.stages.keys() == own.keys()
        assert one.missing.keys() == own.keys() - {begun.digest}


@pytest.fixture(scope="module")
def alike(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Images of one size, one that is there twice, one of another size, one without labels, and
    one that is not trained on."""
    folder = tmp_path_factory.mktemp("alike")
    tiles = generated_samples(folder / "tiles", 5, size=64, seed=5)
    again = replace(tiles[0].image, name="again", path=folder / "again.png")
    shutil.copy(tiles[0].image.path, again.path)
    large = generated_samples(folder / "large", 1, size=96, seed=6)
    bare = replace(tiles[3], truth_path=None)
    samples = (*tiles[:3], replace(tiles[0], image=again), bare, *large, tiles[4])
    return DataSet(train=tuple(s.image for s in samples[:-1]), samples=samples)


@pytest.mark.parametrize("kept", [0.0, 0.2, 0.6, 0.95])
@pytest.mark.parametrize("begun", [False, True])
def test_images_that_are_alike_are_counted_as_if_each_had_its_keys(
    alike: Any, tmp_path: Path, kept: float, begun: bool
) -> None:
    cells = [cell(patch, seed) for seed in range(2) for patch in CONFIGS]
    whole = stages_by_cell(cells, {"d": alike}, tmp_path)
    every = {digest: key for own in whole for digest, key in own.stages.items()}
    store, draw = Store(tmp_path / "store"), random.Random(0)
    before = ("ucis", "features", "centroids", "similarity", "transport", "refine", "instances")
    for key in every.values():
        lucky = draw.random() < kept and (begun or key.stage in before)
        if lucky or (begun and key.stage == "round"):
            store.save(key, Artifact(), 1.0)

    plan = plan_cells(cells, {"d": alike}, tmp_path)
    there = stages_by_cell(cells, {"d": alike}, tmp_path)
    missing = {digest: key for own in there for digest, key in own.missing.items()}
    assert plan.present == store.stored(every.values())
    naive = Counter(key.stage for own in whole for key in own.stages.values())
    assert {s: c.naive for s, c in plan.stages.items()} == naive
    unique = Counter(key.stage for key in every.values())
    assert {s: c.unique for s, c in plan.stages.items()} == unique
    assert plan.to_compute == Counter(key.stage for key in missing.values())
    for stage in unique:
        own = [digest for digest in plan.missing if plan.keys[digest].stage == stage]
        work = sum(plan.missing[digest].amount * plan.copies.get(digest, 1) for digest in own)
        assert work == pytest.approx(sum(k.amount for k in missing.values() if k.stage == stage))


def test_the_same_images_in_two_data_sets_share_their_stages(alike: Any, tmp_path: Path) -> None:
    some = DataSet(train=alike.train[1:3], samples=alike.samples[1:3])
    data = {"all": alike, "some": some}
    cells = [cell({}), cell({"ot": {"lambda": 0.7}})]
    both = [replaced(one, name) for name in data for one in cells]
    every = {d: k for own in stages_by_cell(both, data, tmp_path) for d, k in own.stages.items()}
    plan = plan_cells(both, data, tmp_path)
    counted = Counter(key.stage for key in every.values())
    assert {stage: count.unique for stage, count in plan.stages.items()} == counted


def replaced(one: Any, name: str) -> Any:
    return SimpleNamespace(
        config=one.config, seed=one.seed, data=SimpleNamespace(name=name), oracle=""
    )


def test_keys_are_made_for_one_of_the_images_that_are_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cells that share nothing: more images are more work for a run, and none for its plan."""
    made = Counter[str]()
    whole = chain_module.make_key

    def counting(stage: str, *rest: Any, **options: Any) -> Key:
        made[stage] += 1
        return whole(stage, *rest, **options)

    monkeypatch.setattr(chain_module, "make_key", counting)
    read, digest = list[Image](), Image.digest
    monkeypatch.setattr(Image, "digest", lambda image: read.append(image) or digest(image))
    keys = []
    for images in (2, 12):
        tiles = generated_samples(tmp_path / f"tiles{images}", images, size=64, seed=0)
        data = DataSet(train=tuple(s.image for s in tiles), samples=tuple(tiles))
        cells = [cell({"ot": {"lambda": 0.1 + i}, "infer": {"stain_weight": i}}) for i in range(9)]
        plan = plan_cells(cells, {"d": data}, tmp_path)
        assert plan.stages["transport"].unique == 9 * images
        assert sorted(image.name for image in read) == sorted(image.name for image in data.train)
        read.clear()
        keys.append(Counter(made))
        made.clear()
    assert keys[0] == keys[1] and keys[0]["round"] == 9 and keys[0]["features"] == 1


def test_a_thousand_cells_are_counted(tmp_path: Path) -> None:
    """All of them counted, none stored: the plan of a new study."""
    tiles = generated_samples(tmp_path / "tiles", 8, size=64, seed=0)
    images = DataSet(train=tuple(s.image for s in tiles[:4]), samples=tuple(tiles[4:]))
    cells = [
        SimpleNamespace(config=made, seed=seed, data=SimpleNamespace(name="d"), oracle="")
        for made in (
            config(ot={"lambda": 0.1 * i}, select={"rule": "fixed", "value": 0.02 * j})
            for i in range(1, 11)
            for j in range(50)
        )
        for seed in range(2)
    ]
    plan = plan_cells(cells, {"d": images}, tmp_path)
    assert plan.stages["round"].unique == 2000 and plan.stages["transport"].unique == 80
    assert len(plan.keys) < 10_000  # what takes the time is making keys


def test_a_key_depends_on_sections_and_nothing_else_of_a_cell(data: Any) -> None:
    keys = Chain(config(), 0, data.train, lambda name: name, lambda f, n: "")
    with pytest.raises(AttributeError, match="not on 'model_dump'"):
        keys.config.model_dump()
