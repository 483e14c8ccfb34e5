"""The live view: the numbers that it folds events into, and what it draws."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from coin_ray.cli.live import headline, line, table, watch
from coin_ray.cli.progress import Progress, clock
from coin_ray.pipeline import events


def cell(level: str, seed: int = 0) -> dict[str, object]:
    return {"cell": f"{level}--d--s{seed}", "level": level, "data": "d", "seed": seed}


def finished(level: str, stage: str, key: str, seconds: float) -> events.StageFinished:
    return events.StageFinished(**cell(level), stage=stage, seconds=seconds, key=key)


def progress(*found: events.Event, **options: object) -> Progress:
    out = Progress(**options)
    start = events.StudyStarted("s", 3, {"features": 4, "round": 2}, stored=5, workers=1)
    for event in (start, *found):
        out.update(event)
    return out


def test_counts_are_of_unique_stages() -> None:
    state = progress(
        finished("a", "features", "k1", 2.0),
        finished("b", "features", "k1", 2.0),  # two cells hear of the same stage
        finished("a", "features", "k2", 4.0),
    )
    assert (state.computed, state.remaining) == (2, 4)
    assert state.seconds == {"features": 6.0}
    assert state.cells["a--d--s0"].computed == 2


def test_eta_by_hand() -> None:
    state = progress(finished("a", "features", "k1", 2.0), finished("a", "features", "k2", 4.0))
    assert state.eta(3.0) is None  # no round has been timed
    state.update(finished("a", "round", "r1", 10.0))
    # Left: 2 features of 3 s and 1 round of 10 s; 16 s of work took 8 s of the clock.
    assert state.eta(8.0) == pytest.approx(16.0 / (16.0 / 8.0))
    assert progress().eta(1.0) is None
    nothing = Progress()
    nothing.update(events.StudyStarted("s", 1, {}, stored=9))
    assert nothing.eta(1.0) == 0.0


def test_best_so_far_reads_the_objective_of_finished_cells() -> None:
    state = progress(
        events.CellFinished(**cell("a"), metrics={"agreement": 0.6, "aji": 0.1}),
        events.CellFinished(**cell("b"), metrics={"agreement": 0.5, "aji": 0.9}),
        events.RoundFinished(**cell("c"), round=1, metrics={"agreement": 0.9}),
    )
    best = state.best()
    assert best is not None and best.level == "a"
    state.larger_is_better = False
    best = state.best()
    assert best is not None and best.level == "b"
    assert Progress().best() is None


def test_states_of_a_cell() -> None:
    state = progress(events.CellStarted(**cell("a")))
    assert state.cells["a--d--s0"].state == "running"
    state.update(events.StageReused(**cell("a"), stage="ucis"))
    assert state.cells["a--d--s0"].reused == 1
    state.update(events.CellFailed(**cell("a"), cause="ValueError: no"))
    state.update(finished("a", "features", "late", 1.0))  # a task that was still on its way
    assert state.cells["a--d--s0"].step == "ValueError: no" and state.count("failed") == 1
    state.update(events.CellStarted(**cell("a")))  # tried again
    state.update(events.CellFinished(**cell("a")))
    state.update(finished("a", "features", "later", 1.0))
    assert state.cells["a--d--s0"].state == "done" and state.count("failed") == 0


def test_clock() -> None:
    assert [clock(s) for s in (0, 65, 3599.6, 7384, None)] == [
        "0:00", "1:05", "1:00:00", "2:03:04", "?",
    ]  # fmt: skip


def test_plain_lines() -> None:
    state = progress()
    start = events.StudyStarted("s", 3, {"features": 4}, stored=5)
    assert line(start, state, 0.0) == "[0:00] 3 cells; to compute: features 4; stored: 5"
    done = events.RoundFinished(**cell("a"), round=2, metrics={"aji": 0.5}, seconds=61)
    assert line(done, state, 70) == "[1:10] a · d · seed 0: round 2 done in 1:01 (aji 0.500)"
    failed = events.CellFailed(**cell("a"), cause="ValueError: no")
    assert line(failed, state, 1) == "[0:01] a · d · seed 0: FAILED: ValueError: no"
    assert line(finished("a", "features", "k", 1.0), state, 1) is None


def run(console: Console, *found: tuple[float, events.Event]) -> None:
    """Watch events that come at given times."""
    time = 0.0
    with watch(console, now=lambda: time) as take:
        for at, event in found:
            time = at
            take(event)


def test_elsewhere_plain_lines_and_a_sign_of_life() -> None:
    out = io.StringIO()
    start = events.StudyStarted("s", 1, {"features": 2})
    run(
        Console(file=out, width=200),
        (0.0, start),
        (20.0, finished("a", "features", "k1", 20.0)),
        (40.0, finished("a", "features", "k2", 20.0)),
        (50.0, events.CellFinished(**cell("a"), metrics={"agreement": 0.5}, seconds=80)),
    )
    lines = out.getvalue().splitlines()
    assert len(lines) == 3 and "\x1b" not in out.getvalue()
    assert "stages 2 computed, 0 to go" in lines[1]  # said after 30 s of silence
    assert lines[2].endswith("(agreement 0.500); 1/1 cells, left 0:00")


def test_on_a_terminal_a_table() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120)
    run(
        console,
        (0.0, events.StudyStarted("s", 1, {})),
        (1.0, events.CellStarted(**cell("mae"))),
    )
    assert "level" in out.getvalue() and "mae" in out.getvalue()


def test_the_table_shows_cells_at_work_first() -> None:
    state = progress(
        *(events.CellFinished(**cell(f"done{i}")) for i in range(40)),
        events.CellStarted(**cell("[red]busy")),
        events.Note("the tracker is away"),
    )
    out = io.StringIO()
    Console(file=out, width=120).print(table(state, 5.0))
    text = out.getvalue()
    assert "[red]busy" in text.splitlines()[3] and "done39" in text and "done0 " not in text
    assert "the tracker is away" in text
    assert headline(state, 5.0) in " ".join(text.split())


@pytest.mark.parametrize("terminal", [False, True])
def test_an_interruption_says_where_the_study_stands(terminal: bool) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=120)
    with pytest.raises(KeyboardInterrupt), watch(console, now=lambda: 0.0) as take:
        take(events.StudyStarted("s", 2, {"features": 2}, stored=5))
        take(events.CellFinished(**cell("a")))
        raise KeyboardInterrupt
    assert "cells 1/2 · stages 0 computed, 2 to go, 5 stored" in out.getvalue().splitlines()[-1]
