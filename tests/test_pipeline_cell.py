"""A cell in one process: real stages on generated tiles, computed once, fed no ground truth."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coin_ray.data.dataset import DataSet
from coin_ray.data.synthetic import generated_samples
from coin_ray.pipeline.runner import open_local, run_local
from coin_ray.pipeline.settings import Cell
from coin_ray.pipeline.training import train_stage
from coin_ray.store.keys import Key
from coin_ray.training.world import HERE, World
from tests.conftest import TINY


def config(**sections: dict[str, Any]) -> Cell:
    values = copy.deepcopy(TINY)
    for name, patch in sections.items():
        values[name] = values.get(name, {}) | patch
    return Cell.model_validate(values)


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory):
    return generated_samples(tmp_path_factory.mktemp("tiles"), 2, size=96, seed=3)


@pytest.fixture(scope="module")
def finished(tiles, tmp_path_factory: pytest.TempPathFactory):
    """Workspace, rows, facts and computed keys of one finished cell."""
    workspace = tmp_path_factory.mktemp("workspace")
    computed: list[Key] = []
    images = [s.image for s in tiles]
    run = open_local(config(), 0, images, workspace, done=lambda key, seconds: computed.append(key))
    rows, facts = run_local(run, tiles)
    return workspace, rows, facts, computed


def again(tiles, workspace: Path, cell: Cell, seed: int = 0) -> tuple[list[Key], list[Any]]:
    computed: list[Key] = []
    images = [s.image for s in tiles]
    run = open_local(cell, seed, images, workspace, done=lambda key, seconds: computed.append(key))
    return computed, run_local(run, tiles)[0]


def test_every_step_of_every_image_is_evaluated(tiles, finished):
    _, rows, facts, _ = finished
    steps = {(r["image"], r["step"]) for r in rows}
    wanted = {"ucis", "step1", "pseudo_labels", "round_1", "round_2"}
    assert steps == {(s.name, step) for s in tiles for step in wanted}
    aji = [r["value"] for r in rows if r["metric"] == "aji" and r["step"] == "ucis"]
    assert all(0.1 < v < 1 for v in aji)
    assert 0 <= facts["agreement"] <= 1


def test_no_stage_is_computed_twice_and_a_second_run_computes_none(tiles, finished):
    workspace, rows, _, computed = finished
    assert len({k.digest for k in computed}) == len(computed)
    new, rows_again = again(tiles, workspace, config())
    assert new == []
    assert rows_again == rows


def test_the_plan_predicts_the_computed_stages(tiles, finished):
    from types import SimpleNamespace

    from coin_ray.planning.plan import plan_cells

    workspace, _, _, computed = finished
    data = DataSet(train=[s.image for s in tiles], samples=tiles)
    cell = SimpleNamespace(config=config(), seed=0, data=SimpleNamespace(name="d"), oracle="")
    plan = plan_cells([cell], {"d": data}, workspace)
    assert plan.unique == len(computed)
    assert plan.stored == plan.unique
    assert plan.to_compute == {}


def test_another_threshold_computes_no_features_and_no_embeddings(tiles, finished):
    workspace = finished[0]
    new, _ = again(tiles, workspace, config(select={"rule": "mean"}))
    stages = {k.stage for k in new}
    assert stages == {"select", "round", "predict", "masks", "score", "evaluate"}


def test_another_zoom_adds_to_the_features_that_are_there(tiles, finished):
    workspace = finished[0]
    cell = config(uss={"zoom": [2.0, 3.0]}, rounds={"count": 0})
    new, _ = again(tiles, workspace, cell)
    count = {stage: sum(k.stage == stage for k in new) for stage in ("features", "similarity")}
    assert count == {"features": len(tiles), "similarity": len(tiles)}
    images = [s.image for s in tiles]
    one, other, both = (
        open_local(config(uss={"zoom": zoom, "minmax": False}), 0, images, workspace)
        for zoom in (2.0, 3.0, [3.0, 2.0])
    )
    mean = (one.array("similarity", images[0])[1] + other.array("similarity", images[0])[1]) / 2
    np.testing.assert_allclose(both.array("similarity", images[0])[1], mean, atol=1e-6)


def test_without_transport_the_threshold_is_one_of_cosines(tiles, finished):
    """The same store has stretched maps of the same features, for the transport."""
    images = [s.image for s in tiles]
    on, off = (
        open_local(config(ot={"enabled": enabled}), 0, images, finished[0])
        for enabled in (True, False)
    )
    stretched, cosine = on.array("similarity", images[0])[1], off.array("similarity", images[0])[1]
    assert (stretched.min(), stretched.max()) == (0, 1)
    assert cosine.min() < 0 and cosine.max() < 1
    np.testing.assert_array_equal(off.array("refine", images[0]), cosine > np.float32(0.4))


def test_a_third_round_continues_after_the_second(tiles, finished):
    workspace = finished[0]
    new, _ = again(tiles, workspace, config(rounds={"count": 3}))
    assert [k.name for k in new if k.stage == "round"] == ["round3-seed0"]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(tiles, finished, tmp_path):
    workspace, rows, _, computed = finished
    _, rows_again = again(tiles, tmp_path, config())
    assert rows_again == rows
    first = next(k for k in computed if k.stage == "round")
    files = [p / first.path / "data.safetensors" for p in (workspace / "store", tmp_path / "store")]
    assert files[0].read_bytes() == files[1].read_bytes()
    _, other = again(tiles, workspace, config(), seed=1)
    assert [r["value"] for r in other] != [r["value"] for r in rows]


def test_relabelling_does_not_depend_on_the_number_of_workers(tiles, finished, tmp_path):
    """Two ranks relabel a shard each; together they store what one rank stores."""
    from coin_ray.pipeline.training import relabel

    workspace = finished[0]
    images = [s.image for s in tiles]
    shutil.copytree(workspace / "store", tmp_path / "store")
    run = open_local(config(), 0, images, tmp_path)
    whole = open_local(config(), 0, images, workspace)
    for image in images:
        for key in (run.key("score", image, 2), run.key("select", image, 2)):
            run.store.discard(run.store.folder(key))
    for rank in (0, 1):
        relabel(run, World(rank, 2), 2)
    for image in images:
        mine, theirs = run.labels(image, 2), whole.labels(image, 2)
        assert mine.info == theirs.info
        for name, array in theirs.arrays.items():
            np.testing.assert_array_equal(mine.arrays[name], array)


def test_the_coarse_mask_alone_needs_no_backbone(tiles, tmp_path):
    cell = config(uss={"family": "none"}, rounds={"count": 0})
    new, rows = again(tiles, tmp_path, cell)
    wanted = {"ucis", "instances", "embed", "masks", "score", "select", "evaluate"}
    assert {k.stage for k in new} == wanted
    by_step = {
        step: [r["value"] for r in rows if r["step"] == step and r["metric"] == "aji"]
        for step in ("ucis", "step1")
    }
    assert by_step["ucis"] == by_step["step1"]


def test_a_round_reports_what_it_was_trained_on(tiles, finished):
    workspace = finished[0]
    heard: list[tuple[int, dict[str, float]]] = []
    run = open_local(config(), 0, [s.image for s in tiles], workspace)
    train_stage(run, HERE, lambda r, metrics, seconds: heard.append((r, dict(metrics))), "round")
    assert [r for r, _ in heard] == [1, 2]
    for _, metrics in heard:
        assert 0 < metrics["accepted"] <= metrics["instances"]
        assert np.isfinite(metrics["loss"])


def test_masks_from_files_take_the_place_of_the_stain(tiles, tmp_path):
    """The ground truth of generated tiles serves as masks made elsewhere: the coarse row is then
    perfect up to splitting, which shows that the files were read."""
    folder = Path(tiles[0].truth_path).parent
    cell = config(
        ucis={"model": "files", "path": str(folder)}, uss={"family": "none"}, rounds={"count": 0}
    )
    _, rows = again(tiles, tmp_path, cell)
    dice = [r["value"] for r in rows if r["step"] == "ucis" and r["metric"] == "dice"]
    assert dice == [1.0] * len(tiles)


@pytest.mark.parametrize(
    ("result", "step"),
    [("coarse", "ucis"), ("step 1", "step1"), ("pseudo labels", "pseudo_labels")],
)
def test_any_step_can_be_the_result_and_nothing_is_trained_after_it(tiles, finished, result, step):
    workspace, before, _, _ = finished
    computed, rows = again(tiles, workspace, config(evaluate={"result": result}))
    assert computed == []
    final = [r for r in rows if r["step"] == "final"] or [r for r in rows if r["step"] == "step1"]
    wanted = [r["value"] for r in before if r["step"] == step]
    np.testing.assert_array_equal([r["value"] for r in final], wanted)
    assert not any(r["step"].startswith("round") for r in rows)


def test_a_round_can_be_the_result(tiles, finished):
    workspace, before, _, _ = finished
    cell = config(evaluate={"result": "round 1"})
    assert cell.rounds.count == 1
    computed, rows = again(tiles, workspace, cell)
    assert {key.stage for key in computed} <= {"embed", "masks", "score"}  # of that student's end
    assert rows == [r for r in before if r["step"] != "round_2"]
    with pytest.raises(ValueError, match=r"round 3 needs rounds\.count: 3"):
        config(evaluate={"result": "round 3"})
