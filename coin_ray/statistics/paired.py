"""A level against the baseline on the same images and random seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from coin_ray.statistics.intervals import CONFIDENCE, Estimate, estimate
from coin_ray.statistics.power import EXACT_UNITS, FLIPS
from coin_ray.study.resolved import Analysis

Values = Mapping[tuple[str, int], float]
"""(image, random seed) -> value."""

Verdict = Literal["better", "worse", "equal", "open"]


@dataclass(frozen=True)
class Comparison:
    """``delta``: level - baseline over what both have. ``p_image``, ``p_seed``: sign-flip tests
    over images (for these trained models) and over random seeds (for the method), None for fewer
    than two or where the random seeds differ (``same_seeds`` False); ``p_wilcoxon`` over images is
    a cross-check. ``effect_size``: mean over standard deviation of the differences by image
    (Cohen's d_z), None where they do not differ from each other. ``improvement``: share of images
    on which the level is better, ties half."""

    delta: Estimate
    level_mean: float
    baseline_mean: float
    same_seeds: bool
    p_image: float | None
    p_seed: float | None
    p_wilcoxon: float | None
    effect_size: float | None
    improvement: float


def aligned(*values: Values) -> list[NDArray[np.float64]]:
    """One (images, seeds) array each, rows and columns the same for all: the sorted images and
    seeds that any of them has; NaN where one has no value."""
    images = {image: row for row, image in enumerate(sorted({k[0] for v in values for k in v}))}
    seeds = {seed: column for column, seed in enumerate(sorted({k[1] for v in values for k in v}))}
    out = []
    for own in values:
        table = np.full((len(images), len(seeds)), np.nan)
        for (image, seed), value in own.items():
            table[images[image], seeds[seed]] = value
        out.append(table)
    return out


def compare(
    level: NDArray[np.float64],
    baseline: NDArray[np.float64],
    *,
    mode: Literal["max", "min"] = "max",
    confidence: float = CONFIDENCE,
) -> Comparison | None:
    """Compare two ``aligned`` arrays (images, seeds); None where they share no image and seed.

    Everything is computed from the differences of the pairs; an image without one is left out. The
    array is reduced to one difference per image, or per seed, before it is tested. ``mode`` says
    whether more is better (``improvement``).
    """
    difference = level - baseline
    paired = ~np.isnan(difference)
    rows = paired.any(axis=1)
    if not rows.any():
        return None
    delta = estimate(difference[rows], confidence=confidence)
    by_image = np.nanmean(difference[rows], axis=1)
    by_seed = np.nanmean(difference[:, paired.any(axis=0)], axis=0)
    seeds = [(~np.isnan(table)).any(axis=0) for table in (level, baseline)]
    same_seeds = bool((seeds[0] == seeds[1]).all())
    signs = np.sign(by_image) * (1 if mode == "max" else -1)
    return Comparison(
        delta,
        _mean(np.where(paired, level, np.nan)[rows]),
        _mean(np.where(paired, baseline, np.nan)[rows]),
        same_seeds,
        sign_flip(by_image) if same_seeds else None,
        sign_flip(by_seed) if same_seeds else None,
        _wilcoxon(by_image) if same_seeds else None,
        _effect_size(by_image),
        float((signs + 1).mean() / 2),
    )


def sign_flip(differences: ArrayLike, *, seed: int = 0) -> float | None:
    """Two-sided p of the paired permutation test of the mean of (n,) differences.

    Under the null hypothesis a difference is as likely as its negative, so p is the share of sign
    patterns with a mean at least as far from 0: of all 2^n up to ``EXACT_UNITS`` differences (p >=
    2 / 2^n), else of ``FLIPS`` random ones and the observed one, (1 + hits) / (1 + flips), which
    never is 0 (Phipson & Smyth 2010). None for fewer than two differences.
    """
    values = np.asarray(differences, dtype=np.float64)
    if len(values) < 2:
        return None
    # Sums that are equal but for rounding are as extreme as the observed one.
    least = abs(values.sum()) - 1e-12 * np.abs(values).sum()
    if len(values) <= EXACT_UNITS:
        sums = values[:1]  # The first sign stays: the other half is the mirror image.
        for value in values[1:]:
            sums = np.concatenate([sums + value, sums - value])
        return float((np.abs(sums) >= least).mean())
    rng = np.random.default_rng(seed)
    hits = 0
    step = max(1, 4_000_000 // len(values))
    for start in range(0, FLIPS, step):
        kept = rng.integers(0, 2, size=(min(step, FLIPS - start), len(values)), dtype=np.int8)
        hits += int((np.abs(2 * (kept @ values) - values.sum()) >= least).sum())
    return (1 + hits) / (1 + FLIPS)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction of one family of tests; None (no test) stays and does not count.

    The k-th smallest of m becomes the largest of (m - j + 1) p_(j) over j <= k, at most 1.
    """
    tested = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    out: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - rank) * p))
        out[i] = largest
    return out


def verdict(
    found: Comparison,
    p: float | None,
    analysis: Analysis,
    *,
    mode: Literal["max", "min"] = "max",
) -> Verdict:
    """What can be said of the level, from the interval of its difference and ``p`` (of the test
    over images, corrected for the other levels).

    ``equal``: the interval lies within ``min_effect`` of 0. ``better``, ``worse``: p is at most
    ``alpha`` and the interval leaves out 0. Else ``open``, and so it is with one random seed or
    one image, which say nothing of how another would come out.
    """
    low, high = found.delta.low, found.delta.high
    if low is None or high is None or found.delta.seeds < 2:
        return "open"
    if -analysis.min_effect <= low and high <= analysis.min_effect:
        return "equal"
    if p is None or p > analysis.alpha or low <= 0 <= high:
        return "open"
    return "better" if (low > 0) == (mode == "max") else "worse"


def _mean(table: NDArray[np.float64]) -> float:
    return float(np.nanmean(table, axis=1).mean())


def _wilcoxon(differences: NDArray[np.float64]) -> float | None:
    from scipy.stats import wilcoxon

    if len(differences) < 2:
        return None
    return float(wilcoxon(differences).pvalue) if differences.any() else 1.0


def _effect_size(differences: NDArray[np.float64]) -> float | None:
    if len(differences) < 2:
        return None
    spread = float(differences.std(ddof=1))
    # Differences that are equal but for rounding have no spread to be measured in.
    if spread <= 1e-12 * np.abs(differences).max():
        return None
    return float(differences.mean()) / spread
