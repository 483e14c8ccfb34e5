"""Actors that hold a promptable segmenter and score instances for every trial of a study."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.exceptions import ActorUnschedulableError, RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from coin_ray.cluster.nodes import limit
from coin_ray.labels import InstanceMasks
from coin_ray.pipeline.segmenter import CachedSegmenter
from coin_ray.precision import Precision
from coin_ray.store.artifacts import Done, Store, leave_out
from coin_ray.store.keys import Key


class SegmenterActor:
    """One model in memory. A restart loses the embeddings in memory, not those in the store."""

    def __init__(self, model: str, store: Path, device: str, batch: int, gpu: float) -> None:
        limit(1.0, gpu)
        self._segmenter = CachedSegmenter(model, Store(store, device), device=device, batch=batch)

    def masks(
        self, image: Any, embed: Key, points: NDArray[np.float64], precision: Precision
    ) -> tuple[dict[str, NDArray[Any]], list[tuple[Key, float]]]:
        """Masks as arrays, and the embedding's key and seconds if it was computed now."""
        computed: list[tuple[Key, float]] = []
        found = self._segmenter.masks(
            image,
            embed,
            np.array(points),
            precision,
            lambda key, seconds: computed.append((key, seconds)),
        )
        return found.to_arrays(), computed


class ActorSegmenter:
    """The pool, seen as one segmenter. An image always goes to the same actor, whose memory has
    it."""

    def __init__(self, actors: Sequence[Any]) -> None:
        self._actors = actors

    def masks(
        self,
        image: Any,
        embed: Key,
        points: NDArray[np.float64],
        precision: Precision,
        done: Done | None = None,
    ) -> InstanceMasks:
        """See ``pipeline.segmenter.Segmenter``."""
        arrays, computed = self._ask(int(embed.digest, 16), image, embed, points, precision)
        for key, seconds in computed:
            leave_out(seconds)
            if done is not None:
                done(key, seconds)
        return InstanceMasks.from_arrays(arrays)

    def _ask(self, first: int, *request: Any) -> Any:
        """The answer of an image's actor; of the next one that lives where that one is gone for
        good, which costs another embedding and changes nothing."""
        turn = first % len(self._actors)
        *pool, last = (*self._actors[turn:], *self._actors[:turn])
        for actor in pool:
            try:
                return ray.get(actor.masks.remote(*request))
            except (RayActorError, ActorUnschedulableError):
                continue
        return ray.get(last.masks.remote(*request))


def start_actor(
    model: str, store: Path, *, device: str, batch: int, gpu: float, node: str | None = None
) -> Any:
    """One of the pool, on the given node or anywhere. It reserves no CPU: its callers wait while it
    works, and a pool that held CPUs could starve the trials it serves. One with a share of a GPU
    does not move to another node, whose GPUs are counted without it."""
    place = NodeAffinitySchedulingStrategy(node, soft=False) if node else "DEFAULT"
    return (
        ray.remote(SegmenterActor)
        .options(
            num_cpus=0,
            num_gpus=gpu,
            max_restarts=3,
            max_task_retries=3,
            scheduling_strategy=place,
        )
        .remote(model, store, device, batch, gpu)
    )
