"""Actors that hold a promptable segmenter and score instances for every trial of a study."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from coin_ray.cluster.nodes import gpu_nodes, limit
from coin_ray.labels import InstanceMasks
from coin_ray.pipeline.keys import Key
from coin_ray.pipeline.segmenter import CachedSegmenter
from coin_ray.pipeline.store import Done, Store, leave_out


class SegmenterActor:
    """One model in memory. A restart loses the embeddings in memory, not those in the store."""

    def __init__(self, model: str, store: Path, device: str, batch: int, gpu: float) -> None:
        limit(1.0, gpu)
        self._segmenter = CachedSegmenter(model, Store(store, device), device=device, batch=batch)

    def masks(
        self, image: Any, embed: Key, points: NDArray[np.float64]
    ) -> tuple[dict[str, NDArray[Any]], list[tuple[Key, float]]]:
        """Masks as arrays, and the embedding's key and seconds if it was computed now."""
        computed: list[tuple[Key, float]] = []
        found = self._segmenter.masks(
            image, embed, np.array(points), lambda key, seconds: computed.append((key, seconds))
        )
        return found.to_arrays(), computed


class ActorSegmenter:
    """The pool, seen as one segmenter. An image always goes to the same actor, whose memory has
    it."""

    def __init__(self, actors: Sequence[Any]) -> None:
        self._actors = actors

    def masks(
        self, image: Any, embed: Key, points: NDArray[np.float64], done: Done | None = None
    ) -> InstanceMasks:
        """See ``pipeline.segmenter.Segmenter``."""
        if not self._actors:
            raise RuntimeError(f"{embed.path} has gone from the store since the plan; run again")
        actor = self._actors[int(embed.digest, 16) % len(self._actors)]
        arrays, computed = ray.get(actor.masks.remote(image, embed, points))
        for key, seconds in computed:
            leave_out(seconds)
            if done is not None:
                done(key, seconds)
        return InstanceMasks.from_arrays(arrays)


def start_actors(
    model: str, store: Path, *, device: str, batch: int, gpu: float
) -> tuple[Any, ...]:
    """On GPUs one actor for every node that has some, with the share ``gpu`` of the first; else one
    for two CPUs. It reserves none of them: its callers wait while it works, and a pool that held
    CPUs could starve the trials it serves."""
    options = {"num_cpus": 0, "max_restarts": 3, "max_task_retries": 3}
    make = ray.remote(SegmenterActor).options(**options)
    if device.startswith("cuda"):
        places = [NodeAffinitySchedulingStrategy(node, soft=False) for node in gpu_nodes()]
        kinds = [make.options(num_gpus=gpu, scheduling_strategy=place) for place in places]
    else:
        kinds = [make] * max(1, int(ray.cluster_resources()["CPU"]) // 2)
    return tuple(kind.remote(model, store, device, batch, gpu) for kind in kinds)
