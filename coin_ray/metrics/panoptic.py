"""Panoptic quality of one class (Kirillov et al., CVPR 2019): PQ = DQ x SQ."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from coin_ray.metrics.aji import assign
from coin_ray.metrics.contingency import Contingency


class Panoptic(NamedTuple):
    """``pq``, ``sq``, ``dq`` in [0, 1] (NaN if both maps are empty) and the counts behind them."""

    pq: float
    sq: float
    dq: float
    true_positives: int
    false_positives: int
    false_negatives: int


def panoptic(table: Contingency, *, threshold: float = 0.5, inclusive: bool = False) -> Panoptic:
    """DQ = TP / (TP + FP/2 + FN/2), SQ = mean Jaccard index of the matches (0 without any).

    A pair matches above ``threshold`` (``inclusive``: from it on). Strictly above 0.5 the matches
    are one-to-one by themselves; else the assignment of largest summed Jaccard index is used.
    """
    n, m = len(table.true_areas), len(table.predicted_areas)
    if table.empty:
        return Panoptic(float("nan"), float("nan"), float("nan"), 0, 0, 0)
    # intersection against threshold x union: exact at 0.5, where a rounded quotient need not be
    intersection, bound = table.intersection.astype(np.float64), threshold * table.union
    keep = intersection >= bound if inclusive else intersection > bound
    matched = np.flatnonzero(keep) if threshold >= 0.5 and not inclusive else assign(table, keep)
    tp = len(matched)
    total = float(table.jaccard[matched].sum())
    dq = tp / (tp + (m - tp) / 2 + (n - tp) / 2)
    sq = total / tp if tp else 0.0
    return Panoptic(dq * sq, sq, dq, tp, m - tp, n - tp)
