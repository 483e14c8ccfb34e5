"""What happens while a study runs, as small facts: for the live view, the journal and the tracker.

Every field is a plain JSON value, so an event crosses a process, a file or a network unchanged. An
event never carries a clock time: whoever writes it down adds one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Event:
    """Base of all events; ``to_json`` adds the kind under ``event``."""

    def to_json(self) -> dict[str, Any]:
        """A dictionary that ``json.dumps`` takes and :func:`from_json` turns back."""
        return {"event": type(self).__name__, **dataclasses.asdict(self)}


@dataclass(frozen=True)
class StudyStarted(Event):
    """``to_compute``: stage name -> how many unique stages the store does not have yet."""

    study: str
    cells: int
    to_compute: Mapping[str, int] = field(default_factory=dict)
    stored: int = 0
    workers: int = 1


@dataclass(frozen=True)
class PhaseStarted(Event):
    """Another part of a study that goes step by step; ``to_compute`` as of ``StudyStarted``, for
    this part alone."""

    what: str
    to_compute: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class CellsProposed(Event):
    """A search is about to run another configuration: the level that it becomes, its ``settings``
    (dotted key -> value), the cells of it and what they will compute."""

    level: str
    settings: Mapping[str, Any]
    cells: Sequence[str]
    to_compute: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Stalled(Event):
    """No cell has said anything for ``seconds``; ``lines`` say who waits for what."""

    seconds: float
    lines: Sequence[str]


@dataclass(frozen=True)
class CellEvent(Event):
    """``cell`` is the ``key_label`` of the study's cell; level, data and seed say which one it
    is."""

    cell: str
    level: str
    data: str
    seed: int


@dataclass(frozen=True)
class CellStarted(CellEvent):
    """A trial has begun to look at this cell."""


@dataclass(frozen=True)
class StageStarted(CellEvent):
    """A stage is being computed; ``image`` is empty for a stage of the whole data set."""

    stage: str
    image: str = ""


@dataclass(frozen=True)
class StageFinished(CellEvent):
    """A stage was computed and is in the store under ``key``."""

    stage: str
    image: str = ""
    seconds: float = 0.0
    key: str = ""


@dataclass(frozen=True)
class StageReused(CellEvent):
    """A stage came out of the store, or another trial was computing it."""

    stage: str
    image: str = ""
    key: str = ""


@dataclass(frozen=True)
class RoundProgress(CellEvent):
    """A training, of a round or of a coarse model, is at this step of ``steps``; said every few
    seconds."""

    step: int
    steps: int


@dataclass(frozen=True)
class RoundFinished(CellEvent):
    """A distillation round is committed; ``metrics`` may hold ``agreement``, ``accepted``, ``loss``
    and, where the data has labels, ``aji`` and its like."""

    round: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class CellScored(CellEvent):
    """The stages before the first round are in the store, which is all that a screening asks for
    at first; ``metrics`` as of ``CellFinished``."""

    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class CellFinished(CellEvent):
    """All stages of the cell are in the store; ``metrics`` are means over its images. ``rounds``:
    after how many it was ended, where that is before its last (0: screened out)."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    rounds: int | None = None


@dataclass(frozen=True)
class CellFailed(CellEvent):
    """The cell stopped; ``cause`` is one line, ``trace`` the traceback."""

    cause: str
    trace: str = ""


@dataclass(frozen=True)
class CellLeftOut(CellEvent):
    """The cell is not run, which is no failure; ``reason`` is one phrase."""

    reason: str


@dataclass(frozen=True)
class Note(Event):
    """One line for the reader (a retry, a restarted actor, a tracker that went away)."""

    text: str
    severity: str = "info"


@dataclass(frozen=True)
class StudyFinished(Event):
    """The last event, also after an interruption."""

    study: str
    computed: int
    reused: int
    failed: int = 0
    seconds: float = 0.0
    interrupted: bool = False


_KINDS: dict[str, type[Event]] = {
    kind.__name__: kind
    for kind in (
        StudyStarted,
        PhaseStarted,
        CellsProposed,
        Stalled,
        CellStarted,
        StageStarted,
        StageFinished,
        StageReused,
        RoundProgress,
        RoundFinished,
        CellScored,
        CellFinished,
        CellFailed,
        CellLeftOut,
        Note,
        StudyFinished,
    )
}


def from_json(values: Mapping[str, Any]) -> Event:
    """Inverse of ``to_json``. An unknown kind raises KeyError; unknown fields (a journal written by
    a later version) are dropped."""
    kind = _KINDS[values["event"]]
    names = {f.name for f in dataclasses.fields(kind)}
    return kind(**{name: value for name, value in values.items() if name in names})
