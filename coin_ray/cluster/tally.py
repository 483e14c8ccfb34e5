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
    Event,
    Note,
    StageFinished,
    StageReused,
    from_json,
)
from coin_ray.events.state import StudyState

log = logging.getLogger(__name__)
Listen = Callable[[Event], None]


class Tally:
    """Hands events on, one at a time whatever thread they come from, and folds them into ``state``,
    which the end of a study and its next step ask.

    ``waiting``: cells that are to be run or are at it; an ending (finished, scored, failed, left
    out) takes them from it.
    """

    def __init__(self, listen: Listen) -> None:
        self._listen, self._lock = listen, threading.Lock()
        self._told = set[tuple[str, str]]()
        self.state = StudyState()
        self.waiting: set[str] = set()
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
            if isinstance(event, StageFinished | StageReused):
                # A cell asks for what it has computed itself, and asks again: neither is a hit.
                known = (event.cell, event.key) in self._told
                self._told.add((event.cell, event.key))
                if known and isinstance(event, StageReused):
                    return
            self._listen(event)


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
