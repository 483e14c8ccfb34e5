"""The live view: the numbers that it folds events into, and what it draws."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from coin_ray.cli.screen.live import clock, headline, line, table, watch
from coin_ray.events import events
from coin_ray.events.state import StudyState


def cell(level: str, seed: int = 0) -> dict[str, object]:
    return {"cell": f"{level}--d--s{seed}", "level": level, "data": "d", "seed": seed}


def finished(level: str, stage: str, key: str, seconds: float) -> events.StageFinished:
    return events.StageFinished(**cell(level), stage=stage, seconds=seconds, key=key)


def progress(*found: events.Event, **options: object) -> StudyState:
    out = StudyState(**options)
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
    nothing = StudyState()
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
    assert StudyState().best() is None


def test_states_of_a_cell() -> None:
    state = progress(events.CellStarted(**cell("a")))
    assert state.cells["a--d--s0"].state == "running"
    state.update(events.StageReused(**cell("a"), stage="ucis"))
    assert state.cells["a--d--s0"].reused == 1
    state.update(events.CellFailed(**cell("a"), cause="ValueError: no"))
    state.update(finished("a", "features", "late", 1.0))  # a task that was still on its way
    assert state.cells["a--d--s0"].step == "ValueError: no" and len(state.of("failed")) == 1
    state.update(events.CellStarted(**cell("a")))  # tried again
    state.update(events.CellFinished(**cell("a")))
    state.update(finished("a", "features", "later", 1.0))
    assert state.cells["a--d--s0"].state == "finished" and not state.of("failed")


def test_what_has_ended_is_opened_by_a_start_alone_and_what_has_finished_by_nothing() -> None:
    state = progress(events.CellStarted(**cell("a")), events.CellStarted(**cell("b")))
    state.update(events.CellFinished(**cell("a"), metrics={"agreement": 0.5}))
    state.update(events.RoundFinished(**cell("a"), round=1, metrics={"agreement": 0.1}))  # late
    state.update(events.CellStarted(**cell("a")))  # looked at again
    state.update(events.StudyFinished("s", computed=1, reused=0, interrupted=True))
    assert {c.level: c.state for c in state.cells.values()} == {"a": "finished", "b": "interrupted"}
    assert state.cells["a--d--s0"].metrics == {"agreement": 0.5} and not state.open
    state.update(events.CellFailed(**cell("a"), cause="no"))
    state.update(finished("a", "features", "late", 1.0))
    state.update(events.CellStarted(**cell("b")))
    assert {c.level: c.state for c in state.cells.values()} == {"a": "failed", "b": "running"}


def test_a_cell_has_one_state_whatever_its_settings() -> None:
    state = progress(events.CellFailed(**cell("a"), cause="no"))
    edited = cell("a") | {"cell": "a--d--s0-other"}
    state.update(events.CellStarted(**edited))
    assert list(state.cells) == ["a--d--s0-other"] and not state.of("failed")
    assert state.about("a", "d", 0) is state.cells["a--d--s0-other"]
    assert state.about("b", "d", 0) is None


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
    last = out.getvalue().splitlines()[-1]
    assert "1 of 2 cells finished, 1 to go; " in last
    assert "cells 1/2 · stages 0 computed, 2 to go, 5 stored" in last


def test_a_phase_counts_its_own_stages_on_top_of_what_is_done() -> None:
    state = progress(finished("a", "features", "k1", 2.0))
    state.update(events.PhaseStarted("seed 1 of what is open", {"features": 1, "select": 3}))
    assert (state.remaining, state.phase) == (6, "seed 1 of what is open")  # 2 rounds are still due
    phase = events.PhaseStarted("screening 3 levels by agreement", {})
    assert line(phase, state, 5.0) == "[0:05] screening 3 levels by agreement"


def test_a_search_is_timed_by_its_cells() -> None:
    state = StudyState()
    state.update(events.StudyStarted("s", 4, {}))
    state.update(events.CellFinished(**cell("base")))
    proposed = events.CellsProposed("ot.lambda 0.1", {"ot.lambda": 0.1}, ["a"], {"round": 2})
    state.update(proposed)
    assert state.remaining == 2 and state.eta(10.0) == pytest.approx(30.0)
    assert line(proposed, state, 0.0) == "[0:00] proposed: ot.lambda 0.1"


def test_cells_that_end_before_their_last_round_or_are_left_out() -> None:
    state = progress(
        events.CellScored(**cell("a"), metrics={"agreement": 0.4}),
        events.CellFinished(**cell("b"), metrics={"agreement": 0.3}, rounds=1),
        events.CellLeftOut(**cell("c"), reason="decided after 2 random seeds: worse"),
        events.CellStarted(**cell("d")),
        events.RoundProgress(**cell("d"), step=120, steps=400),
    )
    rows = {c.level: (c.state, c.step) for c in state.cells.values()}
    assert rows == {
        "a": ("queued", "scored"),
        "b": ("finished", "ended after round 1"),
        "c": ("left out", "decided after 2 random seeds: worse"),
        "d": ("running", "training step 120 of 400"),
    }
    assert "cells 1/3 · 1 left out" in headline(state, 1.0)
    ended = events.CellFinished(**cell("b"), metrics={"agreement": 0.3}, rounds=1)
    text = line(ended, state, 1.0)
    assert text is not None and "b · d · seed 0: ended after round 1 (agreement 0.300)" in text


def test_a_stall_says_who_waits_for_what_until_something_moves() -> None:
    stalled = events.Stalled(301.0, ["mae: last heard of at score", "free now: 0 of 4 CPU"])
    state = progress(stalled)
    text = line(stalled, state, 400.0)
    assert text is not None and text.splitlines() == [
        "[6:40] nothing has been heard for 5:01:",
        "  mae: last heard of at score",
        "  free now: 0 of 4 CPU",
    ]
    out = io.StringIO()
    Console(file=out, width=120).print(table(state, 5.0))
    assert "free now: 0 of 4 CPU" in out.getvalue()
    state.update(events.CellStarted(**cell("a")))
    assert state.stalled == ()
