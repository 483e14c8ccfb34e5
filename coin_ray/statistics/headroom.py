"""How much of what a level lacks a ceiling gains."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coin_ray.statistics.intervals import CONFIDENCE, DRAWS, interval, resample, weighted_mean
from coin_ray.statistics.paired import Comparison, compare


@dataclass(frozen=True)
class Headroom:
    """``gain``: ceiling - level over the same images and random seeds; ``share``: the gain over
    what the level lacks to 1, of the means, with its interval (None for one image); below 0 where
    the ceiling is worse. ``share`` is None for a level that lacks nothing."""

    gain: Comparison
    share: float | None
    low: float | None
    high: float | None


def headroom(
    ceiling: NDArray[np.float64],
    level: NDArray[np.float64],
    *,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Headroom | None:
    """Compare two ``aligned`` arrays (images, seeds) of a metric that is 1 at best; None where they
    share no image and seed.

    The interval of the share is that of a ratio of means: numerator and denominator are drawn
    together, images with replacement and random seeds for all images at once (``resample``).
    """
    found = compare(ceiling, level, confidence=confidence)
    if found is None:
        return None
    lacks = 1 - found.baseline_mean
    if lacks <= 0:
        return Headroom(found, None, None, None)
    difference = ceiling - level
    rows = ~np.isnan(difference).all(axis=1)
    gains, gaps = difference[rows], np.where(np.isnan(difference), np.nan, 1 - level)[rows]
    low = high = None
    if len(gains) > 1:
        means = [
            weighted_mean(*resample(table, DRAWS, np.random.default_rng(seed)))
            for table in (gains, gaps)
        ]
        with np.errstate(divide="ignore", invalid="ignore"):
            low, high = interval(np.where(means[1] > 0, means[0] / means[1], np.nan), confidence)
    return Headroom(found, found.delta.mean / lacks, low, high)
