"""Every metric of one image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from coin_ray.metrics.adjacency import split_metrics
from coin_ray.metrics.aji import aji, aji_plus
from coin_ray.metrics.contingency import contingency
from coin_ray.metrics.official import evaluate_official
from coin_ray.metrics.panoptic import panoptic
from coin_ray.metrics.semantic import semantic
from coin_ray.metrics.settings import Evaluate


def evaluate(
    true: NDArray[np.integer],
    predicted: NDArray[np.integer],
    settings: Evaluate,
    *,
    official: bool = True,
) -> dict[str, float]:
    """All metrics of two (H, W) label maps: 0 = background, any ids, any integer types.

    aji, aji_plus, pq, sq, dq, dice, iou (foreground), miou, fn, fp (shares of the foreground
    union), n_true, n_predicted. An image empty in truth and prediction is skipped: its metrics are
    NaN, and every mean over images leaves NaN out. ``official`` adds what the public evaluator
    prints (``official_*``, Dice 2 for such an image); an ``adjacency_radius`` (px) adds the split
    into adjacent and lone cells.

    Raises:
        UserError: maps of different shapes, or maps that are no label maps.

    >>> from coin_ray.metrics.settings import Evaluate
    >>> true = np.array([[1, 1, 0, 2], [1, 1, 0, 2]])
    >>> predicted = np.array([[1, 1, 0, 0], [1, 0, 0, 0]])  # 3 of 4 pixels, and one cell missed
    >>> found = evaluate(true, predicted, Evaluate())
    >>> found["aji"], found["sq"], round(found["pq"], 3), found["n_true"]
    (0.5, 0.75, 0.5, 2.0)
    """
    table = contingency(true, predicted)
    out = {
        "aji": aji(table),
        "aji_plus": aji_plus(table),
        **panoptic(table)._asdict(),
        **semantic(table),
        "n_true": float(len(table.true_areas)),
        "n_predicted": float(len(table.predicted_areas)),
    }
    if official:
        out |= evaluate_official(true, predicted)
    if settings.adjacency_radius is not None:
        out |= split_metrics(
            true,
            predicted,
            radius=settings.adjacency_radius,
            least=settings.adjacency_neighbours,
            miou=settings.adjacency_miou,
        )
    return out
