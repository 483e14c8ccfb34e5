"""Metrics of adjacent and of lone cells apart (supplement of COIN, C.4 and Fig. 13).

The supplement dilates the cells' edges and calls a cell adjacent that is connected to two or more
others, and not adjacent one that is connected to none; it gives neither the radius nor the rule for
predictions. Ours: two cells are connected whose masks touch (8-connected) once both are dilated by
``radius`` (a square); adjacent is who has at least ``neighbours`` of them. With two, as the
supplement has it, cells with exactly one belong to neither part. A part is evaluated with its own
truth, without the predictions that belong to other cells, and without the pixels of their truth.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from coin_ray.labels import LabelMap, relabel
from coin_ray.metrics.aji import aji
from coin_ray.metrics.contingency import check_maps, contingency
from coin_ray.metrics.semantic import semantic
from coin_ray.metrics.settings import Neighbours


def neighbours(true: LabelMap, *, radius: int) -> NDArray[np.int64]:
    """(N,) how many other instances each of 1..N of a contiguous (H, W) map is connected to.

    ``radius`` in px, >= 0; at 0 only cells that touch are connected.
    """
    from scipy.ndimage import find_objects, maximum_filter

    reach = 2 * radius + 1
    found = np.zeros(int(true.max(initial=0)), dtype=np.int64)
    for i, (y, x) in enumerate(find_objects(true)):
        crop = true[
            max(0, y.start - reach) : y.stop + reach, max(0, x.start - reach) : x.stop + reach
        ]
        near = maximum_filter(crop == i + 1, size=2 * reach + 1, mode="constant")
        found[i] = len(np.setdiff1d(crop[near], (0, i + 1)))
    return found


def split_metrics(
    true: NDArray[np.integer],
    predicted: NDArray[np.integer],
    *,
    radius: int,
    least: Neighbours = 1,
    miou: bool = False,
) -> dict[str, float]:
    """AJI and foreground IoU, FN, FP of each part: adj_aji, adj_iou, ..., nonadj_fp; n_adjacent.

    Adjacent cells have ``least`` neighbours or more, lone ones none; of those in between there are
    ``n_one_neighbour``. A prediction belongs to the true instance it overlaps most (the lower id on
    a tie) and is left out of the other part; one that overlaps none counts as wrong in both. A part
    without truth is NaN. ``miou`` adds the mean over nuclei and background (adj_miou, nonadj_miou).
    """
    check_maps(true, predicted)
    true, predicted = relabel(true), relabel(predicted)
    connected = neighbours(true, radius=radius)
    parts = {"adj": connected >= least, "nonadj": connected == 0}
    table = contingency(true, predicted)
    owner = np.full(len(table.predicted_areas), -1)
    order = np.lexsort((-table.true_index, table.intersection))  # the last write wins
    owner[table.predicted_index[order]] = table.true_index[order]
    out = {"n_adjacent": float(parts["adj"].sum())}
    if least > 1:
        out["n_one_neighbour"] = float((connected == 1).sum())
    measured = ("iou", "fn", "fp", *["miou"] * miou)
    for name, members in parts.items():
        if not members.any():
            out |= dict.fromkeys((f"{name}_{m}" for m in ("aji", *measured)), float("nan"))
            continue
        foreign = np.concatenate([[False], ~members])[true]
        kept = np.concatenate([[False], (owner < 0) | members[owner]])
        part = contingency(
            np.where(foreign, 0, true), np.where(foreign | ~kept[predicted], 0, predicted)
        )
        out[f"{name}_aji"] = aji(part)
        # Pixels of other cells' truth are no background that could be right or wrong.
        own = semantic(replace(part, pixels=part.pixels - int(foreign.sum())))
        out |= {f"{name}_{k}": own[k] for k in measured}
    return out
