"""Which instances are trusted: the non-parametric threshold (COIN Eq. 7), acceptance (Eq. 8)."""

from __future__ import annotations

from math import ceil
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from coin_ray.labels import BoolArray

Rule = Literal["mean", "mean_plus_std", "cv", "fixed", "top_fraction"]
FALLBACK_SHARE = 0.05


def threshold(
    scores: NDArray[np.floating],
    *,
    rule: Rule = "mean_plus_std",
    value: float = 0.5,
    cap: float = 0.9,
) -> float:
    """The score that an accepted instance must exceed; finite for every N, 0 included.

    ``scores`` (N,) of one image, or of all images that share a threshold. ``mean``: their mean;
    ``mean_plus_std``: mean plus population standard deviation, as the public code and its README;
    ``cv``: standard deviation over mean, as the paper's supplement words it. These three are at
    most ``cap``, and equal to it without scores (``cv``: or with mean 0). ``fixed``: ``value``.
    ``top_fraction``: the best score that is not among the first ``value`` * N (rounded, at least
    one), so that at most those exceed it; just below the lowest score if all are wanted. ValueError
    for NaN, infinite scores or an unknown rule.
    """
    x = np.asarray(scores, dtype=np.float64).ravel()
    if not np.isfinite(x).all():
        raise ValueError("scores must be finite")
    if rule == "fixed":
        return float(value)
    if rule not in ("mean", "mean_plus_std", "cv", "top_fraction"):
        raise ValueError(f"unknown selection rule {rule!r}")
    if not len(x):
        return float(cap)
    if rule == "top_fraction":
        keep = max(1, round(value * len(x)))
        ranked = np.sort(x)[::-1]
        return float(ranked[keep] if keep < len(x) else np.nextafter(ranked[-1], -np.inf))
    if x.min() == x.max():  # rounding in the mean must not lift equal scores above it
        mean, std = float(x[0]), 0.0
    else:
        mean, std = float(x.mean()), float(x.std())
    if rule == "mean":
        return min(mean, cap)
    if rule == "mean_plus_std":
        return min(mean + std, cap)
    return min(std / mean, cap) if mean > 0 else float(cap)


def accept(
    scores: NDArray[np.floating],
    *,
    rule: Rule = "mean_plus_std",
    value: float = 0.5,
    cap: float = 0.9,
) -> BoolArray:
    """(N,) True where the score is strictly above :func:`threshold`; same arguments.

    If none is, the best 5 % (rounded up, so at least one; of equal scores the first) are taken
    instead, as a step without any label cannot train; a score of 0 is never accepted that way.
    """
    x = np.asarray(scores, dtype=np.float64).ravel()
    accepted = x > threshold(x, rule=rule, value=value, cap=cap)
    if not accepted.any():
        best = np.argsort(-x, kind="stable")[: ceil(FALLBACK_SHARE * len(x))]
        accepted[best[x[best] > 0]] = True
    return accepted
