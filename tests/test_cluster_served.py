"""Studies whose stages are in the store: what is left out, what is decided, what comes out of it.

Nothing is computed by the study itself, so no cluster is started; a cell that was left out would
have needed one.
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coin_ray.cluster.executor import Cluster
from coin_ray.data.dataset import DataSet, DataSpec
from coin_ray.data.synthetic import generated_samples
from coin_ray.errors import UserError
from coin_ray.events import events
from coin_ray.execution.cell_spec import with_rounds
from coin_ray.execution.executor import Executor
from coin_ray.execution.order import verdicts_in
from coin_ray.execution.study_run import Outcome, run_study
from coin_ray.pipeline.runner import open_local, run_local
from coin_ray.pipeline.settings import Cell
from coin_ray.report.export import export
from coin_ray.report.values.study_results import keep_sweep, read_results
from coin_ray.store.keys import Key
from coin_ray.study.cells import Level, make_cells
from coin_ray.study.datasets import with_data
from coin_ray.study.resolved import (
    Analysis,
    Dimension,
    Objective,
    ResolvedStudy,
    Screen,
    Search,
    StudyCell,
)
from tests.test_pipeline_cell import config

ONE_ROUND: dict[str, Any] = {
    "uss": {"family": "none"},
    "student": {"iterations": 2},
    "rounds": {"count": 1},
}
# What is scored depends on the instances: larger peaks' footprints leave fewer of them.
LEVELS = {
    label: config(**ONE_ROUND, instances={"footprint": size})
    for label, size in (("base", 9), ("small", 5), ("large", 21))
}


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    samples = tuple(generated_samples(tmp_path_factory.mktemp("tiles"), 2, size=96, seed=3))
    return DataSet(tuple(s.image for s in samples), samples)


def study(seeds: tuple[int, ...] = (0,), **fields: Any) -> ResolvedStudy:
    specs = (DataSpec("tiles", "folder"),)
    levels = [Level(label, {"footprint": label}, cell) for label, cell in LEVELS.items()]
    return ResolvedStudy(
        name="served",
        title="served",
        profile="test",
        source_files=(),
        data=specs,
        levels=tuple(LEVELS),
        baseline_level="base",
        cells=make_cells(levels, specs, seeds),
        report=("aji",),
        seeds=seeds,
        **fields,
    )


def compute(config: Cell, seed: int, tiles: DataSet, workspace: Path) -> dict[str, float]:
    """A cell into the store; its facts."""
    return run_local(open_local(config, seed, tiles.train, workspace), tiles.samples)[1]


def run(
    given: ResolvedStudy, tiles: DataSet, workspace: Path, executor: Executor | None = None
) -> tuple[Outcome, list[events.Event]]:
    heard: list[events.Event] = []
    outcome = run_study(
        given,
        {"tiles": tiles},
        workspace=workspace,
        listen=heard.append,
        executor=executor or Cluster(),
    )
    return outcome, heard


def of(cells: tuple[StudyCell, ...], level: str, seed: int) -> str:
    return next(c.key_label for c in cells if (c.level, c.seed) == (level, seed))


def test_screening_distils_the_best_and_the_baseline(tiles: DataSet, tmp_path: Path):
    scored = {
        label: compute(with_rounds(cell, 0), 0, tiles, tmp_path)["agreement"]
        for label, cell in LEVELS.items()
    }
    worst, best = sorted(("small", "large"), key=lambda label: scored[label])
    finals = {
        label: compute(LEVELS[label], seed, tiles, tmp_path)["agreement"]
        for label in ("base", best)
        for seed in (0, 1)
    }
    given = with_data(study(seeds=(0, 1), screen=Screen(keep=1)), {"tiles": tiles})
    outcome, heard = run(given, tiles, tmp_path)
    assert outcome.computed == 0 and outcome.failed == {}
    reason = f"screened out: agreement {scored[worst]:.3f} before round 1, rank 2 of 2, 1 kept"
    labels = [of(given.cells, worst, seed) for seed in (0, 1)]
    assert outcome.left_out == dict.fromkeys(labels, reason)
    ended = {e.cell: e.rounds for e in heard if isinstance(e, events.CellFinished)}
    assert ended == {
        **{of(given.cells, level, seed): None for level in ("base", best) for seed in (0, 1)},
        labels[0]: 0,
    }
    done = {e.cell: e.metrics for e in heard if isinstance(e, events.CellFinished)}
    assert done[of(given.cells, best, 1)]["agreement"] == finals[best]
    said = [e.text for e in heard if isinstance(e, events.Note)]
    assert len(said) == 1 and "(n = 2 distilled levels)" in said[0]
    # It is in the table as far as it went, and has no end that could be compared.
    runs = tmp_path / "runs" / given.run_name
    found = read_results(given, runs)
    steps = found.frame.filter(found.frame["level"] == worst)["step"].unique().to_list()
    assert set(steps) == {"ucis", "step1", "pseudo_labels"}
    row = found.compared.filter(found.compared["level"] == worst).to_dicts()[0]
    assert row["delta"] is None
    # What the store has all the same is not thrown away, and it tells how good the screening was.
    for seed in (0, 1):
        compute(LEVELS[worst], seed, tiles, tmp_path)
    outcome, heard = run(given, tiles, tmp_path)
    assert outcome.left_out == {}
    assert any("(n = 3 distilled levels)" in e.text for e in heard if isinstance(e, events.Note))


@pytest.fixture(scope="module")
def workspace(tiles: DataSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every level with seeds 0 and 1, and all but one with seed 2."""
    workspace = tmp_path_factory.mktemp("workspace")
    for label, seed in itertools.product(LEVELS, (0, 1, 2)):
        if (label, seed) != ("large", 2):
            compute(LEVELS[label], seed, tiles, workspace)
    return workspace


