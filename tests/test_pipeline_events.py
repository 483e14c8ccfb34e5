"""Events cross a process, a file or a network unchanged."""

from __future__ import annotations

import dataclasses
import json

import pytest

from coin_ray.events import events

CELL = {"cell": "mae--tiles--s0", "level": "mae", "data": "tiles", "seed": 0}
EVENTS = [
    events.StudyStarted("s", 2, {"features": 3}, stored=4, workers=2),
    events.PhaseStarted("screening", {"features": 3}),
    events.CellsProposed("ot.lambda 0.1", {"ot.lambda": 0.1}, ["a--tiles--s0"], {"round": 2}),
    events.Stalled(301.5, ["mae--tiles--s0: last heard of at score a"]),
    events.CellStarted(**CELL),
    events.StageStarted(**CELL, stage="features", image="a"),
    events.StageFinished(**CELL, stage="features", image="a", seconds=1.5, key="0af"),
    events.StageReused(**CELL, stage="ucis", key="1"),
    events.RoundProgress(**CELL, step=20, steps=400),
    events.RoundFinished(**CELL, round=1, metrics={"agreement": 0.5}, seconds=2.0),
    events.CellScored(**CELL, metrics={"agreement": 0.5}),
    events.CellFinished(**CELL, metrics={"aji": 0.5}, seconds=9.0, rounds=1),
    events.CellLeftOut(**CELL, reason="decided after 2 random seeds: worse"),
    events.CellFailed(**CELL, cause="ValueError: no", trace="…"),
    events.Note("a retry", severity="warning"),
    events.StudyFinished("s", computed=3, reused=4, failed=1, seconds=10.0, interrupted=True),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda e: type(e).__name__)
def test_round_trip(event: events.Event) -> None:
    text = json.dumps(event.to_json())
    assert events.from_json(json.loads(text)) == event


def test_every_kind_is_covered() -> None:
    kinds = {c for c in events.Event.__subclasses__() if c is not events.CellEvent}
    assert {type(e) for e in EVENTS} == kinds | set(events.CellEvent.__subclasses__())


def test_unknown_fields_are_dropped_and_unknown_kinds_are_not() -> None:
    later = events.Note("x").to_json() | {"added_later": 1}
    assert events.from_json(later) == events.Note("x")
    with pytest.raises(KeyError):
        events.from_json({"event": "Never"})


def test_events_do_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        EVENTS[0].study = "t"  # type: ignore[misc, attr-defined]
