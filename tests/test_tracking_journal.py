"""The journal on disk, and what its lines fold to."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coin_ray.errors import UserError
from coin_ray.events.tracked import inside
from coin_ray.tracking import journal as journals
from coin_ray.tracking import records as recorded
from coin_ray.tracking.journal import Journal, read_lines
from coin_ray.tracking.lines import parsed, read_checked
from coin_ray.tracking.records import STUDY, RunRecord, name


def read(path: Path, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
    """The events among the lines."""
    lines, offset = read_lines(path, offset)
    return [row for row in lines if isinstance(row, dict) and "event" in row], offset


def test_lines_are_read_back_as_plain_values(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "study.jsonl"
    journal = Journal(path)
    journal.append({"event": "Metrics", "a": np.float32(0.5), "b": np.int64(3), "c": Path("x/y")})
    journal.append({"event": "Metrics", "nan": float("nan"), "inf": [np.inf], "t": (1, 2)})
    journal.close()
    (first, second), offset = read(path)
    assert (first["a"], first["b"], first["c"]) == (0.5, 3, "x/y")
    assert (second["nan"], second["inf"], second["t"]) == (None, [None], [1, 2])
    assert first["time"] <= second["time"]
    assert offset == path.stat().st_size
    json.loads(path.read_text().splitlines()[0], parse_constant=lambda _: pytest.fail("not JSON"))


def test_a_value_that_json_cannot_hold_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "study.jsonl"
    journal = Journal(path)
    journal.append({"event": "Metrics", "a": 1})
    with pytest.raises(TypeError, match="object"):
        journal.append({"event": "Metrics", "a": object()})
    assert len(path.read_text().splitlines()) == 1


def test_reading_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path = tmp_path / "study.jsonl"
    assert read(path) == ([], 0)
    journal = Journal(path)
    journal.append({"event": "Metrics", "n": 1})
    rows, offset = read(path)
    assert [row["n"] for row in rows] == [1]
    journal.append({"event": "Metrics", "n": 2})
    rows, offset = read(path, offset)
    assert [row["n"] for row in rows] == [2]
    assert read(path, offset) == ([], offset)


@pytest.mark.parametrize("keep", [1, 20, -3, -2])
def test_a_torn_last_line_costs_that_line_only(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "study.jsonl"
    journal = Journal(path)
    journal.append({"event": "Metrics", "n": 1})
    whole = path.stat().st_size
    journal.append({"event": "Metrics", "n": "größer, cut inside a character: é"})
    journal.close()
    torn = path.read_bytes()
    torn = torn[: whole + keep] if keep > 0 else torn[:keep]
    path.write_bytes(torn)

    rows, offset = read(path)
    assert [row["n"] for row in rows] == [1]
    assert offset == whole  # what may still be being written is left for the next call

    Journal(path).append({"event": "Metrics", "n": 3})
    rows, _ = read(path, offset)
    assert [row["n"] for row in rows] == [3]
    assert path.read_bytes().startswith(torn)  # nothing was rewritten


def test_two_journals_of_one_file_do_not_mix_lines(tmp_path: Path) -> None:
    path = tmp_path / "study.jsonl"
    first, second = Journal(path), Journal(path)
    for n in range(20):
        (first if n % 2 else second).append({"event": "Metrics", "n": n, "pad": "x" * 1000})
    assert [row["n"] for row in read(path)[0]] == list(range(20))


def test_a_full_disk_costs_the_line_that_found_it_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "study.jsonl"
    journal, other = Journal(path), Journal(path)
    journal.append({"event": "Metrics", "n": 1})
    write = os.write

    def half(descriptor: int, data: bytes) -> int:
        if len(data) < 10:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data[: len(data) // 2])

    monkeypatch.setattr(journals.os, "write", half)
    with pytest.raises(UserError, match="No space left"):
        journal.append({"event": "Metrics", "n": 2})
    monkeypatch.undo()
    other.append({"event": "Metrics", "n": 3})
    journal.append({"event": "Metrics", "n": 4})
    assert [row["n"] for row in read(path)[0]] == [1, 3, 4]
    assert len(path.read_bytes().splitlines()) == 3


def test_a_line_that_another_writer_was_killed_in_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "study.jsonl"
    journal = Journal(path)
    journal.append({"event": "Metrics", "n": 1})
    with path.open("a") as file:
        file.write('{"event": "Metr')
    journal.append({"event": "Metrics", "n": 2})
    assert [row["n"] for row in read(path)[0]] == [1, 2]


def test_a_journal_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "study.jsonl").symlink_to(tmp_path / "mine")
    with pytest.raises(UserError, match="cannot be written"):
        Journal(tmp_path / "study.jsonl").append({"event": "Metrics", "n": 1})
    assert (tmp_path / "mine").read_text() == "mine"


# --- lines that come from elsewhere

CELL = {"cell": "mae--d--s0", "level": "mae", "data": "d", "seed": 0}
GOOD = [
    {"event": "Text", "time": 1, "path": "study/a.yaml", "text": "µ"},
    {"event": "File", "time": 1, "path": "runs/a b/1.png", "folder": "report/figures"},
    {"event": "File", "time": 1, "path": "/elsewhere/1.png", "folder": "."},
    {"event": "CellFinished", "time": 1, "run": "r", **CELL, "metrics": {"aji": None}},
    {"event": "CellFinished", "time": 1, **CELL, "seconds": None, "rounds": None},
    {"event": "KindOfALaterVersion", "time": 1, "what": ["ever"]},
]
BAD = [
    {"event": "Text", "time": 1, "path": "../../escaped", "text": ""},
    {"event": "Text", "time": 1, "path": "/etc/escaped", "text": ""},
    {"event": "Text", "time": 1, "path": "a/../../b", "text": ""},
    {"event": "Text", "time": 1, "path": "a\0b", "text": ""},
    {"event": "Text", "time": 1, "path": "", "text": ""},
    {"event": "Text", "time": 1, "path": "n" * 256, "text": ""},
    {"event": "Text", "time": 1, "path": "a", "text": "\ud800"},
    {"event": "Text", "time": 1, "path": "a"},
    {"event": "File", "time": 1, "path": "a.png", "folder": "../.."},
    {"event": "File", "time": 1, "path": "..", "folder": "a"},
    {"event": "StudyDescribed", "time": 1, "name": "n", "tags": {}, "texts": {"../x": "y"}},
    {"event": "StudyDescribed", "time": 1, "name": "n", "tags": {}, "texts": {"x": "", "x/y": ""}},
    {"event": "CellDescribed", "time": 1, "name": 5, "tags": {}},
    {"event": "Metrics", "time": 1, "metrics": {"aji": 1e999}},
    {"event": "Metrics", "time": 1, "metrics": {"aji": "much"}},
    {"event": "Metrics", "time": 1, "metrics": {"aji": 10**400}},
    {"event": "Metrics", "time": 1, "metrics": {}, "step": 10**30},
    {"event": "Metrics", "time": -1, "metrics": {}},
    {"event": "Metrics", "time": "now", "metrics": {}},
    {"event": "Metrics", "metrics": {}},
    {"event": "CellStarted", "time": 1, **CELL, "run": ["r"]},
    {"event": "CellStarted", "time": 1, **CELL, "run": None},
    {"event": "CellStarted", "time": 1, **CELL, "run": "r" * 501},
    {"event": "CellStarted", "time": 1, "run": "r", "cell": "mae--d--s0"},
    {"event": "Stages", "time": 1, "stages": {"ucis": {"key": 1, "computed": 1, "reused": 0}}},
    {"event": "Table", "time": 1, "name": "t", "rows": [1]},
    {"event": ["Text"], "time": 1},
    {"time": 1},
]


@pytest.mark.parametrize("row", GOOD)
def test_lines_of_ours_are_taken(row: dict[str, object]) -> None:
    assert parsed(row).time == 1


@pytest.mark.parametrize("row", BAD, ids=lambda row: json.dumps(row)[:60])
def test_a_bad_line_is_told_by_its_number_and_passed_over(
    row: dict[str, object], tmp_path: Path
) -> None:
    path = tmp_path / "study.jsonl"
    lines = [json.dumps(one) for one in (GOOD[0], row, GOOD[1])]
    path.write_text("\n".join([*lines, "", "torn", "[]", "[" * 100_000]) + "\n")
    found = read_checked(path)
    assert [type(one.event).__name__ for one in found.good] == ["Text", "File"]
    assert [text.partition(":")[0] for text in found.bad] == [f"line {n}" for n in (2, 5, 6, 7)]
    with path.open("a") as file:
        file.write("torn again\n" + lines[2] + "\n")
    more = read_checked(path, found.offset, found.number)
    assert more.bad == ["line 8: it is no JSON, or torn"] and len(more.good) == 1


VALUES: list[object] = [
    *(
        None,
        True,
        0,
        -1,
        7,
        2**60,
        0.5,
        float("inf"),
        float("nan"),
        "",
        "a",
        "../a",
        "a/b",
        "\ud800",
    ),
    *([], [1], [{"a": 1}], [{"a": [1]}], {}, {"a": 1}, {"a": "b"}, {"a": None}, {"../a": "b"}),
    *({"a": {"key": "k", "computed": 1, "reused": 0}}, {"a": {"key": "k"}}, {"": ""}, {"a/b": "c"}),
]
WHOLE: list[dict[str, object]] = [
    *GOOD,
    {"event": "RoundFinished", "time": 1, **CELL, "round": 1, "metrics": {"aji": 0.5}},
    {"event": "CellDescribed", "time": 1, "name": "n", "tags": {"a": 1}, "params": {"a": [1]}},
    {"event": "Stages", "time": 1, "stages": {"a": {"key": "k", "computed": 1, "reused": 0}}},
    {"event": "StudyDescribed", "time": 1, "name": "n", "tags": {}, "texts": {"a/b": "c"}},
    {"event": "CellFailed", "time": 1, **CELL, "cause": "c", "trace": "t"},
    {"event": "Table", "time": 1, "name": "t", "rows": [{"a": 1}]},
    {"event": "Tags", "time": 1, "tags": {"a": "b"}},
    {"event": "Metrics", "time": 1, "metrics": {"a": 1}, "step": 3},
    {"event": "StudyStarted", "time": 1, "study": "s", "cells": 2},
    {"event": "StudyFinished", "time": 1, "study": "s", "computed": 1, "reused": 2, "failed": 3},
]
FIELDS = sorted({"run", "digest", *(name for row in WHOLE for name in row if name != "event")})
ROWS = st.builds(
    lambda row, fields: {**row, **fields},
    st.sampled_from(WHOLE),
    st.dictionaries(st.sampled_from(FIELDS), st.sampled_from(VALUES), max_size=3),
)


@given(st.lists(ROWS, max_size=4))
def test_what_is_taken_can_be_folded(rows: list[dict[str, object]]) -> None:
    records: dict[str, RunRecord] = {}
    for row in rows:
        with contextlib.suppress(ValueError):
            line = parsed(row)
            recorded.fold(records, line)
    for record in records.values():
        record.fingerprint()
        assert all(map(inside, [*record.texts, *record.files]))


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
