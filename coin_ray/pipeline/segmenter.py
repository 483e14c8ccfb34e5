"""Prompted masks with the image's embedding computed once: a bounded memory in front of the
store."""

from __future__ import annotations

import threading
from collections import OrderedDict
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from coin_ray.data.sample import Image
from coin_ray.labels import InstanceMasks
from coin_ray.precision import Precision, computing
from coin_ray.store.artifacts import Arrays, Artifact, Done, Store
from coin_ray.store.keys import Key

if TYPE_CHECKING:
    from coin_ray.confidence.segmenter import PromptSegmenter


class Segmenter(Protocol):
    """Redraws instances of a stored image from points; in process or in an actor."""

    def masks(
        self,
        image: Image,
        embed: Key,
        points: NDArray[np.float64],
        precision: Precision,
        done: Done | None = None,
    ) -> InstanceMasks:
        """Masks (N) of ``points`` (N, 2) yx; ``embed`` is the key of the image's embedding, which
        is made in the same ``precision``."""
        ...


class CachedSegmenter:
    """A promptable model, read when it is first asked, its last ``keep`` embeddings in memory and
    all of them in the store.

    Losing the process loses time, never data: the store is written before an embedding is used.
    """

    def __init__(
        self, model: str, store: Store, *, device: str, batch: int, keep: int = 16
    ) -> None:
        self._name, self.device, self._batch = model, device, batch
        self.store, self.keep = store, keep
        self._memory: OrderedDict[str, Arrays] = OrderedDict()
        self._lock = threading.Lock()

    @cached_property
    def model(self) -> PromptSegmenter:
        """UserError if its weights are missing."""
        from coin_ray.confidence.segmenter import load_segmenter

        return load_segmenter(self._name, device=self.device, batch=self._batch)

    def masks(
        self,
        image: Image,
        embed: Key,
        points: NDArray[np.float64],
        precision: Precision,
        done: Done | None = None,
    ) -> InstanceMasks:
        """See :class:`Segmenter`. ``image`` gives its pixels by ``load()``."""
        pixels = image.load()
        with self._lock:  # one image at a time
            return self._masks(pixels, embed, points, precision, done)

    def _masks(
        self,
        pixels: NDArray[np.uint8],
        embed: Key,
        points: NDArray[np.float64],
        precision: Precision,
        done: Done | None,
    ) -> InstanceMasks:
        if embed.digest not in self._memory:
            with computing(self.device, precision):
                artifact = self.store.get(embed, lambda: Artifact(self.model.encode(pixels)), done)
            self._memory[embed.digest] = artifact.arrays
            while len(self._memory) > self.keep:
                self._memory.popitem(last=False)
        self._memory.move_to_end(embed.digest)
        with computing(self.device, precision):
            return self.model.decode(self._memory[embed.digest], points, pixels.shape[:2])
