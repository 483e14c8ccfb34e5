"""The tiles of a slide as tasks on Ray; the driver alone writes what they find."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import ray

from coin_ray.cluster.nodes import connected, limit
from coin_ray.errors import UserError
from coin_ray.slides.nuclei import Nuclei
from coin_ray.slides.reading import Slide, open_slide
from coin_ray.slides.run import Done, Work, compute, keep, stored
from coin_ray.slides.tiles import Tile

GB = 10**9
MEMORY = 2.5 * GB
"""Of a task that segments a tile."""
RETRIES = 3
"""Of a tile whose node has gone."""


def run_on_ray(work: Work, slide: Slide) -> Iterator[Done]:
    """All tiles in raster order, on the cluster that this process is connected to.

    Every node reads the slide by its path. A task takes a CPU, and of a GPU the half. UserError if
    a node does not find the slide, or no node has room for a task.
    """
    gpus = 0.5 if work.method is not None and work.method.device.startswith("cuda") else 0.0
    nodes = connected()
    room = sum(
        int(min(n.cpus, n.memory / MEMORY, n.gpus / gpus if gpus else n.cpus)) for n in nodes
    )
    if not room:
        raise UserError(
            "no node has room for a tile",
            expected=f"1 CPU, {MEMORY / GB:g} GB of memory" + (", a GPU" if gpus else ""),
        )
    task: Any = ray.remote(num_cpus=1, num_gpus=gpus, memory=int(MEMORY), max_retries=RETRIES)(
        _compute
    )
    shared = [ray.put(work)]  # in a list Ray hands over the reference: a process reads it once
    waiting: list[tuple[Tile, Any]] = []
    for tile in work.tiles:
        done = stored(work, tile)
        waiting.append((tile, done or task.remote(shared, tile, gpus)))
        if len(waiting) > 2 * room:
            yield _ended(work, *waiting.pop(0))
    for one in waiting:
        yield _ended(work, *one)


def _ended(work: Work, tile: Tile, result: Any) -> Done:
    if isinstance(result, Done):
        return result
    try:
        found: Nuclei | str = ray.get(result)
    except ray.exceptions.RayTaskError as error:
        raise error.as_instanceof_cause() from error
    return keep(work, tile, found)


def _compute(shared: list[Any], tile: Tile, gpus: float) -> Nuclei | str:
    limit(1, gpus)
    return compute(*_opened(shared[0]), tile)


@lru_cache(maxsize=1)
def _opened(reference: Any) -> tuple[Work, Slide]:
    """Opened once a process, and its student built once."""
    import warnings

    work: Work = ray.get(reference)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the driver has said that --mpp wins
        return work, open_slide(work.path, work.mpp)
