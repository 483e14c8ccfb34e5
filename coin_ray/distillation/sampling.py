"""Which crop a step trains on: set by (seed, round, step, index), whatever the worker count."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from coin_ray.training.draws import Arrays, generator, stacked, torch_seed

# Separates the streams that share (seed, round): crops, image order, network noise.
_CROP, _ORDER, _TORCH = 0, 1, 2
Place = tuple[int, int]
"""The seed and the round."""


def crop_generator(place: Place, step: int, index: int) -> np.random.Generator:
    """Generator of one crop, ``index`` in the global batch."""
    return generator(_CROP, *place, step, index)


def image_index(place: Place, position: int, n_images: int) -> int:
    """Image of a round's ``position``-th crop: shuffled passes, so every image counts alike."""
    lap, index = divmod(position, n_images)
    return int(generator(_ORDER, *place, lap).permutation(n_images)[index])


def network_seed(place: Place, step: int, rank: int) -> int:
    """Seed of torch's generator (initial weights at step -1, dropout at a step)."""
    return torch_seed(_TORCH, *place, step + 1, rank)


def draw_batch(
    draw: Callable[[int, np.random.Generator], Arrays],
    n_images: int,
    place: Place,
    step: int,
    *,
    batch: int,
    share: Iterable[int],
    pool: ThreadPoolExecutor | None = None,
) -> Arrays:
    """The ``share`` (indices) of the global ``batch`` of a step, each array stacked along axis 0.

    ``draw(image index, generator)`` gives the arrays of one crop. The union over the workers is the
    same for every number of them; threads of ``pool`` change the speed only.
    """

    def one(index: int) -> Arrays:
        chosen = image_index(place, step * batch + index, n_images)
        return draw(chosen, crop_generator(place, step, index))

    return stacked(pool.map(one, share) if pool else map(one, share))
