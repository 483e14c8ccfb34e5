"""Panoptic quality of one class (Kirillov et al., CVPR 2019): PQ = DQ x SQ."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from coin_ray.metrics.contingency import Contingency


class Panoptic(NamedTuple):
    """``pq``, ``sq``, ``dq`` in [0, 1]; NaN if both maps are empty."""

    pq: float
    sq: float
    dq: float


def matches(table: Contingency) -> NDArray[np.bool_]:
    """(K,) True for the pairs that match: above 0.5, so that they are one-to-one by themselves."""
    return 2 * table.intersection > table.union  # exact, unlike the quotient


def panoptic(table: Contingency) -> Panoptic:
    """DQ = TP / (TP + FP/2 + FN/2), SQ = mean Jaccard index of the matches (0 without any).

    >>> import numpy as np
    >>> from coin_ray.metrics.contingency import contingency
    >>> true, predicted = np.array([[1, 1, 1, 0, 2, 2]]), np.array([[1, 1, 0, 0, 0, 3]])
    >>> quality = panoptic(contingency(true, predicted))  # overlaps of 2/3 and of 1/2
    >>> quality.dq, round(quality.sq, 3), round(quality.pq, 3)
    (0.5, 0.667, 0.333)
    """
    if table.empty:
        return Panoptic(float("nan"), float("nan"), float("nan"))
    found = table.jaccard[matches(table)]
    dq = 2 * len(found) / (len(table.true_areas) + len(table.predicted_areas))
    sq = float(found.sum()) / len(found) if len(found) else 0.0
    return Panoptic(dq * sq, sq, dq)
