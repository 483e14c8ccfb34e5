"""How far an objective can be trusted: its rank correlation with a metric, and what a number of
trials is expected to find."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from coin_ray.statistics.intervals import CONFIDENCE, DRAWS, interval


@dataclass(frozen=True)
class Correlation:
    """Spearman's ``rho`` of ``count`` pairs with its bootstrap interval."""

    rho: float
    low: float
    high: float
    count: int


def spearman(
    x: ArrayLike,
    y: ArrayLike,
    *,
    draws: int = DRAWS,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Correlation | None:
    """Spearman's rank correlation of (n,) pairs, tied values sharing their mean rank.

    Percentile interval over resampled pairs; resamples in which a side does not vary have no
    correlation and are left out. None for fewer than three pairs, or where a side does not vary.
    """
    pairs = np.array([np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)])
    count = pairs.shape[1]
    if count < 3 or (pairs == pairs[:, :1]).all(axis=1).any():
        return None
    drawn = np.random.default_rng(seed).integers(0, count, size=(draws, count))
    low, high = interval(_rho(pairs[0][drawn], pairs[1][drawn]), confidence)
    return Correlation(float(_rho(pairs[:1], pairs[1:])[0]), low, high, count)


def expected_best(values: ArrayLike, mode: Literal["max", "min"] = "max") -> NDArray[np.float64]:
    """(n,) expected best of 1 .. n trials, drawn without replacement from (n,) ``values``.

    Exact: the k-subsets whose best is the i-th smallest value are C(i-1, k-1) of C(n, k). Two
    searches are compared at the same number of trials.
    """
    sign = 1 if mode == "max" else -1
    ranked = np.sort(sign * np.asarray(values, dtype=np.float64))[::-1]
    n = len(ranked)
    out = np.empty(n)
    place = np.arange(n, 1, -1)
    for k in range(1, n + 1):
        # From the best down: k / n, and each next one (i - k) / (i - 1) of the one before.
        weights = k / n * np.cumprod([1.0, *np.maximum(place - k, 0) / (place - 1)])
        out[k - 1] = weights @ ranked
    return sign * out


def _rho(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """(draws,) rank correlations of the rows of (draws, n); NaN where a row does not vary."""
    from scipy.stats import rankdata

    a, b = (rankdata(side, axis=1) - (side.shape[1] + 1) / 2 for side in (x, y))
    scale = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    return np.divide((a * b).sum(axis=1), scale, out=scale * np.nan, where=scale > 0)
