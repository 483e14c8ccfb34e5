"""What a study runs in what order, and what it leaves out: pure, without a cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from coin_ray.data.dataset import DataSpec
from coin_ray.execution.order import by_seeds, decided, screened, validity
from coin_ray.study.cells import Level, make_cells
from coin_ray.study.resolved import Objective, ResolvedStudy, Screen, StudyCell
from tests.test_pipeline_cell import config


def study(
    *levels: str, seeds: Sequence[int] = (0,), data: Sequence[str] = ("d",), **fields: object
) -> ResolvedStudy:
    specs = tuple(DataSpec(name, "folder") for name in data)
    made = [Level(label, {"factor": label}, config()) for label in levels]
    return ResolvedStudy(
        name="s",
        title="",
        profile="test",
        source_files=(),
        data=specs,
        levels=levels,
        baseline_level=levels[0],
        cells=make_cells(made, specs, seeds),
        report=("aji",),
        seeds=tuple(seeds),
        **fields,
    )


def metrics(given: ResolvedStudy, **values: float | tuple[float, ...]) -> dict[str, dict]:
    """Agreement by level, and by data set where there are several."""
    found = {}
    for cell in given.cells:
        if cell.level in values:
            value = values[cell.level]
            own = value if isinstance(value, tuple) else (value,) * len(given.data)
            place = [spec.name for spec in given.data].index(cell.data.name)
            found[cell.key_label] = {"agreement": own[place]}
    return found


def label(given: ResolvedStudy, level: str, data: str = "d", seed: int = 0) -> str:
    asked = level, data, seed
    (found,) = [c.key_label for c in given.cells if (c.level, c.data.name, c.seed) == asked]
    return found


def test_the_best_levels_by_their_mean_and_the_baseline_are_kept() -> None:
    given = study("base", "a", "b", "c", "broken", data=("d", "e"), screen=Screen(keep=1))
    seen = metrics(given, base=0.1, a=(0.9, 0.1), b=(0.6, 0.6), c=(0.2, 0.8), broken=0.99)
    del seen[label(given, "broken", "e")]  # it failed on one of the data sets
    kept, reasons = screened(given, seen)
    assert kept == ("base", "b")
    assert reasons == {
        "a": "screened out: agreement 0.500 before round 1, rank 2 of 3, 1 kept",
        "c": "screened out: agreement 0.500 before round 1, rank 3 of 3, 1 kept",
        "broken": "screened out: its first stages failed",
    }
    worst = replace(given, screen=Screen(keep=2, mode="min"))
    assert set(screened(worst, seen)[0]) == {"base", "a", "c"}


def test_the_validity_of_a_screening_by_hand() -> None:
    given = study("base", "a", "b", "c", seeds=(0, 1), screen=Screen(keep=2))
    before = metrics(given, base=0.1, a=0.2, b=0.3, c=0.4)
    # Ranks 1 2 3 against 1 3 2 (c was not distilled): 1 - 6 * 2 / (3 * 8).
    after = {
        label(given, "base"): {"agreement": 0.5},
        label(given, "a"): {"agreement": 0.9},
        label(given, "a", seed=1): {"agreement": 0.7},
        label(given, "b"): {"agreement": 0.6},
    }
    (line,) = validity(given, before, after)
    assert line == (
        "validity of the screening on d: Spearman correlation of agreement before round 1 with "
        "agreement at the end: 0.50 (n = 3 distilled levels)"
    )
    (line,) = validity(given, before, {label(given, "base"): {"agreement": 0.5}})
    assert line.endswith("at the end: too few or too equal to tell (n = 1 distilled levels)")
    by_aji = replace(given, objective=Objective("aji", split="val"))
    assert "with aji at the end: too few" in validity(by_aji, before, after)[0]


class Runs:
    """Stands for the cluster, and for the verdicts that its results would give."""

    def __init__(self, verdicts: Mapping[int, Mapping[tuple[str, str], str | None]]) -> None:
        self._verdicts = verdicts
        self.batches: list[list[str]] = []
        self.seen: list[tuple[tuple[int, ...], int]] = []

    def finish(self, what: str, cells: Sequence[StudyCell]) -> None:
        self.batches.append([f"{c.level}/{c.data.name}/{c.seed}" for c in cells])

    def verdicts(self, part: ResolvedStudy) -> Mapping[tuple[str, str], str | None]:
        self.seen.append((part.seeds, len(part.cells)))
        return self._verdicts[len(part.seeds)]


def test_seeds_are_added_where_the_verdict_is_open() -> None:
    given = study("base", "a", "b", seeds=(3, 1, 4, 5), first_seeds=2)
    runs = Runs({
        2: {("d", "a"): "worse", ("d", "b"): "open"},
        3: {("d", "a"): "open", ("d", "b"): None},  # what has been decided stays so
    })  # fmt: skip
    left_out = by_seeds(given, given.cells, runs.finish, decided(1, runs.verdicts))
    assert runs.batches == [
        ["base/d/3", "a/d/3", "b/d/3", "base/d/1", "a/d/1", "b/d/1"],
        ["base/d/4", "b/d/4"],
        ["base/d/5", "b/d/5"],
    ]
    why = "decided after 2 random seeds: worse"
    assert left_out == dict.fromkeys((label(given, "a", seed=seed) for seed in (4, 5)), why)
    # The verdict is asked of what has been run, so that the same study decides the same again.
    assert runs.seen == [((3, 1), 6), ((3, 1, 4), 8)]


def test_the_baseline_goes_on_where_a_level_is_open_on_the_same_data() -> None:
    given = study("base", "a", seeds=(0, 1), data=("d", "e"), first_seeds=1)
    runs = Runs({1: {("d", "a"): "better", ("e", "a"): "open"}})
    left_out = by_seeds(given, given.cells, runs.finish, decided(1, runs.verdicts))
    assert runs.batches[1] == ["base/e/1", "a/e/1"]
    assert left_out == {
        label(given, "base", seed=1): "every level was decided after 1 random seeds",
        label(given, "a", seed=1): "decided after 1 random seeds: better",
    }


@pytest.mark.parametrize("fields", [{}, {"first_seeds": 1}])
def test_all_seeds_where_nothing_decides(fields: dict[str, int]) -> None:
    given = study("base", "a", seeds=(0, 1), **fields)
    runs = Runs({1: {("d", "a"): None}})
    assert by_seeds(given, given.cells, runs.finish, decided(1, runs.verdicts)) == {}
    assert [label for batch in runs.batches for label in batch] == [
        "base/d/0", "a/d/0", "base/d/1", "a/d/1",
    ]  # fmt: skip
    alone = study("base", seeds=(0, 1), first_seeds=1)
    assert by_seeds(alone, alone.cells, runs.finish, decided(1, runs.verdicts)) == {}
    assert runs.batches[-1] == ["base/d/0", "base/d/1"]
