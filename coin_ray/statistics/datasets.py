"""Levels across data sets, each of which weighs the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from coin_ray.statistics.intervals import (
    CONFIDENCE,
    DRAWS,
    interval,
    resample,
    weighted_mean,
)

ENOUGH = 5
"""Data sets from which on ranks are tested."""

Statistic = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]
"""(draws, images) values and weights -> (draws,)."""


@dataclass(frozen=True)
class Ranks:
    """``average`` rank of each level over data sets, 1 = best; ``p`` of the Friedman test (None for
    two levels) and Nemenyi's ``critical_difference`` of two average ranks."""

    average: NDArray[np.float64]
    p: float | None
    critical_difference: float


def stratified(
    tables: Sequence[NDArray[np.float64]],
    statistic: Statistic,
    *,
    draws: int = DRAWS,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Value and percentile interval of a ``statistic`` over data sets (stratified bootstrap).

    ``tables`` hold (images, seeds) of each data set, NaN where there is none and at least one value
    an image. Images and seeds are resampled within each data set; images are weighted so that
    every data set weighs 1.
    """
    rng = np.random.default_rng(seed)
    own = [np.nanmean(table, axis=1)[None] for table in tables]
    drawn = [resample(table, draws, rng) for table in tables]
    weights = [_normalised(weights) for _, weights in drawn]
    resampled = statistic(
        np.concatenate([values for values, _ in drawn], axis=1), np.concatenate(weights, axis=1)
    )
    equal = np.concatenate([np.full_like(values, 1 / values.size) for values in own], axis=1)
    value = statistic(np.concatenate(own, axis=1), equal)
    return float(value[0]), *interval(resampled, confidence)


def interquartile_mean(
    values: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(draws,) weighted mean of the middle half of the weight of (draws, images): outliers do not
    move it as they move the mean, and it is less coarse than the median (Agarwal et al. 2021)."""
    order = np.argsort(values, axis=1)
    ranked = np.take_along_axis(values, order, axis=1)
    mass = np.take_along_axis(weights, order, axis=1)
    end = mass.cumsum(axis=1) / mass.sum(axis=1, keepdims=True)
    start = end - mass / mass.sum(axis=1, keepdims=True)
    middle = np.clip(np.minimum(end, 0.75) - np.maximum(start, 0.25), 0, None)
    return weighted_mean(ranked, middle)


def improvement(
    differences: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(draws,) weighted share of the (draws, images) differences above 0, ties half."""
    return weighted_mean((np.sign(differences) + 1) / 2, weights)


def ranks(
    scores: NDArray[np.float64], *, mode: Literal["max", "min"] = "max", alpha: float = 0.05
) -> Ranks:
    """Ranks of (data sets, levels) scores, compared with Friedman's test; two average ranks that
    differ by less than the critical difference are not told apart (Demsar 2006).

    Raises:
        ValueError: fewer than ``ENOUGH`` data sets, one level, or a missing score.
    """
    from scipy.stats import friedmanchisquare, rankdata, studentized_range

    sets, levels = scores.shape
    if sets < ENOUGH or levels < 2 or np.isnan(scores).any():
        raise ValueError(f"ranks need {ENOUGH} data sets and two levels without a missing score")
    ranked = rankdata(-scores if mode == "max" else scores, axis=1)
    tied = (ranked == ranked[0, 0]).all()
    p = None if levels < 3 else 1.0 if tied else float(friedmanchisquare(*scores.T).pvalue)
    quantile = float(studentized_range.ppf(1 - alpha, levels, np.inf)) / math.sqrt(2)
    return Ranks(ranked.mean(axis=0), p, quantile * math.sqrt(levels * (levels + 1) / (6 * sets)))


def _normalised(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    return weights / np.maximum(weights.sum(axis=1, keepdims=True), 1)
