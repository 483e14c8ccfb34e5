"""What the lines of a journal come to: the runs, their metrics and their endings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coin_ray.tracking import records as recorded
from coin_ray.tracking.lines import parsed
from coin_ray.tracking.records import STUDY, RunRecord, name
from tests.test_tracking_journal import CELL


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("aji", "aji"),
        ("ot.lambda", "ot.lambda"),
        ("x" * 250, "x" * 250),
        ("pq@50 (±)", "pq_50 ___-"),
        ("/a//b/../c/", "a/b/c-"),
        ("..", "_-"),
        ("", "_-"),
        ("x" * 300, "x" * 200 + "-"),
    ],
)
def test_names_become_keys_that_mlflow_takes(raw: str, clean: str) -> None:
    """What is changed carries a digest: see ``test_study_names``."""
    found = name(raw)
    assert found == clean if clean == raw else found[:-24] == clean
    assert len(found) <= 250


def fold(records: dict[str, RunRecord], row: dict[str, object]) -> set[str]:
    """Fold a line that says what its test is about; the rest that it must have is added."""
    study = {"study": "s", "cells": 1, "computed": 0, "reused": 0, "tags": {}}
    return recorded.fold(records, parsed(CELL | study | row))


def test_a_cell_that_fails_and_then_works_is_finished() -> None:
    record = folded(
        {"event": "CellStarted", "run": "c", "time": 1},
        {"event": "CellFailed", "run": "c", "time": 2, "cause": "out of memory", "trace": "Tr"},
    )
    assert (record.status, record.tags["failure"], record.end) == ("FAILED", "out of memory", 2)
    assert record.texts["failure.txt"] == "Tr"
    record = folded(
        {"event": "CellFailed", "run": "c", "time": 2, "cause": "out of memory", "trace": ""},
        {"event": "CellStarted", "run": "c", "time": 3},
        {"event": "CellFinished", "run": "c", "time": 4, "metrics": {"aji": 0.5}},
    )
    assert (record.status, record.end) == ("FINISHED", 4)
    assert "failure" not in record.tags


def test_final_values_close_the_curve_over_rounds() -> None:
    record = folded(
        {"event": "RoundFinished", "run": "c", "time": 1, "round": 1, "metrics": {"aji": 0.5}},
        {"event": "RoundFinished", "run": "c", "time": 2, "round": 2, "metrics": {"aji": 0.6}},
        {"event": "CellFinished", "run": "c", "time": 3, "metrics": {"aji": 0.6, "pq": None}},
    )
    assert record.metrics == {("aji", 1): (0.5, 1), ("aji", 2): (0.6, 2)}
    assert record.all_tags()["nonfinite"] == "pq at 2"


def test_an_interruption_ends_the_cells_that_were_running() -> None:
    records: dict[str, RunRecord] = {}
    fold(records, {"event": "CellStarted", "run": "a", "time": 1})
    fold(records, {"event": "CellFinished", "run": "a", "time": 2})
    fold(records, {"event": "CellStarted", "run": "b", "time": 3})
    touched = fold(records, {"event": "StudyFinished", "time": 4, "interrupted": True})
    assert touched == {STUDY, "b"}
    assert {run: record.status for run, record in records.items()} == {
        STUDY: "KILLED",
        "a": "FINISHED",
        "b": "KILLED",
    }


def test_a_finished_cell_that_is_looked_at_again_stays_as_it_was() -> None:
    described = {"event": "CellDescribed", "run": "c", "time": 1, "name": "mae"}
    first = [
        {**described, "tags": {"git_commit": "old", "level": "mae"}, "texts": {"e": "old"}},
        {"event": "CellStarted", "run": "c", "time": 2},
        {"event": "Stages", "run": "c", "time": 3, "stages": stages(computed=2, key="k1")},
        {"event": "CellFinished", "run": "c", "time": 4, "metrics": {"aji": 0.5}, "seconds": 9.0},
    ]
    again = [
        {**described, "tags": {"git_commit": "new", "level": "MAE"}, "texts": {"e": "new"}},
        {"event": "CellStarted", "run": "c", "time": 5},
        {"event": "Stages", "run": "c", "time": 6, "stages": stages(reused=2, key="k1")},
        {"event": "CellFinished", "run": "c", "time": 7, "metrics": {"aji": 0.5}, "seconds": 0.1},
    ]
    before, after = folded(*first), folded(*first, *again)
    assert (after.metrics, after.texts, after.end) == (before.metrics, before.texts, before.end)
    assert after.tags == before.tags | {"level": "MAE"}  # only what the study calls it

    recomputed = folded(
        *first,
        again[0],
        {"event": "Stages", "run": "c", "time": 6, "stages": stages(computed=1, key="k2")},
    )
    assert recomputed.tags["git_commit"] == "new"
    assert (recomputed.tags["stage.features"], recomputed.texts["e"]) == ("k2", "new")


def stages(computed: int = 0, reused: int = 0, key: str = "") -> dict[str, dict[str, object]]:
    return {"features": {"key": key, "computed": computed, "reused": reused, "seconds": 1.0}}


def folded(*rows: dict[str, object]) -> RunRecord:
    records: dict[str, RunRecord] = {}
    for row in rows:
        fold(records, row)
    return records["c"]


def rows_of(run: str) -> list[dict[str, object]]:
    return [
        {"event": "CellStarted", "run": run, "time": 1},
        {"event": "RoundFinished", "run": run, "time": 2, "round": 1, "metrics": {"aji": 0.5}},
        {"event": "RoundFinished", "run": run, "time": 3, "round": 2, "metrics": {"aji": None}},
        {"event": "Table", "run": run, "time": 4, "name": "t", "rows": [{"a": 1}, {"b": 2}]},
        {"event": "CellFinished", "run": run, "time": 5, "metrics": {"aji": 0.7}},
        {"event": "CellFailed", "run": run, "time": 6, "cause": "x"},
    ]


EVENTS = st.sampled_from(
    [
        *rows_of("a"),
        *rows_of("b"),
        {"event": "StudyStarted", "time": 7, "cells": 2},
        {"event": "StudyFinished", "time": 8, "interrupted": True},
        {"event": "Note", "text": "nothing about a run", "time": 9},
        {"event": "KindOfALaterVersion", "time": 10},
    ]
)


@given(st.lists(EVENTS))
def test_every_run_that_changed_is_named_as_touched(rows: list[dict[str, object]]) -> None:
    # What is not named is not written to the tracker.
    records: dict[str, RunRecord] = {}
    for row in rows:
        before = {run: record.fingerprint() for run, record in records.items()}
        touched = fold(records, row)
        after = {run: record.fingerprint() for run, record in records.items()}
        assert {run for run in after if after[run] != before.get(run)} <= touched
