"""The hub through which the processes of a study talk: events, jobs, segmenters."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from zlib import crc32

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from coin_ray.events.events import Event
from coin_ray.execution.cell_spec import CellSpec

FORGOTTEN = 900.0
"""Seconds after which a segmenter is not busy any more with what nobody has told the end of."""


@dataclass(frozen=True)
class ToHub:
    """Sends an event to the driver without waiting; gives what to ``ray.get`` for it to have
    arrived."""

    hub: Any

    def __call__(self, event: Event) -> Any:
        return self.hub.put.remote(event.to_json())


@dataclass(frozen=True)
class AskHub:
    """Whether a job has been withdrawn."""

    hub: Any
    job: str

    def __call__(self) -> bool:
        return bool(ray.get(self.hub.is_withdrawn.remote(self.job)))


class _Loan(NamedTuple):
    segmenter: tuple[str, str]
    since: float


class EventHub:
    """Collects the events of all processes until the driver fetches them, hands to trials what the
    driver has for them, and lends the segmenters to whoever has prompts.

    Nothing in it is needed for long: one that is started anew has lost a moment's events, asks the
    driver again for what trials ask it, and is told again which segmenters there are.
    """

    def __init__(self) -> None:
        self._events: list[dict[str, Any]] = []
        self._asked: set[str] = set()
        self._cells: dict[str, tuple[CellSpec, ...]] = {}
        self._segmenters: dict[str, dict[str, Any]] = {}
        self._faults: dict[str, Exception] = {}
        self._loans: dict[int, _Loan] = {}
        self._lent = 0
        self._withdrawn: frozenset[str] = frozenset()
        self._last: dict[tuple[str, str], str] = {}
        """The segmenter of a model that has last seen an image: its memory may have it."""

    def put(self, event: dict[str, Any]) -> None:
        self._events.append(event)

    def drain(self) -> tuple[Sequence[dict[str, Any]], set[str]]:
        """What was put since the last time, and the jobs whose trials wait for their cells."""
        events, self._events = self._events, []
        asked, self._asked = self._asked, set()
        return events, asked

    def give(self, job: str, cells: tuple[CellSpec, ...]) -> None:
        """What the trial of this name will run."""
        self._cells[job] = cells

    def take(self, job: str) -> tuple[CellSpec, ...] | None:
        """The cells of a trial, once; None while the driver has yet to give them."""
        if job not in self._cells:
            self._asked.add(job)
        return self._cells.pop(job, None)

    def withdraw(self, jobs: frozenset[str]) -> None:
        """These jobs, and no others, are not asked for any more."""
        self._withdrawn = jobs

    def is_withdrawn(self, job: str) -> bool:
        return job in self._withdrawn

    def staff(
        self, model: str, segmenters: Mapping[str, Any], fault: Exception | None = None
    ) -> None:
        """The segmenters of a model that there are now, by name; ``fault``: why there never will
        be one."""
        self._segmenters[model] = dict(segmenters)
        if fault is not None:
            self._faults[model] = fault

    def lend(self, model: str, image: str) -> tuple[int, Any] | Exception | None:
        """A loan's number and the least busy segmenter, of several the one that knows the image.
        None where there is none yet, an error where there never will be."""
        there = self._segmenters.get(model)
        if not there:
            return self._faults.get(model)
        now = time.monotonic()
        self._loans = {n: one for n, one in self._loans.items() if now - one.since < FORGOTTEN}
        busy = Counter(loan.segmenter for loan in self._loans.values())
        last = self._last.get((model, image))

        def order(name: str) -> tuple[int, bool, int]:
            return busy[model, name], name != last, crc32(f"{name} {image}".encode())

        name = min(there, key=order)
        self._last[model, image] = name
        self._lent += 1
        self._loans[self._lent] = _Loan((model, name), now)
        return self._lent, there[name]

    def give_back(self, loan: int, gone: bool) -> None:
        """A loan has ended; ``gone``: its segmenter does not answer any more."""
        ended = self._loans.pop(loan, None)
        if ended is not None and gone:
            model, name = ended.segmenter
            self._segmenters.get(model, {}).pop(name, None)


def start_hub() -> Any:
    """On the driver's own node: it is lost with the driver alone, or started again."""
    here = ray.get_runtime_context().get_node_id()
    forever = {"max_restarts": -1, "max_task_retries": -1}
    place = NodeAffinitySchedulingStrategy(here, soft=False)
    return ray.remote(EventHub).options(num_cpus=0, scheduling_strategy=place, **forever).remote()
