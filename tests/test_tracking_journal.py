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
from coin_ray.tracking.records import RunRecord


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
