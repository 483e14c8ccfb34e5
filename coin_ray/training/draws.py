"""Random numbers that say where they belong: whatever a step draws is set by (seed, step, index).

So data order and augmentation are no state: they are the same however the work is shared, and after
a training was interrupted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Arrays = tuple[NDArray[Any], ...]


def generator(*numbers: int) -> np.random.Generator:
    """The random numbers of a place: a seed, a step, an item of it ..."""
    return np.random.default_rng(numbers)


def torch_seed(*numbers: int) -> int:
    """A seed for torch's generators from those of a place."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


@contextlib.contextmanager
def seeded(device: str, seed: int) -> Iterator[None]:
    """torch's global generators from ``seed`` on, given back as they were."""
    devices = [device] if device.startswith("cuda") else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def stacked(items: Iterable[Arrays]) -> Arrays:
    """The arrays of several items as one batch, along a new axis 0."""
    return tuple(np.stack(arrays) for arrays in zip(*items, strict=True))
