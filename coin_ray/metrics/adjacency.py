"""Metrics of adjacent and of lone cells apart (supplement of COIN, C.4 and Fig. 13).

The supplement dilates the cells, labels connected components and calls a cell adjacent whose
component holds others; it gives neither radius nor the rule for predictions. Ours: masks dilated by
``radius`` (a square, 8-connected), components of two cells or more; report the radius with the
numbers. A part is evaluated with its own truth, without the predictions that belong to the other
part, and without the pixels of the other part's truth.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from coin_ray.labels import LabelMap, relabel
from coin_ray.metrics.aji import aji, components
from coin_ray.metrics.contingency import check_maps, contingency
from coin_ray.metrics.semantic import semantic


def adjacent_cells(true: LabelMap, *, radius: int) -> NDArray[np.bool_]:
    """(N,) True for the instances 1..N of a contiguous (H, W) map whose component holds another.

    ``radius`` in px, >= 0; at 0 only cells that touch (8-connected) are adjacent.
    """
    from scipy.ndimage import binary_dilation, label

    n = int(true.max(initial=0))
    foreground = true > 0
    square = np.ones((3, 3), dtype=bool)
    if radius > 0 and n:
        foreground = binary_dilation(foreground, square, iterations=radius)
    parts, m = label(foreground, structure=square)
    inside = true > 0
    # A cell drawn in pieces joins the components of its pieces, hence the graph.
    group = components(true[inside] - 1, parts[inside] - 1, n, m)
    return np.bincount(group[:n], minlength=1)[group[:n]] >= 2


def split_metrics(
    true: NDArray[np.integer], predicted: NDArray[np.integer], *, radius: int
) -> dict[str, float]:
    """AJI and foreground IoU, FN, FP of each part: adj_aji, adj_iou, ..., nonadj_fp; n_adjacent.

    A prediction belongs to the true instance it overlaps most (the lower id on a tie) and is left
    out of the other part; one that overlaps none counts as wrong in both. A part without truth is
    NaN.
    """
    check_maps(true, predicted)
    true, predicted = relabel(true), relabel(predicted)
    adjacent = adjacent_cells(true, radius=radius)
    table = contingency(true, predicted)
    owner = np.full(len(table.predicted_areas), -1)
    order = np.lexsort((-table.true_index, table.intersection))  # the last write wins
    owner[table.predicted_index[order]] = table.true_index[order]
    out = {"n_adjacent": float(adjacent.sum())}
    for name, members in (("adj", adjacent), ("nonadj", ~adjacent)):
        if not members.any():
            out |= dict.fromkeys((f"{name}_{m}" for m in ("aji", "iou", "fn", "fp")), float("nan"))
            continue
        foreign = np.concatenate([[False], ~members])[true]
        kept = np.concatenate([[False], (owner < 0) | members[owner]])
        part = contingency(
            np.where(foreign, 0, true), np.where(foreign | ~kept[predicted], 0, predicted)
        )
        out[f"{name}_aji"] = aji(part)
        out |= {f"{name}_{k}": v for k, v in semantic(part).items() if k in ("iou", "fn", "fp")}
    return out
