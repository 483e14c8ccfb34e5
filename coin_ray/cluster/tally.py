"""The events of a running study, passed on and counted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray

from coin_ray.cluster.watchdog import Pulse
from coin_ray.pipeline.events import (
    CellEvent,
    CellFailed,
    CellFinished,
    CellLeftOut,
    CellScored,
    CellStarted,
    Event,
    RoundProgress,
    StageFinished,
    StageReused,
    from_json,
)

Listen = Callable[[Event], None]


class Tally:
    """Hands events on, one at a time whatever thread they come from, and keeps what the end of a
    study and its next step ask for.

    ``made``: digests of the stages computed; ``failed``: cell -> cause; ``traces``: cause -> its
    first traceback; ``left_out``: cell -> reason; ``finished``: cell -> metrics, of those that were
    not screened out; ``running``: cell -> what it last said.
    """

    def __init__(self, listen: Listen) -> None:
        self._listen, self._lock = listen, threading.Lock()
        self._told = set[tuple[str, str]]()
        self.made: set[str] = set()
        self.failed: dict[str, str] = {}
        self.traces: dict[str, str] = {}
        self.left_out: dict[str, str] = {}
        self.finished: dict[str, Mapping[str, float]] = {}
        self.running: dict[str, str] = {}
        self.pulse = Pulse()

    @property
    def computed(self) -> int:
        return len(self.made)

    def __call__(self, event: Event) -> None:
        with self._lock:
            if isinstance(event, CellEvent):
                self._cell(event)
            if isinstance(event, StageFinished | StageReused):
                # A cell asks for what it has computed itself, and asks again: neither is a hit.
                known = (event.cell, event.key) in self._told
                self._told.add((event.cell, event.key))
                if isinstance(event, StageFinished):
                    self.made.add(event.key)
                elif known:
                    return
            self._listen(event)

    def _cell(self, event: CellEvent) -> None:
        self.pulse.beat()
        match event:
            case CellFinished() | CellScored() | CellFailed() | CellLeftOut():
                self.running.pop(event.cell, None)
            case CellStarted():
                self.running[event.cell] = "its start"
                self.failed.pop(event.cell, None)
            case RoundProgress():
                self.running[event.cell] = f"training step {event.step} of {event.steps}"
            case StageFinished() | StageReused() if event.cell in self.running:
                self.running[event.cell] = f"{event.stage} {event.image}".strip()
        match event:
            case CellFinished() if event.rounds != 0:
                self.finished[event.cell] = event.metrics
            case CellFailed():
                self.failed[event.cell] = event.cause
                self.traces.setdefault(event.cause, event.trace)
            case CellLeftOut():
                self.left_out[event.cell] = event.reason


@contextmanager
def pumped(hub: Any, listen: Listen) -> Iterator[Callable[[], None]]:
    """Hand the hub's events to ``listen`` from a thread while the body runs, all of them at its
    end; yields what hands over those that are there now."""
    stop, one = threading.Event(), threading.Lock()

    def pump() -> None:
        while not stop.is_set():
            drain()
            stop.wait(0.25)

    def drain() -> None:
        with one:
            for event in ray.get(hub.drain.remote()):
                listen(from_json(event))

    thread = threading.Thread(target=pump, daemon=True)
    thread.start()
    try:
        yield drain
    finally:
        stop.set()
        thread.join()
        drain()
