"""Steps of a cell as Ray tasks, and the hub through which trials and driver talk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import ray
from ray.exceptions import RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from coin_ray.cluster.nodes import limit
from coin_ray.events.events import Event
from coin_ray.execution.cell_spec import CellSpec, open_cell
from coin_ray.pipeline.runner import Each, step_at
from coin_ray.planning.machines import Request, segmenter_share, step_request


@dataclass(frozen=True)
class ToHub:
    """Sends an event to the driver without waiting; gives what to ``ray.get`` for it to have
    arrived."""

    hub: Any

    def __call__(self, event: Event) -> Any:
        return self.hub.put.remote(event.to_json())


@cache
def task(work: Callable[..., Any], needs: Request) -> Any:
    """``work`` as a task with what it takes. A killed worker is Ray's to retry; an error of the
    work itself is not repeated. Without a strategy of their own the tasks would have to fit into
    the bundle of the waiting driver."""
    options: dict[str, Any] = {"num_cpus": needs.cpus, "max_retries": 2, "retry_exceptions": False}
    if needs.memory:
        options["memory"] = needs.memory
    if needs.gpus:
        # A process keeps the first card that it has used, whichever Ray hands it later: one that
        # had a card is not used again. Ray takes this here, and drops it from ``options``.
        options |= {"num_gpus": needs.gpus, "max_calls": 1}
    return ray.remote(scheduling_strategy="DEFAULT", **options)(work)


def _step(spec: CellSpec, step: str, index: int, needs: Request) -> Any:
    limit(needs.cpus, needs.gpus)
    return step_at(open_cell(spec), spec.samples, step, index)


def distributed(spec: CellSpec) -> Each:
    """Run a cell's steps as tasks, one per image. A task that runs out of a GPU's memory is tried
    once more with all of the GPU that the segmenter leaves."""
    reference = ray.put(spec)

    def submit(step: str, index: int, needs: Request) -> Any:
        return task(_step, needs).remote(reference, step, index, needs)

    def each(step: str, n: int) -> list[Any]:
        needs = step_request(spec.resources, step, spec.device)
        most = 1 - segmenter_share(spec.resources, spec.device)

        def again(index: int) -> Any:
            return submit(step, index, replace(needs, gpus=max(needs.gpus, most)))

        tasks = [submit(step, index, needs) for index in range(n)]
        return [patient(ray.get, sent, index, again) for index, sent in enumerate(tasks)]

    return each


def patient(get: Callable[[Any], Any], task: Any, index: int, again: Callable[[int], Any]) -> Any:
    """The result of a task; of a second one where a GPU's memory was too small for the first."""
    import torch

    try:
        return get(task)
    except RayTaskError as error:
        if not isinstance(error.cause, torch.OutOfMemoryError):
            raise
    return get(again(index))


class EventHub:
    """Collects the events of all processes until the driver fetches them, and hands to trials what
    the driver has for them.

    Nothing in it is needed for long: one that is started anew has lost a moment's events, and asks
    the driver again for what trials ask it.
    """

    def __init__(self) -> None:
        self._events: list[dict[str, Any]] = []
        self._asked: set[str] = set()
        self._cells: dict[str, tuple[CellSpec, ...]] = {}

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


def start_hub() -> Any:
    """On the driver's own node: it is lost with the driver alone, or started again."""
    here = ray.get_runtime_context().get_node_id()
    forever = {"max_restarts": -1, "max_task_retries": -1}
    place = NodeAffinitySchedulingStrategy(here, soft=False)
    return ray.remote(EventHub).options(num_cpus=0, scheduling_strategy=place, **forever).remote()
