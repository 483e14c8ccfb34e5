"""The events of a running study, passed on and counted."""

from __future__ import annotations

import _thread
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayError

from coin_ray.cluster.watchdog import Pulse
from coin_ray.errors import UserError
from coin_ray.events.events import (
    CellEvent,
    CellFailed,
    CellFinished,
    CellLeftOut,
    CellScored,
    CellStarted,
    Event,
    Note,
    RoundProgress,
    StageFinished,
    StageReused,
    from_json,
)

log = logging.getLogger(__name__)
Listen = Callable[[Event], None]


class Tally:
    """Hands events on, one at a time whatever thread they come from, and keeps what the end of a
    study and its next step ask for.

    ``waiting``: cells that are to be run or are at it; an ending (finished, scored, failed, left
    out) takes them from it.

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
        self.waiting: set[str] = set()
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
                self.waiting.discard(event.cell)
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
def pumped(hub: Any, listen: Listen, give: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """Hand the hub's events to ``listen`` from a thread while the body runs, all of them at its
    end, and have the driver ``give`` the jobs that trials ask for; yields what does so at once.

    Whoever listens may fail: the study goes on, its results are in the store, and it is said. Once
    the hub is lost for good, so is the cluster: the body is interrupted, and that is a UserError.
    """
    stop, one, said = threading.Event(), threading.Lock(), set[str]()
    gone: list[UserError] = []

    def pump() -> None:
        while not stop.is_set():
            try:
                drain()
            except UserError as error:
                gone.append(error)
                # Tune would wait for what never comes. It is said now: where the driver's own
                # raylet is gone, Ray may end this process before any error is seen.
                hand_on(Note(f"{error.what}: {error.do}", "error"))
                _thread.interrupt_main()
                return
            stop.wait(0.25)

    def drain() -> None:
        with one:
            try:
                told, asked = ray.get(hub.drain.remote())
                for job in sorted(asked):
                    give(job)
            except RayError as error:
                raise UserError(
                    "the Ray cluster was lost while the study ran",
                    found=f"{type(error).__name__}: {str(error).splitlines()[-1]}",
                    do="run the same command again: what was computed is stored",
                ) from error
            for event in told:
                hand_on(from_json(event))

    def hand_on(event: Event) -> None:
        try:
            listen(event)
        except Exception as error:
            found = f"{type(error).__name__}: {error}".splitlines()[0]
            if found not in said:
                said.add(found)
                log.warning("the study goes on, but an event of it was not taken: %s", found)

    thread = threading.Thread(target=pump, daemon=True)
    try:
        thread.start()
        yield drain
    except KeyboardInterrupt:
        if gone:
            raise gone[0] from None
        raise
    finally:
        stop.set()
        thread.join()
        if not gone:
            drain()
