"""Prompted masks with the image's embedding computed once: a bounded memory in front of the
store."""

from __future__ import annotations

import threading
from collections import OrderedDict
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from coin_ray.data.sample import Image
from coin_ray.labels import InstanceMasks
from coin_ray.precision import Precision, computing
from coin_ray.store.artifacts import Arrays, Artifact, Done, Store
from coin_ray.store.keys import Key

if TYPE_CHECKING:
    from coin_ray.confidence.prompts import Prompts
    from coin_ray.confidence.segmenter import PromptSegmenter


KEPT_BYTES = 1_000_000_000
"""Of embeddings in the memory of a segmenter: those of magnified windows are large."""


class Look(NamedTuple):
    """How a segmenter looks at an image: in which ``precision``, at windows of how many px (None:
    all at once), and from how many sides."""

    precision: Precision
    window: int | None = None
    views: int = 1


class Segmenter(Protocol):
    """Redraws instances of a stored image from prompts; in process or in an actor."""

    def masks(
        self,
        image: Image,
        embed: Key,
        prompts: Prompts,
        look: Look,
        done: Done | None = None,
    ) -> InstanceMasks:
        """Masks (N) of N ``prompts``; ``embed`` is the key of the image's embedding, which is made
        by the same ``look``."""
        ...


class CachedSegmenter:
    """A promptable model, read when it is first asked, its last ``keep`` embeddings in memory (no
    more than KEPT_BYTES of them, and always the last one) and all of them in the store.

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
        prompts: Prompts,
        look: Look,
        done: Done | None = None,
    ) -> InstanceMasks:
        """See :class:`Segmenter`. ``image`` gives its pixels by ``load()``."""
        pixels = image.load()
        with self._lock:  # one image at a time
            return self._masks(pixels, embed, prompts, look, done)

    def _masks(
        self,
        pixels: NDArray[np.uint8],
        embed: Key,
        prompts: Prompts,
        look: Look,
        done: Done | None,
    ) -> InstanceMasks:
        from coin_ray.confidence import windowed
        from coin_ray.confidence.views import seen_from

        model = seen_from(self.model, look.views)
        if embed.digest not in self._memory:
            with computing(self.device, look.precision):
                artifact = self.store.get(
                    embed,
                    lambda: Artifact(windowed.encode(model, pixels, look.window)),
                    done,
                )
            self._memory[embed.digest] = artifact.arrays
            while len(self._memory) > 1 and self._too_many():
                self._memory.popitem(last=False)
        self._memory.move_to_end(embed.digest)
        with computing(self.device, look.precision):
            seen = self._memory[embed.digest]
            return windowed.decode(model, seen, prompts, pixels.shape[:2])

    def _too_many(self) -> bool:
        held = sum(array.nbytes for arrays in self._memory.values() for array in arrays.values())
        return len(self._memory) > self.keep or held > KEPT_BYTES
