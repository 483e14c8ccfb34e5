"""Which instances are trusted: the non-parametric threshold (COIN Eq. 7), acceptance (Eq. 8) and
sanity checks of the segmenter's masks."""

from __future__ import annotations

from math import ceil

import numpy as np
from numpy.typing import NDArray

from coin_ray.confidence.settings import Select
from coin_ray.labels import BoolArray, InstanceMasks

FALLBACK_SHARE = 0.05


def threshold(scores: NDArray[np.floating], select: Select) -> float:
    """The score that an accepted instance must exceed; finite for every N, 0 included.

    ``scores`` (N,) of one image, or of all images that share a threshold. The rules are ``mean``:
    their mean; ``mean_plus_std``: mean plus population standard deviation, as the public code and
    its README; ``cv``: standard deviation over mean, as the paper's supplement words it; ``otsu``:
    the best score of the lower class where two classes differ most (Otsu 1979, on the scores
    themselves; that score itself if all are equal). These four are at most ``cap``, and equal to it
    without scores (``cv``: or with mean 0). ``fixed``: ``value``.
    ``top_fraction``: the best score that is not among the first ``value`` * N (rounded, at least
    one), so that at most those exceed it; just below the lowest score if all are wanted. ValueError
    for NaN and infinite scores.

    >>> from coin_ray.confidence.settings import Select
    >>> scores = np.array([0.2, 0.4, 0.6])
    >>> round(threshold(scores, Select()), 3), threshold(scores, Select(cap=0.5))
    (0.563, 0.5)
    """
    x = np.asarray(scores, dtype=np.float64).ravel()
    if not np.isfinite(x).all():
        raise ValueError("scores must be finite")
    rule, value, cap = select.rule, select.value, float(select.cap)
    if rule == "fixed":
        return float(value)
    if not len(x):
        return cap
    if rule == "top_fraction":
        keep = max(1, round(value * len(x)))
        ranked = np.sort(x)[::-1]
        return float(ranked[keep] if keep < len(x) else np.nextafter(ranked[-1], -np.inf))
    if x.min() == x.max():  # rounding in the mean must not lift equal scores above it
        mean, std = float(x[0]), 0.0
    else:
        mean, std = float(x.mean()), float(x.std())
    if rule == "otsu":
        return min(_otsu(x), cap)
    if rule == "mean":
        return min(mean, cap)
    if rule == "mean_plus_std":
        return min(mean + std, cap)
    return min(std / mean, cap) if mean > 0 else cap


def _otsu(x: NDArray[np.float64]) -> float:
    """The largest of the lower of two classes whose means differ most, weighted by their sizes."""
    ranked = np.sort(x)
    below = np.arange(1, len(x))
    sums = np.cumsum(ranked)
    lower = sums[:-1] / below
    upper = (sums[-1] - sums[:-1]) / (len(x) - below)
    between = below * (len(x) - below) * (upper - lower) ** 2
    between[ranked[1:] == ranked[:-1]] = -1  # equal scores are not torn apart
    return float(ranked[between.argmax()] if (between > 0).any() else ranked[-1])


def sound(ratios: NDArray[np.floating], holds_point: BoolArray, select: Select) -> BoolArray:
    """(N,) True for masks that can be one nucleus: their area over the instance's, ``ratios``, lies
    in ``select.area_ratio`` (both ends included) and, with ``contains_point``, they hold their
    prompt."""
    low, high = (-np.inf, np.inf) if select.area_ratio is None else select.area_ratio
    out: BoolArray = (ratios >= low) & (ratios <= high)
    return out & holds_point if select.contains_point else out


def accept(
    scores: NDArray[np.floating], select: Select, sound: BoolArray | None = None
) -> BoolArray:
    """(N,) True where the score is strictly above :func:`threshold` and the mask is ``sound`` (N,),
    None = all.

    If none is, the best 5 % of all (rounded up, so at least one; of equal scores the first) that
    are sound are taken instead, as a step without any label cannot train; a score of 0 is never
    accepted that way. With all above the threshold all are accepted.

    >>> from coin_ray.confidence.settings import Select
    >>> accept(np.array([0.2, 0.4, 0.6]), Select(rule="mean"))
    array([False, False,  True])
    """
    x = np.asarray(scores, dtype=np.float64).ravel()
    allowed = np.ones(len(x), dtype=bool) if sound is None else sound
    accepted = allowed & (x > threshold(x, select))
    if not accepted.any():
        order = np.argsort(-x, kind="stable")
        best = order[allowed[order] & (x[order] > 0)][: ceil(FALLBACK_SHARE * len(x))]
        accepted[best] = True
    return accepted


def without_overlaps(
    accepted: BoolArray, scores: NDArray[np.floating], masks: InstanceMasks, max_overlap: float
) -> BoolArray:
    """``accepted`` (N,) without the masks whose IoU with a better accepted one (of equal scores the
    first) is above ``max_overlap``: two instances drawn as the same nucleus. 1 refuses none."""
    at = np.flatnonzero(accepted)
    out = np.zeros_like(accepted)
    out[at[masks.take(at).distinct(scores[at], max_overlap)]] = True
    return out
