"""Which levels of a race are surely worse than another one, after each random seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from coin_ray.statistics.sequential import look, p_below, spent


@dataclass(frozen=True)
class Loss:
    """A level's largest loss against a ``rival``: mean ``difference`` and its one-sided p, which is
    at most the ``limit`` of this look."""

    rival: str
    difference: float
    p: float
    limit: float


def losers(
    tables: Mapping[str, NDArray[np.float64]],
    *,
    levels: int,
    look_number: int,
    looks: int,
    alpha: float,
    mode: Literal["max", "min"] = "max",
) -> dict[str, Loss]:
    """The levels that are surely worse than one of the others at look 1 .. ``looks`` of a race of
    so many ``levels``; ``tables`` (images, seeds) are ``aligned``.

    The best level is lost over the whole race with probability ``alpha`` at most: its comparisons
    with the levels - 1 others share out what is spent at each look. That holds for every level that
    is no worse than any other.
    """
    limit = spent(alpha, look_number, looks) / max(1, levels - 1)
    sign = 1 if mode == "max" else -1
    found: dict[str, Loss] = {}
    for level, own in tables.items():
        for rival, other in tables.items():
            seen = look(sign * (own - other)) if rival != level else None
            if seen is None or seen.mean >= 0:
                continue
            p = p_below(seen)
            if p <= limit and (level not in found or p < found[level].p):
                found[level] = Loss(rival, sign * seen.mean, p, limit)
    return found
