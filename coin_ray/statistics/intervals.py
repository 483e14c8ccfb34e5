"""Mean over images of the mean over random seeds, with a hierarchical bootstrap interval."""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

DRAWS = 2000
CONFIDENCE = 0.95
FEW_IMAGES = 50
"""Below this many images a bootstrap interval of a mean is known to be too narrow."""


@dataclass(frozen=True)
class Estimate:
    """``mean`` over images of the mean over seeds; ``low`` and ``high`` are None for one image,
    which says nothing about the spread. ``seeds`` counts the random seeds with a value.
    ``t_low`` and ``t_high``: Student's interval over images, where there are fewer than 50."""

    mean: float
    low: float | None
    high: float | None
    images: int
    seeds: int
    skipped: int = 0
    t_low: float | None = None
    t_high: float | None = None

    def as_dict(self) -> dict[str, float | int | None]:
        """The fields by name."""
        return asdict(self)


def estimate(
    values: ArrayLike,
    *,
    skipped: int = 0,
    draws: int = DRAWS,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Estimate:
    """Estimate from ``values`` (images, random seeds), NaN where there is none.

    Percentile interval of a hierarchical bootstrap (see ``resample``); 14 images x 3 seeds are
    never treated as 42 independent points. The draws depend on ``seed`` and the shape only, so
    levels of equal shape are resampled alike.

    Raises:
        ValueError: no image, or an image without a value.
    """
    table = np.asarray(values, dtype=np.float64)
    valid = ~np.isnan(table)
    if table.ndim != 2 or not len(table) or not valid.any(axis=1).all():
        raise ValueError("every image needs a value, and there has to be an image")
    by_image = np.nanmean(table, axis=1)
    mean = float(by_image.mean())
    images, seeds = len(table), int(valid.any(axis=0).sum())
    if images < 2:
        return Estimate(mean, None, None, images, seeds, skipped)
    low, high = interval(_means(table, draws, seed), confidence)
    t_low, t_high = _student(by_image, confidence) if images < FEW_IMAGES else (None, None)
    return Estimate(mean, low, high, images, seeds, skipped, t_low, t_high)


def resample(
    table: NDArray[np.float64], draws: int, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Values and weights (draws, images) of ``draws`` hierarchical resamples of (images, seeds).

    Images are drawn with replacement, and so are the random seeds that their values are averaged
    over. Seeds are drawn once a resample, for all images together: one training is behind the
    values of all images, and seeds drawn image by image would let its luck average out (the
    "pigeonhole" bootstrap of two crossed factors, Owen 2007, doi 10.1214/07-AOAS122). An image
    without a value for the drawn seeds weighs nothing.
    """
    table = table[:, ~np.isnan(table).all(axis=0)]
    images, seeds = table.shape
    return _weighed(table, *_draw(images, seeds, draws, rng))


Drawn = tuple[NDArray[np.int64], NDArray[np.float64]]
"""How often each image, and each random seed, is in each resample."""


def _draw(images: int, seeds: int, draws: int, rng: np.random.Generator) -> Drawn:
    drawn_images = rng.multinomial(images, np.full(images, 1 / images), size=draws)
    drawn_seeds = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws)
    return drawn_images, drawn_seeds.astype(np.float64)


@functools.lru_cache(maxsize=4)
def _first_draws(images: int, seeds: int, draws: int, seed: int) -> Drawn:
    """Of thousands of levels the shape is one, and drawing takes ten times what the rest does."""
    return _draw(images, seeds, draws, np.random.default_rng(seed))


def _weighed(
    table: NDArray[np.float64], drawn_images: NDArray[np.int64], drawn_seeds: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    valid = ~np.isnan(table)
    counts = drawn_seeds @ valid.T
    sums = drawn_seeds @ np.where(valid, table, 0.0).T
    return sums / np.maximum(counts, 1), np.where(counts > 0, drawn_images, 0.0)


def interval(statistics: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    """Percentile interval of resampled statistics; NaN (an undefined one) is left out."""
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(statistics, [tail, 1 - tail])
    return float(low), float(high)


def weighted_mean(values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """(draws,) from (draws, images); NaN where all weights are 0."""
    total = weights.sum(axis=1)
    return np.divide((values * weights).sum(axis=1), total, out=total * np.nan, where=total > 0)


def _means(table: NDArray[np.float64], draws: int, seed: int) -> NDArray[np.float64]:
    step = max(1, 2_000_000 // len(table))  # Bounds the memory of large data sets.
    if draws <= step:
        table = table[:, ~np.isnan(table).all(axis=0)]
        images, seeds = table.shape
        return weighted_mean(*_weighed(table, *_first_draws(images, seeds, draws, seed)))
    rng = np.random.default_rng(seed)
    sizes = [min(step, draws - start) for start in range(0, draws, step)]
    return np.concatenate([weighted_mean(*resample(table, n, rng)) for n in sizes])


def _student(by_image: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    from scipy.special import stdtrit

    n = len(by_image)
    half = stdtrit(n - 1, (1 + confidence) / 2) * by_image.std(ddof=1) / np.sqrt(n)
    return float(by_image.mean() - half), float(by_image.mean() + half)
