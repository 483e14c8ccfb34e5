"""Which crop a step trains on: set by (seed, round, step, index), whatever the worker count."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

# Separates the streams that share (seed, round): crops, image order, network noise.
_CROP, _ORDER, _TORCH = 0, 1, 2
Arrays = tuple[NDArray, ...]


def crop_generator(seed: int, round_index: int, step: int, index: int) -> np.random.Generator:
    """Generator of one crop, ``index`` in the global batch."""
    return np.random.default_rng([_CROP, seed, round_index, step, index])


def image_index(seed: int, round_index: int, position: int, n_images: int) -> int:
    """Image of a round's ``position``-th crop: shuffled passes, so every image counts alike."""
    lap, place = divmod(position, n_images)
    order = np.random.default_rng([_ORDER, seed, round_index, lap]).permutation(n_images)
    return int(order[place])


def torch_seed(seed: int, round_index: int, step: int, rank: int) -> int:
    """Seed of torch's generator (initial weights at step -1, dropout at a step)."""
    state = np.random.SeedSequence([_TORCH, seed, round_index, step + 1, rank]).generate_state(1)
    return int(state[0])


def shard(batch: int, rank: int, world: int) -> range:
    """Indices in the global batch that worker ``rank`` of ``world`` draws."""
    return range(rank, batch, world)


def draw_batch(
    draw: Callable[[int, np.random.Generator], Arrays],
    n_images: int,
    *,
    seed: int,
    round_index: int,
    step: int,
    batch: int,
    rank: int = 0,
    world: int = 1,
    pool: ThreadPoolExecutor | None = None,
) -> Arrays:
    """This worker's share of the global batch of a step, each array stacked along a new axis 0.

    ``draw(image index, generator)`` gives the arrays of one crop. The union over the workers is the
    same for every ``world``; threads of ``pool`` change the speed only.
    """

    def one(index: int) -> Arrays:
        chosen = image_index(seed, round_index, step * batch + index, n_images)
        return draw(chosen, crop_generator(seed, round_index, step, index))

    indices = shard(batch, rank, world)
    crops = list(pool.map(one, indices) if pool else map(one, indices))
    return tuple(np.stack(arrays) for arrays in zip(*crops, strict=True))


def batches(
    draw_step: Callable[[int, ThreadPoolExecutor | None], Arrays], steps: int, workers: int
) -> Iterator[Arrays]:
    """The batches of a round in order; with ``workers`` threads the next one is drawn meanwhile."""
    if workers < 1:
        for step in range(steps):
            yield draw_step(step, None)
        return
    with ThreadPoolExecutor(1) as ahead, ThreadPoolExecutor(workers) as pool:
        upcoming = ahead.submit(draw_step, 0, pool)
        for step in range(steps):
            current = upcoming.result()
            if step + 1 < steps:
                upcoming = ahead.submit(draw_step, step + 1, pool)
            yield current
