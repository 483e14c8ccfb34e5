"""Mean over images with a bootstrap interval; random seeds are nested in images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

DRAWS = 2000
CONFIDENCE = 0.95
FEW_IMAGES = 50
"""Below this many images a bootstrap interval of a mean is known to be too narrow."""


@dataclass(frozen=True)
class Estimate:
    """``mean`` over images of the mean over seeds; ``low`` and ``high`` are None for one image,
    which says nothing about the spread. ``seeds`` is the smallest number of seeds of an image."""

    mean: float
    low: float | None
    high: float | None
    images: int
    seeds: int
    skipped: int = 0

    def as_dict(self) -> dict[str, float | int | None]:
        """The fields by name."""
        return asdict(self)


def estimate(
    values: Sequence[Sequence[float]],
    *,
    skipped: int = 0,
    draws: int = DRAWS,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Estimate:
    """Estimate from the values of each image, one per random seed (the numbers may differ).

    Percentile interval of a hierarchical bootstrap: images are resampled, and inside each drawn
    image its seeds; 14 images x 3 seeds are never treated as 42 independent points. The draws
    depend on ``seed`` and the shape only, so levels of equal shape are resampled alike.

    Raises:
        ValueError: no image, or an image without a value.
    """
    counts = np.array([len(v) for v in values])
    if not len(counts) or not counts.all():
        raise ValueError("every image needs a value, and there has to be an image")
    padded = np.zeros((len(values), counts.max()))
    for row, image in zip(padded, values, strict=True):
        row[: len(image)] = image
    mean = float((padded.sum(axis=1) / counts).mean())
    seeds = int(counts.min())
    if len(values) < 2:
        return Estimate(mean, None, None, len(values), seeds, skipped)
    tail = (1 - confidence) / 2
    means = _resampled(padded, counts, draws, np.random.default_rng(seed))
    low, high = np.quantile(means, [tail, 1 - tail])
    return Estimate(mean, float(low), float(high), len(values), seeds, skipped)


def _resampled(
    padded: np.ndarray, counts: np.ndarray, draws: int, rng: np.random.Generator
) -> np.ndarray:
    """(draws,) means of resampled images, each the mean of its resampled seeds."""
    images, most = padded.shape
    out = np.empty(draws)
    step = max(1, 2_000_000 // padded.size)  # Bounds the memory of large data sets.
    for start in range(0, draws, step):
        n = min(step, draws - start)
        image = rng.integers(0, images, size=(n, images))
        if most == 1:
            out[start : start + n] = padded[image, 0].mean(axis=1)
            continue
        own = counts[image][..., None]
        seed = (rng.random((n, images, most)) * own).astype(int)
        used = np.arange(most) < own
        drawn = np.where(used, padded[image[..., None], seed], 0.0).sum(axis=2) / own[..., 0]
        out[start : start + n] = drawn.mean(axis=1)
    return out
