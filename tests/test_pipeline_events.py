"""Events cross a process, a file or a network unchanged."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from coin_ray.events import events, tracked

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
    events.StudyEdited(3, "1 added, 2 kept", "ada on host"),
    events.Note("a retry", severity="warning"),
    events.StudyFinished("s", computed=3, reused=4, failed=1, seconds=10.0, interrupted=True),
    tracked.StudyDescribed("s (mini)", {"study": "s"}, {"profile": "mini"}, {"study/s.yaml": "µ"}),
    tracked.CellDescribed("mae", {"seed": 0}),
    tracked.LevelDescribed("mae", {"level": "mae"}),
    tracked.LevelMeasured("mae--tiles"),
    tracked.Stages({"ucis": tracked.Counted("1", computed=1, reused=0, seconds=2.0)}),
    tracked.Metrics({"aji": 0.5}, step=2, cell="mae--tiles--s0"),
    tracked.Table("per_image", [{"image": "a", "aji": 0.5}]),
    tracked.File("runs/s/a.png", "overlays", "0af"),
    tracked.Text("summary.md", "text"),
    tracked.Tags({"name.x": "y"}),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda e: type(e).__name__)
def test_round_trip(event: events.Event) -> None:
    text = json.dumps(event.to_json(), default=dataclasses.asdict)
    assert events.from_json(json.loads(text)) == event


def test_every_kind_is_covered() -> None:
    bases = {events.CellEvent, tracked.Description}
    assert {type(e) for e in EVENTS} == set(events.Event.KINDS.values()) - bases


def test_unknown_fields_are_dropped_and_unknown_kinds_are_not() -> None:
    later = events.Note("x").to_json() | {"added_later": 1}
    assert events.from_json(later) == events.Note("x")
    with pytest.raises(KeyError):
        events.from_json({"event": "Never"})


@pytest.mark.parametrize(
    "changes", [{"round": "1"}, {"round": True}, {"metrics": {"aji": "much"}}, {"seed": None}]
)
def test_a_field_is_what_it_is_declared_to_be(changes: dict[str, object]) -> None:
    good = events.RoundFinished(**CELL, round=1, metrics={"aji": 0.5}).to_json()
    with pytest.raises(ValueError, match=next(iter(changes))):
        events.from_json(good | changes)
    absent = {name: value for name, value in good.items() if name not in changes}
    if "metrics" not in changes:
        with pytest.raises(ValueError, match="Field required"):
            events.from_json(absent)
    unknown = events.from_json(good | {"metrics": {"aji": None}})
    assert isinstance(unknown, events.RoundFinished) and math.isnan(unknown.metrics["aji"])


def test_events_do_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        EVENTS[0].study = "t"  # type: ignore[misc, attr-defined]
