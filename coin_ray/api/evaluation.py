"""Metrics of label maps in memory."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def evaluate(prediction: NDArray[np.integer], truth: NDArray[np.integer]) -> dict[str, float]:
    """Every metric of a predicted label map (H, W) against the true one: 0 is background, any ids,
    any integer types. aji, aji_plus, pq, sq, dq, dice, iou (foreground), miou, fn, fp (shares of
    the foreground union), n_true, n_predicted; NaN where both maps are empty.

    >>> import coin_ray, numpy as np
    >>> truth = np.zeros((8, 8), np.int32)
    >>> truth[1:4, 1:4], truth[5:8, 5:8] = 1, 2
    >>> prediction = np.where(truth == 1, 7, 0)
    >>> found = coin_ray.evaluate(prediction, truth)
    >>> found["aji"], found["dice"], found["n_predicted"]
    (0.5, 0.6666666666666666, 1.0)

    Raises:
        UserError: maps of different shapes, or maps that are no label maps.
    """
    from coin_ray.metrics.evaluate import evaluate as compare
    from coin_ray.metrics.settings import Evaluate

    truth, prediction = np.asarray(truth), np.asarray(prediction)
    return compare(truth, prediction, Evaluate(adjacency_radius=None), official=False)
