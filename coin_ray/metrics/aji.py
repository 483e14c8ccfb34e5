"""Aggregated Jaccard index: Kumar et al., TMI 2017 (AJI), and its one-to-one form (AJI+)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from coin_ray.metrics.contingency import Contingency


def aji(table: Contingency) -> float:
    """AJI in [0, 1]; NaN if both maps are empty.

    Every true instance takes the overlapping prediction of largest Jaccard index (the lower id on a
    tie); several may take the same one. Predictions that nobody took add their area below.

    >>> from coin_ray.metrics.contingency import contingency
    >>> true, merged = np.array([[1, 1, 2, 2]]), np.array([[1, 1, 1, 1]])
    >>> aji(contingency(true, merged)), round(aji_plus(contingency(true, merged)), 3)
    (0.5, 0.333)
    """
    if table.empty:
        return float("nan")
    order = np.lexsort((table.predicted_index, -table.jaccard, table.true_index))
    _, first = np.unique(table.true_index[order], return_index=True)
    return _aggregate(table, order[first])


def aji_plus(table: Contingency) -> float:
    """AJI+ in [0, 1]; NaN if both maps are empty.

    One prediction an instance at most, the assignment of largest summed Jaccard index; unmatched
    instances of both sides add their area below.
    """
    if table.empty:
        return float("nan")
    return _aggregate(table, assign(table))


def _aggregate(table: Contingency, pairs: NDArray[np.int64]) -> float:
    missed = np.setdiff1d(np.arange(len(table.true_areas)), table.true_index[pairs])
    unused = np.setdiff1d(np.arange(len(table.predicted_areas)), table.predicted_index[pairs])
    below = (
        table.union[pairs].sum()
        + table.true_areas[missed].sum()
        + table.predicted_areas[unused].sum()
    )
    return float(table.intersection[pairs].sum() / below)


def assign(table: Contingency) -> NDArray[np.int64]:
    """Indices into the pairs of the one-to-one assignment with the largest summed Jaccard index.

    Overlaps are local, so the Hungarian algorithm runs on each connected component of the overlap
    graph instead of on the N x M matrix.
    """
    from scipy.optimize import linear_sum_assignment

    rows, columns, jaccard = table.true_index, table.predicted_index, table.jaccard
    if not len(rows):
        return np.zeros(0, dtype=np.int64)
    component = components(rows, columns, len(table.true_areas), len(table.predicted_areas))[rows]
    order = np.argsort(component, kind="stable")
    starts = np.flatnonzero(np.diff(component[order], prepend=-1))
    chosen = []
    for members in np.split(order, starts[1:]):
        if len(members) == 1:
            chosen.append(members)
            continue
        i, row = np.unique(rows[members], return_inverse=True)
        j, column = np.unique(columns[members], return_inverse=True)
        gain = np.zeros((len(i), len(j)))
        pair = np.full(gain.shape, -1)
        gain[row, column], pair[row, column] = jaccard[members], members
        picked = pair[linear_sum_assignment(gain, maximize=True)]
        chosen.append(picked[picked >= 0])  # -1: assigned without any overlap
    return np.sort(np.concatenate(chosen))


def components(
    rows: NDArray[np.integer], columns: NDArray[np.integer], n: int, m: int
) -> NDArray[np.int32]:
    """(n + m,) connected component of n rows and, behind them, m columns, joined by pairs."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(rows)), (rows, columns + n)), shape=(n + m, n + m))
    return connected_components(graph, directed=False)[1]
