"""What happens while a study runs, as small facts: for the live view, the journal and the tracker.

Every field is a plain JSON value, so an event crosses a process, a file or a network unchanged. An
event never carries a clock time: whoever writes it down adds one. The fields as they are declared
here are what :func:`from_json`, and so the reader of a journal, holds an event to.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, Strict, TypeAdapter

Count = Annotated[int, Strict(), Field(gt=-(2**53), lt=2**53)]
"""Whole numbers: MLflow keeps them in 64 bits, other readers in a float."""
Number = Annotated[float, Strict(), BeforeValidator(lambda v: math.nan if v is None else v)]
"""A number that is not finite is null in a journal."""


@dataclass(frozen=True)
class Event:
    """Base of all events; ``to_json`` adds the kind under ``event``."""

    KINDS: ClassVar[dict[str, type[Event]]] = {}

    def __init_subclass__(cls) -> None:
        cls.KINDS[cls.__name__] = cls

    def to_json(self) -> dict[str, Any]:
        """A dictionary that ``json.dumps`` takes and :func:`from_json` turns back."""
        return {"event": type(self).__name__, **vars(self)}


@dataclass(frozen=True)
class StudyStarted(Event):
    """``to_compute``: stage name -> how many unique stages the store does not have yet."""

    study: str
    cells: Count
    to_compute: Mapping[str, Count] = field(default_factory=dict)
    stored: Count = 0
    workers: Count = 1


@dataclass(frozen=True)
class PhaseStarted(Event):
    """Another part of a study that goes step by step; ``to_compute`` as of ``StudyStarted``, for
    this part alone."""

    what: str
    to_compute: Mapping[str, Count] = field(default_factory=dict)


@dataclass(frozen=True)
class CellsProposed(Event):
    """A search is about to run another configuration: the level that it becomes, its ``settings``
    (dotted key -> value), the cells of it and what they will compute."""

    level: str
    settings: Mapping[str, Any]
    cells: Sequence[str]
    to_compute: Mapping[str, Count] = field(default_factory=dict)


@dataclass(frozen=True)
class StudyEdited(Event):
    """Another run of the same study has handed it in anew, and this one goes on with that.
    ``cells``: how many it has now; ``words`` count those that are added, changed, removed and
    kept; ``by``: who."""

    cells: Count
    words: str
    by: str


@dataclass(frozen=True)
class Stalled(Event):
    """No cell has said anything for ``seconds``; ``lines`` say who waits for what."""

    seconds: Number
    lines: Sequence[str]


@dataclass(frozen=True)
class CellEvent(Event):
    """``cell`` is the ``key_label`` of the study's cell; level, data and seed say which one it
    is."""

    cell: str
    level: str
    data: str
    seed: Annotated[int, Strict()]


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
    seconds: Number = 0.0
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

    step: Count
    steps: Count


@dataclass(frozen=True)
class RoundFinished(CellEvent):
    """A distillation round is committed; ``metrics`` may hold ``agreement``, ``accepted``, ``loss``
    and, where the data has labels, ``aji`` and its like. ``stored``: it was before the cell began,
    and took its ``seconds`` then."""

    round: Count
    metrics: Mapping[str, Number] = field(default_factory=dict)
    seconds: Number = 0.0
    stored: bool = False


@dataclass(frozen=True)
class CellScored(CellEvent):
    """The stages before the first round are in the store, which is all that a screening asks for
    at first; ``metrics`` as of ``CellFinished``."""

    metrics: Mapping[str, Number] = field(default_factory=dict)


@dataclass(frozen=True)
class CellFinished(CellEvent):
    """All stages of the cell are in the store; ``metrics`` are means over its images. ``rounds``:
    after how many it was ended, where that is before its last (0: screened out)."""

    metrics: Mapping[str, Number] = field(default_factory=dict)
    seconds: Number = 0.0
    rounds: Count | None = None


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
    computed: Count
    reused: Count
    failed: Count = 0
    seconds: Number = 0.0
    interrupted: bool = False


@functools.cache
def _adapter(kind: str) -> TypeAdapter[Event]:
    return TypeAdapter(Event.KINDS[kind])


def from_json(values: Mapping[str, Any]) -> Event:
    """Inverse of ``to_json``. An unknown kind raises KeyError, a field that is missing or not what
    it should be ValueError (pydantic's); unknown fields (a journal written by a later version) are
    dropped."""
    return _adapter(values["event"]).validate_python(values)