def test_further_seeds_run_where_the_verdict_is_open(
    tiles: DataSet, workspace: Path, monkeypatch: pytest.MonkeyPatch
):
    given = with_data(study(seeds=(0, 1, 2), first_seeds=2), {"tiles": tiles})
    seen: list[tuple[int, ...]] = []

    def verdicts(part: ResolvedStudy) -> dict[tuple[str, str], str | None]:
        seen.append(part.seeds)
        own = verdicts_in(workspace / "runs" / given.run_name)(part)
        assert own.keys() == {("tiles", "small"), ("tiles", "large")}
        return own | {("tiles", "large"): "worse", ("tiles", "small"): "open"}

    monkeypatch.setattr("coin_ray.execution.study_run.verdicts_in", lambda runs: verdicts)
    outcome, heard = run(given, tiles, workspace)
    assert outcome.computed == 0 and seen == [(0, 1)]
    left = of(given.cells, "large", 2)
    assert outcome.left_out == {left: "decided after 2 random seeds: worse"}
    finished = [e.cell for e in heard if isinstance(e, events.CellFinished)]
    assert sorted(finished) == sorted(c.key_label for c in given.cells if c.key_label != left)
    assert any(isinstance(e, events.CellLeftOut) and e.cell == left for e in heard)
    runs = workspace / "runs" / given.run_name
    keep_sweep(runs, {"missing": outcome.left_out})
    found = read_results(given, runs)
    row = found.compared.filter(found.compared["level"] == "large").to_dicts()[0]
    assert row["seeds"] == 2 and "decided after 2 of 3 random seeds" in row["caution"]


def test_the_verdicts_are_those_of_the_report(tiles: DataSet, workspace: Path):
    given = with_data(study(seeds=(0, 1), analysis=Analysis(min_effect=1.0)), {"tiles": tiles})
    run(given, tiles, workspace)
    found = verdicts_in(workspace / "runs" / given.run_name)(given)
    # With an effect that no AJI can have, all levels are as good as the baseline.
    assert found == {("tiles", "small"): "equal", ("tiles", "large"): "equal"}


def test_what_was_damaged_is_made_again_and_said(
    tiles: DataSet, workspace: Path, tmp_path: Path
) -> None:
    shutil.copytree(workspace / "store", tmp_path / "store")
    folder = next((tmp_path / "store" / "evaluate").iterdir())
    raw = (folder / "data.safetensors").read_bytes()
    (folder / "data.safetensors").write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    outcome, heard = run(study(seeds=(0, 1)), tiles, tmp_path)
    assert outcome.failed == {}
    said = [event for event in heard if isinstance(event, events.Note)]
    assert [note.severity for note in said] == ["warning"]
    assert f"evaluate/{folder.name}: its data are not what was written" in said[0].text
    assert (folder / "data.safetensors").read_bytes() == raw


def test_an_objective_that_cannot_be_had_is_refused_before_anything_starts(
    tiles: DataSet, tmp_path: Path
):
    blind = DataSet(tiles.train, tuple(replace(s, truth_path=None) for s in tiles.samples))
    space = (Dimension("instances.footprint", "int", (5, 9), step=2),)
    given = study(search=Search(space, 2), objective=Objective("aji", split="val"))
    with pytest.raises(UserError, match="the objective aji needs labels, tiles has none"):
        run(given, blind, tmp_path)
    models = (Dimension("sam.model", "any", ("mini", "vit_h")),)
    given = study(search=Search(models, 2))
    with pytest.raises(UserError, match="sam_vit_h"):
        run(given, tiles, tmp_path)
    assert not (tmp_path / "runs").exists()


def test_two_studies_at_once_compute_each_stage_once(tiles: DataSet, tmp_path: Path):
    """One asks for two rounds of the same, so that their chains are the same as far as they go."""
    told: list[list[Key]] = [[], []]

    def work(index: int) -> dict[str, float]:
        run = open_local(
            with_rounds(LEVELS["base"], 1 + index),
            0,
            tiles.train,
            tmp_path,
            done=lambda key, seconds: told[index].append(key),
        )
        return run_local(run, tiles.samples)[1]

    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(work, (0, 1)))
    computed = Counter(key.digest for keys in told for key in keys)
    assert set(computed.values()) == {1}
    assert sum(key.stage == "round" for keys in told for key in keys) == 2
    assert both[0] == compute(with_rounds(LEVELS["base"], 1), 0, tiles, tmp_path)
    assert not list((tmp_path / "store" / "leases").glob("*/*"))


def test_results_are_written_again_when_only_the_settings_have_changed(
    tiles: DataSet, tmp_path: Path
):
    run = open_local(with_rounds(LEVELS["small"], 0), 0, tiles.train, tmp_path)
    rows, _ = run_local(run, tiles.samples)
    for settings, count in ((None, 0), (LEVELS["small"], 1)):
        export(run, tiles.samples, tmp_path / "cell", rows, {}, settings)
        assert f"count: {count}" in (tmp_path / "cell" / "config.yaml").read_text()
    assert json.loads((tmp_path / "cell" / "metrics.json").read_text())["rows"] == rows
