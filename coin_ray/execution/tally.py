"""The events of a running study, passed on and counted."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping

from coin_ray.events.events import (
    CellEvent,
    CellFailed,
    CellFinished,
    CellLeftOut,
    CellScored,
    Event,
    RoundFinished,
    RoundProgress,
    StageFinished,
    StageReused,
)
from coin_ray.events.state import StudyState
from coin_ray.pipeline.stages import STAGES

log = logging.getLogger(__name__)
Listen = Callable[[Event], None]


def unfailing(listen: Listen) -> Listen:
    """Whoever listens may fail: the study goes on, its results are in the store, and each cause is
    said once."""
    said = set[str]()

    def hand_on(event: Event) -> None:
        try:
            listen(event)
        except Exception as error:
            cause = f"{type(error).__name__}: {error}".splitlines()[0]
            if cause not in said:
                said.add(cause)
                log.warning("the study goes on, but an event of it was not taken: %s", cause)

    return hand_on


class Pulse:
    """When a cell was last heard of."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def beat(self) -> None:
        self._last = time.monotonic()

    def silence(self) -> float:
        """Seconds since the last beat."""
        return time.monotonic() - self._last


class Tally:
    """Hands events on, one at a time whatever thread they come from, and folds them into ``state``,
    which the end of a study and its next step ask.

    ``waiting``: cells that are to be run or are at it; an ending (finished, scored, failed, left
    out) takes them from it. ``advances``: how often each cell has come further than before, by a
    stage or by a step of a training.
    """

    def __init__(self, listen: Listen) -> None:
        self._listen, self._lock = listen, threading.Lock()
        self._told = set[tuple[str, str]]()
        self.state = StudyState()
        self.waiting: set[str] = set()
        self.advances = Counter[str]()
        self._steps: dict[str, int] = {}
        self.pulse = Pulse()

    @property
    def made(self) -> set[str]:
        """Digests of the stages computed."""
        return set[str]().union(*self.state.made.values())

    @property
    def failed(self) -> dict[str, str]:
        """Cell -> the cause, in a line."""
        return {cell.cell: cell.step for cell in self.state.of("failed")}

    @property
    def traces(self) -> dict[str, str]:
        """Cause -> one traceback."""
        return {cell.step: cell.trace for cell in reversed(self.state.of("failed"))}

    @property
    def left_out(self) -> dict[str, str]:
        """Cell -> the reason."""
        return {cell.cell: cell.step for cell in self.state.of("left out")}

    @property
    def finished(self) -> dict[str, Mapping[str, float]]:
        """Cell -> its metrics, of those that were not screened out."""
        return {c.cell: c.metrics for c in self.state.of("finished") if c.rounds != 0}

    @property
    def running(self) -> dict[str, str]:
        """Cell -> what it last said."""
        return {cell.cell: cell.step or "its start" for cell in self.state.of("running")}

    def __call__(self, event: Event) -> None:
        with self._lock:
            self.state.update(event)
            if isinstance(event, CellEvent):
                self.pulse.beat()
            if isinstance(event, CellFinished | CellScored | CellFailed | CellLeftOut):
                self.waiting.discard(event.cell)
            self._advance(event)
            if isinstance(event, StageFinished | StageReused):
                # A cell asks for what it has computed itself, and asks again: neither is a hit.
                known = (event.cell, event.key) in self._told
                self._told.add((event.cell, event.key))
                if known and isinstance(event, StageReused):
                    return
            self._listen(event)

    def rounds(self, event: Event) -> None:
        """Of a cell that is served from the store: a tracker that has not seen it gets its curves,
        its stages are in the plan."""
        if isinstance(event, RoundFinished):
            self(event)

    def _advance(self, event: Event) -> None:
        if isinstance(event, StageFinished):
            self.advances[event.cell] += 1
            if event.stage in STAGES and STAGES[event.stage].trains:
                self._steps.pop(event.cell, None)  # the next training begins at 0
        elif isinstance(event, RoundProgress) and event.step > self._steps.get(event.cell, 0):
            self._steps[event.cell] = event.step
            self.advances[event.cell] += 1
