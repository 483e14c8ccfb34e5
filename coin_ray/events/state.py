"""The state of a study as its events tell it: the one place where events become states and counts.

It knows no clock, no screen, no file: times are handed in, and whoever shows, counts or keeps
something reads it here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from coin_ray.events import events
from coin_ray.events.events import CellEvent, Event

State = Literal["queued", "running", "interrupted", "finished", "failed", "left out"]
"""One word for each state of a cell, everywhere; the store alone knows of one that is ``missing``.
"""
ENDINGS: dict[str, State] = {
    "CellFinished": "finished",
    "CellFailed": "failed",
    "CellLeftOut": "left out",
}


def next_state(state: State, kind: str) -> State:
    """The state of a cell after an event of a kind.

    Events come from many processes, and the last of a cell need not come last: what has ended is
    opened again by a start alone, and what has finished stays so, whoever looks at it again.
    """
    if kind in ENDINGS:
        return ENDINGS[kind]
    if kind == "StudyFinished":  # nobody is working on it any more
        return "interrupted" if state == "running" else state
    if kind == "CellStarted":
        return "finished" if state == "finished" else "running"
    if state in ENDINGS.values():
        return state
    return "queued" if kind == "CellScored" else "running"


@dataclass
class StageCount:
    """Events of one stage of a cell since its last ending; ``seconds`` of what was computed."""

    computed: int = 0
    reused: int = 0
    seconds: float = 0.0
    keys: set[str] = field(default_factory=set)


@dataclass
class CellState:
    """``step``: what it does right now, or why it ended as it did; ``rounds``: after how many it
    was ended, where that is before its last; ``touched``: number of its last event."""

    cell: str
    level: str
    data: str
    seed: int
    state: State = "queued"
    step: str = ""
    trace: str = ""
    rounds: int | None = None
    computed: int = 0
    reused: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    stages: dict[str, StageCount] = field(default_factory=dict)
    touched: int = 0


@dataclass
class StudyState:
    """``total``: how many cells there will be; ``cells``: those that were heard of, by name;
    ``to_compute``: stage -> unique ones that were missing; ``made``: stage -> keys of those
    computed, and ``seconds``: what that took; ``open``: between its start and its end; ``time``: of
    the last event, in the unit of who hands it in."""

    objective: str = "agreement"
    larger_is_better: bool = True
    cells: dict[str, CellState] = field(default_factory=dict)
    total: int = 0
    workers: int = 1
    stored: int = 0
    to_compute: Counter[str] = field(default_factory=Counter)
    made: dict[str, set[str]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    phase: str = ""
    proposed: int = 0
    stalled: Sequence[str] = ()
    open: bool = False
    time: float = 0.0
    _heard: int = 0
    _names: dict[tuple[str, str, int], str] = field(default_factory=dict)

    def update(self, event: Event, time: float = 0.0) -> None:
        """Take one event in."""
        self._heard += 1
        self.time = time
        match event:
            case events.StudyStarted():
                self.open, self.total, self.workers = True, event.cells, max(1, event.workers)
                self.to_compute, self.stored = Counter(event.to_compute), event.stored
            case events.PhaseStarted():
                self.phase = event.what
                for stage, n in event.to_compute.items():
                    self.to_compute[stage] = n + len(self.made.get(stage, ()))
            case events.CellsProposed():
                self.proposed += 1
                self.to_compute += Counter(event.to_compute)
            case events.StudyEdited():
                self.total = event.cells
                self.notes = [*self.notes[-2:], edited(event)]
            case events.Note():
                self.notes = [*self.notes[-2:], event.text]
            case events.Stalled():
                self.stalled = event.lines
            case events.StudyFinished():
                self.open = False
                for cell in self.cells.values():
                    cell.state = next_state(cell.state, "StudyFinished")
            case CellEvent():
                self.stalled = ()
                self._cell(event)

    def _cell(self, event: CellEvent) -> None:
        cell, kind = self._of(event), type(event).__name__
        cell.touched = self._heard
        cell.state = next_state(cell.state, kind)
        if kind in ENDINGS or cell.state not in ENDINGS.values():
            cell.step = _step(event)
            if isinstance(event, events.CellFinished):
                cell.metrics, cell.rounds = dict(event.metrics), event.rounds
            elif isinstance(event, events.CellScored | events.RoundFinished):
                cell.metrics |= event.metrics
            elif isinstance(event, events.CellFailed):
                cell.trace = event.trace
        if kind in ENDINGS:
            cell.stages = {}
        elif isinstance(event, events.StageFinished | events.StageReused):
            self._stage(cell, event)

    def _of(self, event: CellEvent) -> CellState:
        """The cell of an event; its name changes with its settings, and the old one goes."""
        who = event.level, event.data, event.seed
        before = self._names.setdefault(who, event.cell)
        if before != event.cell:
            self._names[who] = event.cell
            self.cells.pop(before, None)
        return self.cells.setdefault(event.cell, CellState(event.cell, *who))

    def _stage(self, cell: CellState, event: events.StageFinished | events.StageReused) -> None:
        count = cell.stages.setdefault(event.stage, StageCount())
        count.keys |= {event.key} - {""}
        if isinstance(event, events.StageReused):
            cell.reused, count.reused = cell.reused + 1, count.reused + 1
            return
        cell.computed, count.computed = cell.computed + 1, count.computed + 1
        count.seconds += event.seconds
        made = self.made.setdefault(event.stage, set())
        key = event.key or f"{event.cell}/{event.stage}/{event.image}"
        if key not in made:  # several cells hear of the same stage
            made.add(key)
            self.seconds[event.stage] = self.seconds.get(event.stage, 0.0) + event.seconds

    def of(self, *states: State) -> list[CellState]:
        """The cells in one of these states."""
        found = list(self.cells.values())  # another thread may add one
        return [cell for cell in found if cell.state in states]

    def about(self, level: str, data: str, seed: int) -> CellState | None:
        """The last that is known of a cell, under whatever settings it ran."""
        return self.cells.get(self._names.get((level, data, seed), ""))

    @property
    def computed(self) -> int:
        """Unique stages computed so far."""
        return sum(map(len, self.made.values()))

    @property
    def remaining(self) -> int:
        """Unique stages still to compute."""
        return self._left().total()

    def _left(self) -> Counter[str]:
        return self.to_compute - Counter({stage: len(keys) for stage, keys in self.made.items()})

    def best(self) -> CellState | None:
        """The finished cell with the best objective, which reads no label unless the study says."""
        scored = [cell for cell in self.of("finished") if self.objective in cell.metrics]
        pick = max if self.larger_is_better else min
        return pick(scored, key=lambda cell: cell.metrics[self.objective], default=None)

    def eta(self, elapsed: float) -> float | None:
        """Seconds to go, from the mean time of each stage so far and the pace of all of them
        together; None as long as a stage that is still to come has not been timed. A search, whose
        stages are not known, goes by its cells."""
        if self.proposed:
            ended = len(self.of("finished", "failed"))
            return elapsed / ended * max(0, self.total - ended) if ended else None
        left = self._left()
        if not left:
            return 0.0 if self.total else None
        if any(stage not in self.seconds for stage in left):
            return None
        work = sum(n * self.seconds[s] / len(self.made[s]) for s, n in left.items())
        # Stages run side by side: what a second of the clock has got done so far.
        pace = max(sum(self.seconds.values()) / elapsed, 1e-9) if elapsed > 0 else 1.0
        return work / pace


def edited(event: events.StudyEdited) -> str:
    """An edit in a line."""
    return f"the study was edited by {event.by}: {event.words}"


def _step(event: CellEvent) -> str:
    match event:
        case events.CellFinished():
            return "" if event.rounds is None else f"ended after round {event.rounds}"
        case events.CellLeftOut():
            return event.reason
        case events.CellFailed():
            return event.cause
        case events.CellScored():
            return "scored"
        case events.RoundProgress():
            return f"training step {event.step} of {event.steps}"
        case events.RoundFinished():
            return f"round {event.round} done"
        case events.StageStarted() | events.StageFinished() | events.StageReused():
            return f"{event.stage} {event.image}".strip()
    return ""
