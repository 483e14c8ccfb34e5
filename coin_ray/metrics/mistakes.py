"""Which instances a prediction gets wrong, and how."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coin_ray.metrics.contingency import Contingency
from coin_ray.metrics.panoptic import matches

SEEN = 0.25
"""Share of an instance below which what overlaps it most has hardly met it."""
CAUSES = ("missed", "merged", "split", "outline", "false")


@dataclass(frozen=True)
class Errors:
    """Ids of the true instances that no prediction matches and of the predictions that match none,
    as DQ and PQ count them; ``causes``: how many of each of ``CAUSES`` there are."""

    false_negative: NDArray[np.int64]
    false_positive: NDArray[np.int64]
    causes: dict[str, int]


def errors(table: Contingency) -> Errors:
    """What is wrong, each unmatched instance under one cause, the first that applies: a nucleus is
    ``merged`` if one prediction covers most of it and of another, ``split`` if two predictions or
    more lie mostly in it, ``missed`` if none covers a quarter of it, else its ``outline`` is wrong.
    A prediction that no nucleus covers a quarter of is ``false``; the others are seen from the
    nucleus' side.
    """
    rows, columns, matched = table.true_index, table.predicted_index, matches(table)
    n, m = len(table.true_areas), len(table.predicted_areas)
    lost, wrong = (_without(size, index[matched]) for size, index in ((n, rows), (m, columns)))
    covered = table.intersection / table.true_areas[rows]
    inside = table.intersection / table.predicted_areas[columns]
    most = covered > 0.5
    several = np.bincount(columns[most], minlength=m) > 1
    merged = lost & (np.bincount(rows[most & several[columns]], minlength=n) > 0)
    split = lost & ~merged & (np.bincount(rows[inside > 0.5], minlength=n) > 1)
    seen = np.bincount(rows[covered >= SEEN], minlength=n) > 0
    missed = lost & ~merged & ~split & ~seen
    outline = lost & ~merged & ~split & seen
    false = wrong & (np.bincount(columns[inside >= SEEN], minlength=m) == 0)
    found = (missed, merged, split, outline, false)
    causes = {name: int(which.sum()) for name, which in zip(CAUSES, found, strict=True)}
    return Errors(table.true_ids[lost], table.predicted_ids[wrong], causes)


def _without(size: int, taken: NDArray[np.int64]) -> NDArray[np.bool_]:
    left = np.ones(size, dtype=bool)
    left[taken] = False
    return left
