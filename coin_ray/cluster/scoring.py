"""Actors that hold a promptable segmenter and score instances for every trial of a study."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from numpy.typing import NDArray
from ray.exceptions import ActorUnschedulableError, RayActorError, RayError

from coin_ray.cluster.nodes import limit
from coin_ray.confidence.prompts import Prompts
from coin_ray.labels import InstanceMasks
from coin_ray.pipeline.segmenter import CachedSegmenter, Look
from coin_ray.store.artifacts import Done, Store
from coin_ray.store.keys import Key
from coin_ray.store.timing import leave_out

WAIT = 120.0
"""Seconds that a prompt waits for a segmenter that there is not."""
POLL = 0.2
DEATHS = 4
"""Segmenters that may die of one prompt, or while they have it."""


class SegmenterActor:
    """One model in memory. A restart loses the embeddings in memory, not those in the store."""

    def __init__(self, model: str, store: Path, device: str, batch: int, gpu: float) -> None:
        limit(1.0, gpu)
        self._segmenter = CachedSegmenter(model, Store(store, device), device=device, batch=batch)

    def where(self) -> tuple[str, tuple[str, ...]]:
        """Its node, and the card of it that it was given."""
        context = ray.get_runtime_context()
        return context.get_node_id(), tuple(context.get_accelerator_ids().get("GPU", ()))

    def masks(
        self, image: Any, embed: Key, prompts: Prompts, look: Look
    ) -> tuple[dict[str, NDArray[Any]], list[tuple[Key, float]]]:
        """Masks as arrays, and the embedding's key and seconds if it was computed now."""
        computed: list[tuple[Key, float]] = []
        found = self._segmenter.masks(
            image,
            embed,
            prompts,
            look,
            lambda key, seconds: computed.append((key, seconds)),
        )
        return found.to_arrays(), computed


class NoSegmenter(RayError):
    """There was none for too long. What waits for one gives its share of a card back, and is tried
    again as what was lost is."""


@dataclass(frozen=True)
class ActorSegmenter:
    """The segmenters of a model, seen as one: the ``hub`` lends the least busy."""

    hub: Any
    model: str

    def masks(
        self,
        image: Any,
        embed: Key,
        prompts: Prompts,
        look: Look,
        done: Done | None = None,
    ) -> InstanceMasks:
        """See ``pipeline.segmenter.Segmenter``."""
        arrays, computed = self._ask(embed.digest, image, embed, prompts, look)
        for key, seconds in computed:
            leave_out(seconds)
            if done is not None:
                done(key, seconds)
        return InstanceMasks.from_arrays(arrays)

    def _ask(self, about: str, *request: Any) -> Any:
        """A segmenter's answer ``about`` an image; where one is gone for good another's, which
        costs another embedding and changes nothing."""
        for left in reversed(range(DEATHS)):
            loan, segmenter = self._lent(about)
            gone = False
            try:
                return ray.get(segmenter.masks.remote(*request))
            except (RayActorError, ActorUnschedulableError):
                gone = True
                if not left:
                    raise
            finally:
                self.hub.give_back.remote(loan, gone)
        raise AssertionError("the last death is raised")

    def _lent(self, about: str) -> tuple[int, Any]:
        end = time.monotonic() + WAIT
        while time.monotonic() < end:
            found = ray.get(self.hub.lend.remote(self.model, about))
            if isinstance(found, Exception):
                raise found
            if found is not None:
                loan, segmenter = found
                return loan, segmenter
            time.sleep(POLL)
        raise NoSegmenter(f"no segmenter {self.model} for {WAIT:g} s")
