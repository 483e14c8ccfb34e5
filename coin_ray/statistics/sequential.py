"""Looks at a paired difference while seeds still come: bounds, how alpha is spent over looks, and
whether going on can still decide anything.

A difference has two sources of chance, the images and the random seeds, and one training is behind
the values of all images. Both variances are added, and the smaller number of the two gives the
degrees of freedom: what they share is counted twice, so that errors are rarer than stated (the
tests show how rare).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Look:
    """The ``mean`` over images of the mean difference over seeds, with what ``images`` and
    ``seeds`` contribute to the variance of that mean (``by_image``, ``by_seed``)."""

    mean: float
    by_image: float
    by_seed: float
    images: int
    seeds: int

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        return math.sqrt(self.by_image + self.by_seed)

    @property
    def freedom(self) -> int:
        """Degrees of freedom."""
        return min(self.images, self.seeds) - 1


def look(difference: NDArray[np.float64]) -> Look | None:
    """A look at (images, seeds) paired differences, NaN where there is no pair. None for fewer than
    two images or two seeds, of which nothing is known."""
    paired = ~np.isnan(difference)
    rows, columns = paired.any(axis=1), paired.any(axis=0)
    if rows.sum() < 2 or columns.sum() < 2:
        return None
    table = difference[np.ix_(rows, columns)]
    by_image, by_seed = np.nanmean(table, axis=1), np.nanmean(table, axis=0)
    return Look(
        float(by_image.mean()),
        float(by_image.var(ddof=1) / len(by_image)),
        float(by_seed.var(ddof=1) / len(by_seed)),
        len(by_image),
        len(by_seed),
    )


def bounds(found: Look, alpha: float) -> tuple[float, float]:
    """One-sided bounds of the mean, each of which is wrong with probability ``alpha`` at most."""
    half = _critical(found.freedom, alpha) * found.error
    return found.mean - half, found.mean + half


def p_below(found: Look) -> float:
    """One-sided p of the hypothesis that the difference is not below 0."""
    from scipy.special import stdtr

    if found.error == 0:
        return 0.0 if found.mean < 0 else 1.0
    return float(stdtr(found.freedom, found.mean / found.error))


def spent(alpha: float, look_number: int, looks: int) -> float:
    """The share of ``alpha`` that look 1 .. ``looks`` may spend: what the power family of Kim and
    DeMets (1987, doi 10.1093/biomet/74.1.149) with exponent 2 adds there, little at first, where
    two seeds decide nothing. The shares sum to ``alpha``, so that by Boole's inequality an error at
    any look is at most as likely, however the looks depend on each other."""
    return alpha * (2 * look_number - 1) / looks**2


def conditional_power(found: Look, seeds: int, worth: float, alpha: float) -> float:
    """Probability that the lower bound is above 0 after so many ``seeds``, of what has been seen
    and if the seeds to come show the difference seen so far or ``worth``, whichever is larger: low
    even so, it is futile to go on (stochastic curtailment, Lan, Simon and Halperin 1982, doi
    10.1080/07474948208836014). The spread between seeds is known as well as the seeds so far tell:
    Student's t with their degrees of freedom."""
    from scipy.special import stdtr

    to_come = seeds - found.seeds
    one_seed = found.by_seed * found.seeds
    error = math.sqrt(found.by_image + one_seed / seeds)
    needed = _critical(min(found.images, seeds) - 1, alpha) * error
    expected = (found.seeds * found.mean + to_come * max(found.mean, worth)) / seeds
    spread = math.sqrt(max(0, to_come) * one_seed) / seeds
    if spread == 0:
        return float(expected > needed)
    return float(stdtr(found.seeds - 1, (expected - needed) / spread))


@functools.lru_cache(maxsize=1024)
def _critical(freedom: int, alpha: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 1 - alpha))
