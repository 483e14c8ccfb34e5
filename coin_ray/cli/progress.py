"""A running study in numbers: its events folded into states, counts, the best so far, time to go.

It knows no clock and no screen; ``live`` draws it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from coin_ray.events import events
from coin_ray.events.events import CellEvent, Event


@dataclass
class CellState:
    """One row: ``state`` is waiting, running, done, failed or left out; ``step`` what it does right
    now."""

    level: str
    data: str
    seed: int
    state: str = "waiting"
    step: str = ""
    computed: int = 0
    reused: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    touched: int = 0


@dataclass
class Progress:
    """The state of a study as its events tell it; times are handed in, in seconds."""

    objective: str = "agreement"
    larger_is_better: bool = True
    cells: dict[str, CellState] = field(default_factory=dict)
    total: int = 0
    workers: int = 1
    stored: int = 0
    to_compute: dict[str, int] = field(default_factory=dict)
    done: dict[str, set[str]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    phase: str = ""
    proposed: int = 0
    stalled: Sequence[str] = ()
    ticks: int = 0

    def update(self, event: Event) -> None:
        """Take one event in."""
        self.ticks += 1
        if isinstance(event, events.StudyStarted):
            self.total, self.workers = event.cells, max(1, event.workers)
            self.to_compute, self.stored = dict(event.to_compute), event.stored
        elif isinstance(event, events.PhaseStarted):
            self.phase = event.what
            done = {stage: len(self.done.get(stage, ())) for stage in event.to_compute}
            self.to_compute |= {stage: n + done[stage] for stage, n in event.to_compute.items()}
        elif isinstance(event, events.CellsProposed):
            self.proposed += 1
            for stage, n in event.to_compute.items():
                self.to_compute[stage] = self.to_compute.get(stage, 0) + n
        elif isinstance(event, events.Note):
            self.notes = [*self.notes[-2:], event.text]
        elif isinstance(event, events.Stalled):
            self.stalled = event.lines
        elif isinstance(event, CellEvent):
            self.stalled = ()
            self._cell(event)

    def _cell(self, event: CellEvent) -> None:
        cell = self.cells.setdefault(event.cell, CellState(event.level, event.data, event.seed))
        cell.touched = self.ticks
        before = cell.state, cell.step
        match event:
            case events.CellFinished():
                early = event.rounds is not None
                cell.state, cell.step = "done", f"ended after round {event.rounds}" if early else ""
                cell.metrics |= event.metrics
            case events.CellLeftOut():
                cell.state, cell.step = "left out", event.reason
            case events.CellScored():
                cell.state, cell.step = "waiting", "scored"
                cell.metrics |= event.metrics
            case events.RoundProgress():
                cell.state, cell.step = "running", f"training, {event.step} of {event.steps}"
            case events.CellFailed():
                cell.state, cell.step = "failed", event.cause
            case events.CellStarted():
                cell.state, cell.step = "running", ""
            case events.RoundFinished():
                cell.state, cell.step = "running", f"round {event.round} done"
                cell.metrics |= event.metrics
            case events.StageStarted() | events.StageFinished() | events.StageReused():
                cell.state, cell.step = "running", f"{event.stage} {event.image}".strip()
                self._stage(cell, event)
        last = isinstance(event, events.CellStarted | events.CellLeftOut)
        if before[0] in ("done", "failed") and not last:
            # Events come from many processes, and the last of a cell need not come last.
            cell.state, cell.step = before

    def _stage(self, cell: CellState, event: CellEvent) -> None:
        if isinstance(event, events.StageReused):
            cell.reused += 1
        if not isinstance(event, events.StageFinished):
            return
        cell.computed += 1
        key = event.key or f"{event.cell}/{event.stage}/{event.image}"
        finished = self.done.setdefault(event.stage, set())
        if key not in finished:
            finished.add(key)
            self.seconds[event.stage] = self.seconds.get(event.stage, 0.0) + event.seconds

    def count(self, state: str) -> int:
        """Cells in a state."""
        return sum(cell.state == state for cell in self.cells.values())

    @property
    def computed(self) -> int:
        """Unique stages computed so far."""
        return sum(len(keys) for keys in self.done.values())

    @property
    def remaining(self) -> int:
        """Unique stages still to compute."""
        return sum(self._left().values())

    def _left(self) -> dict[str, int]:
        left = {s: n - len(self.done.get(s, ())) for s, n in self.to_compute.items()}
        return {stage: n for stage, n in left.items() if n > 0}

    def best(self) -> CellState | None:
        """The finished cell with the best objective, which reads no label unless the study says."""
        scored = [
            c for c in self.cells.values() if c.state == "done" and self.objective in c.metrics
        ]
        pick = max if self.larger_is_better else min
        return pick(scored, key=lambda c: c.metrics[self.objective], default=None)

    def eta(self, elapsed: float) -> float | None:
        """Seconds to go, from the mean time of each stage so far and the pace of all of them
        together; None as long as a stage that is still to come has not been timed. A search, whose
        stages are not known, goes by its cells."""
        if self.proposed:
            ended = sum(cell.state in ("done", "failed") for cell in self.cells.values())
            return elapsed / ended * max(0, self.total - ended) if ended else None
        left = self._left()
        if not left:
            return 0.0 if self.total else None
        if any(stage not in self.seconds for stage in left):
            return None
        work = sum(n * self.seconds[s] / len(self.done[s]) for s, n in left.items())
        spent = sum(self.seconds.values())
        # Stages run side by side: what a second of the clock has got done so far.
        pace = max(spent / elapsed, 1e-9) if elapsed > 0 else 1.0
        return work / pace


def clock(seconds: float | None) -> str:
    """1:05 or 2:03:04; ``?`` for None."""
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
