"""Steps of a cell as Ray tasks, and what crosses the cluster to run them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray

from coin_ray.cluster.scoring import ActorSegmenter
from coin_ray.pipeline.cell import CellRun
from coin_ray.pipeline.chain import CellKeys
from coin_ray.pipeline.events import StageFinished, StageReused
from coin_ray.pipeline.keys import Key
from coin_ray.pipeline.runner import STEPS, Each
from coin_ray.pipeline.settings import Cell
from coin_ray.pipeline.store import Store


@dataclass(frozen=True)
class CellSpec:
    """One cell as plain, small data: it is sent with every task.

    ``weights`` and ``masks`` are content digests found once on the driver; ``who`` holds the fields
    of the cell's events (cell, level, data, seed).
    """

    config: Cell
    seed: int
    train: tuple[Any, ...]
    samples: tuple[Any, ...]
    weights: Mapping[str, str]
    masks: Mapping[str, str]
    workspace: Path
    device: str
    who: Mapping[str, Any]
    actors: tuple[Any, ...] = ()
    hub: Any = None
    resources: Mapping[str, float] = field(default_factory=dict)

    @property
    def store(self) -> Store:
        return Store(self.workspace / "store")

    def keys(self) -> CellKeys:
        return CellKeys(
            self.config,
            self.seed,
            self.train,
            self.weights.__getitem__,
            lambda folder, name: self.masks[name],
        )

    def emit(self, kind: type[Any], **values: Any) -> None:
        """Send an event of this cell to the driver; never waits."""
        if self.hub is not None:
            self.hub.put.remote(kind(**self.who, **values).to_json())


def open_cell(spec: CellSpec) -> CellRun:
    """The cell as an object, in whatever process this is."""

    def done(key: Key, seconds: float) -> None:
        spec.emit(StageFinished, stage=key.stage, image=key.name, seconds=seconds, key=key.digest)

    def found(key: Key) -> None:
        spec.emit(StageReused, stage=key.stage, image=key.name, key=key.digest)

    return CellRun(
        spec.config,
        spec.seed,
        spec.train,
        spec.store,
        spec.keys(),
        ActorSegmenter(spec.actors),
        spec.device,
        done,
        found,
    )


def limit_threads(cpus: float) -> None:
    """Ray sets OMP_NUM_THREADS once per process; a reused worker would keep the first count."""
    import torch

    torch.set_num_threads(max(1, int(cpus)))


def _step(spec: CellSpec, step: str, index: int, cpus: float) -> Any:
    limit_threads(cpus)
    return STEPS[step](open_cell(spec), spec.samples, index)


def distributed(spec: CellSpec) -> Each:
    """Run a cell's steps as tasks, one per image."""
    cpus = spec.resources.get("cpu", 1.0)
    gpus = spec.resources.get("gpu", 0.25) if spec.device.startswith("cuda") else 0.0
    # A killed worker is Ray's to retry; an error of the step itself is not repeated. Without a
    # strategy of their own the tasks would have to fit into the bundle of the waiting driver.
    task = ray.remote(_step).options(
        scheduling_strategy="DEFAULT",
        num_cpus=cpus,
        num_gpus=gpus,
        max_retries=2,
        retry_exceptions=False,
    )
    reference = ray.put(spec)

    def each(step: str, n: int) -> list[Any]:
        return ray.get([task.remote(reference, step, i, cpus) for i in range(n)])

    return each


class EventHub:
    """Collects the events of all processes until the driver fetches them."""

    def __init__(self) -> None:
        self._events: list[dict[str, Any]] = []

    def put(self, event: dict[str, Any]) -> None:
        self._events.append(event)

    def drain(self) -> Sequence[dict[str, Any]]:
        events, self._events = self._events, []
        return events
