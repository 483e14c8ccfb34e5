"""The metrics as COIN's public evaluator computes them, its quirks kept, under names of their own.

Only for comparison with published tables; the metrics to trust are in ``evaluate``. The quirks:

- the smallest value of a map counts as background, even if it is an instance;
- AJI marks a chosen prediction by its id in a list ordered by position: with gaps in the ids other
  predictions count as unused, and an id above the number of predictions is an error, which sets AJI
  and PQ of the image to 0;
- PQ never looks at the last true instance, so a prediction that matches it is a false positive:
  PQ of a perfect prediction of n cells is (n - 1) / (n - 1/2); predictions are looked up by
  position;
- Dice is smoothed by one pixel, 2 when both are empty;
- IoU, FN and FP are means over background and foreground.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from coin_ray.metrics.contingency import Contingency, contingency

EPSILON = 1e-6
Common = dict[int, int]
"""Of a true instance: position of an overlapping prediction -> common pixels."""


def evaluate_official(
    true: NDArray[np.integer], predicted: NDArray[np.integer]
) -> dict[str, float]:
    """official_aji, _pq, _sq, _dq, _dice, _miou, _mfn, _mfp of two (H, W) label maps.

    Without true instances the public code stops; AJI, PQ, SQ and DQ are NaN then.
    """
    table = contingency(_first_value_dropped(true), _first_value_dropped(predicted))
    out = {f"official_{k}": v for k, v in _pixels(true > 0, predicted > 0).items()}
    if not len(table.true_areas):
        return dict.fromkeys(("official_aji", *_PQ), float("nan")) | out
    common: list[Common] = [{} for _ in table.true_areas]
    rows = (table.true_index, table.predicted_index, table.intersection)
    for g, q, pixels in zip(*(r.tolist() for r in rows), strict=True):
        common[g][q] = pixels
    try:
        aji, pq = _aji(table, common), _panoptic(table, common)
    except IndexError:  # the public code catches exactly this and goes on with 0
        return dict.fromkeys(("official_aji", *_PQ), 0.0) | out
    return {"official_aji": aji, **dict(zip(_PQ, pq, strict=True)), **out}


_PQ = ("official_pq", "official_sq", "official_dq")


def _first_value_dropped(labels: NDArray[np.integer]) -> NDArray[np.integer]:
    """A map without background loses its lowest instance to it."""
    lowest = labels.min() if labels.size else 0
    return np.where(labels == lowest, 0, labels) if lowest > 0 else labels


def _iou(table: Contingency, common: list[Common], g: int, q: int) -> float:
    both = common[g].get(q, 0)
    return both / (int(table.true_areas[g] + table.predicted_areas[q]) - both)


def _aji(table: Contingency, common: list[Common]) -> float:
    used = np.zeros(len(table.predicted_ids), dtype=bool)
    above = below = 0
    for g, (area, pairs) in enumerate(zip(table.true_areas.tolist(), common, strict=True)):
        below += area
        if pairs:
            best = max(pairs, key=lambda q: (_iou(table, common, g, q), -q))
            above += pairs[best]
            below += int(table.predicted_areas[best]) - pairs[best]
            used[table.predicted_ids[best] - 1] = True  # by id, not by position
    return above / (below + int(table.predicted_areas[~used].sum()))


def _panoptic(table: Contingency, common: list[Common]) -> tuple[float, float, float]:
    matched = 0
    total = 0.0
    evaluated = len(table.true_areas) - 1  # the last one is never reached
    partners: set[int] = set()
    for g in range(evaluated):
        for position in common[g]:
            looked_up = int(table.predicted_ids[position]) - 1
            if looked_up >= len(table.predicted_ids):
                raise IndexError(looked_up)
            iou = _iou(table, common, g, looked_up)
            if iou > 0.5:
                matched += 1
                total += iou
                partners.add(looked_up)
    fp, fn = len(table.predicted_ids) - len(partners), evaluated - matched
    dq = matched / (matched + fp / 2 + fn / 2 + EPSILON)
    sq = total / (matched + EPSILON)
    return dq * sq, sq, dq


def _pixels(true: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> dict[str, float]:
    both, size = int((true & predicted).sum()), int(true.sum()) + int(predicted.sum())
    rows = []
    for t, p in ((~true, ~predicted), (true, predicted)):
        hit, area_true, area_predicted = int((t & p).sum()), int(t.sum()), int(p.sum())
        union = area_true + area_predicted - hit
        if union:
            rows.append((hit / union, (area_true - hit) / union, (area_predicted - hit) / union))
    miou, mfn, mfp = np.mean(rows, axis=0) if rows else (float("nan"),) * 3
    dice = 2 * (both + 1) / (size + 1)
    return {"dice": dice, "miou": float(miou), "mfn": float(mfn), "mfp": float(mfp)}
