"""Steps of a cell as Ray tasks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import ray
from ray.exceptions import RayTaskError

from coin_ray.cluster.nodes import limit
from coin_ray.errors import UserError
from coin_ray.execution.cell_spec import CellSpec, open_cell
from coin_ray.execution.failures import lost
from coin_ray.pipeline.cell import CellRun
from coin_ray.pipeline.runner import Each, step_at
from coin_ray.pipeline.steps import STEPS
from coin_ray.planning.machines import Request, segmenter_share, step_request


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


def distributed(spec: CellSpec, run: CellRun) -> Each:
    """Run a cell's steps as tasks, one per image; one whose missing stages run on CPUs takes no GPU
    and sees none. See :func:`patient` for what is tried once more."""
    reference = ray.put(spec)

    def submit(step: str, index: int, needs: Request) -> Any:
        return task(_step, needs).remote(reference, step, index, needs)

    def each(step: str, n: int) -> list[Any]:
        needs = step_request(spec.resources, step, spec.device)
        items = spec.samples if STEPS[step].samples else run.train
        most = 1 - segmenter_share(spec.resources, spec.device)
        taken = [
            needs if needs.gpus and STEPS[step].on_device(run, item) else replace(needs, gpus=0.0)
            for item in items[:n]
        ]

        def again(index: int) -> Any:
            least = most if taken[index].gpus else 0.0
            return submit(step, index, replace(needs, gpus=max(needs.gpus, least)))

        tasks = [submit(step, index, one) for index, one in enumerate(taken)]
        return [
            patient(ray.get, sent, index, again, without=needs.gpus > taken[index].gpus)
            for index, sent in enumerate(tasks)
        ]

    return each


def patient(
    get: Callable[[Any], Any],
    task: Any,
    index: int,
    again: Callable[[int], Any],
    *,
    without: bool = False,
) -> Any:
    """The result of a task; of a second one where a GPU's memory was too small for the first, which
    has all of the GPU that the segmenter leaves. One that was run ``without`` a GPU and failed is
    tried with one: what it was to read may be damaged, and is then made again."""
    import torch

    try:
        return get(task)
    except RayTaskError as error:
        mistake = isinstance(error.cause, UserError) or lost(error)
        if not isinstance(error.cause, torch.OutOfMemoryError) and (mistake or not without):
            raise
    return get(again(index))
