"""The hierarchical bootstrap against hand values, a plain bootstrap, and its coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from coin_ray.statistics import intervals
from coin_ray.statistics.intervals import (
    CONFIDENCE,
    DRAWS,
    FEW_IMAGES,
    estimate,
    interval,
    resample,
    weighted_mean,
)

NAN = float("nan")


def test_mean_is_over_images_of_means_over_seeds() -> None:
    # Image a has three seeds, image b one: they weigh the same.
    found = estimate([[0.1, 0.2, 0.3], [0.8, NAN, NAN]])
    assert found.mean == pytest.approx((0.2 + 0.8) / 2)
    assert (found.images, found.seeds) == (2, 3)


def test_interval_of_two_images_by_hand() -> None:
    # Two images: a resample is aa, ab, ba or bb with 1/4 each, so the 95 % quantiles are the ends.
    found = estimate([[0.2], [0.6]])
    assert (found.low, found.high) == pytest.approx((0.2, 0.6))


def test_one_image_has_no_interval() -> None:
    found = estimate([[0.2, 0.4]])
    assert found.mean == pytest.approx(0.3)
    assert (found.low, found.high, found.t_low, found.t_high) == (None,) * 4


def test_interval_against_a_plain_bootstrap() -> None:
    rng = np.random.default_rng(5)
    values = rng.normal(0.5, 0.1, 40)
    found = estimate(values[:, None], draws=4000)
    means = [rng.choice(values, 40).mean() for _ in range(4000)]
    assert found.low == pytest.approx(np.quantile(means, 0.025), abs=0.004)
    assert found.high == pytest.approx(np.quantile(means, 0.975), abs=0.004)


def test_interval_of_the_level_asked_for() -> None:
    values = np.random.default_rng(2).normal(size=(60, 1))
    wide, narrow = (estimate(values, confidence=c) for c in (0.95, 0.5))
    assert wide.high is not None and wide.low is not None
    assert narrow.high is not None and narrow.low is not None
    # Quantiles of a normal distribution: 1.960 and 0.674.
    assert (narrow.high - narrow.low) / (wide.high - wide.low) == pytest.approx(0.344, rel=0.1)


def test_student_interval_against_scipy_where_images_are_few() -> None:
    values = np.random.default_rng(3).normal(0.5, 0.1, (14, 3))
    found = estimate(values)
    means = values.mean(axis=1)
    expected = stats.t.interval(0.95, 13, means.mean(), stats.sem(means))
    assert (found.t_low, found.t_high) == pytest.approx(expected)
    many = estimate(np.random.default_rng(3).normal(size=(FEW_IMAGES, 1)))
    assert many.t_low is None and many.t_high is None


def test_seeds_are_not_pooled_with_images() -> None:
    # All the spread is between images: six copies of each image must not narrow the interval.
    values = np.random.default_rng(1).uniform(0.2, 0.8, (14, 1))
    one, six = estimate(values), estimate(values.repeat(6, axis=1))
    assert one.low is not None and one.high is not None
    assert six.low is not None and six.high is not None
    assert six.high - six.low == pytest.approx(one.high - one.low, rel=0.1)


def test_a_seed_that_is_lucky_on_all_images_is_not_averaged_out() -> None:
    # Both seeds are drawn twice with 1/4 each, whatever the number of images.
    found = estimate([[0.4, 0.6]] * 200)
    assert (found.low, found.high) == pytest.approx((0.4, 0.6))


def test_what_is_missing_is_never_drawn() -> None:
    # All values are 1; the third seed has none at all, the second not for every image.
    found = estimate([[1.0, NAN, NAN], [1.0, 1.0, NAN], [1.0, NAN, NAN]])
    assert (found.mean, found.low, found.high, found.seeds) == (1.0, 1.0, 1.0, 2)
    # No seed is shared: a resample of one seed holds one image.
    apart = estimate([[0.2, NAN], [NAN, 0.6]])
    assert (apart.low, apart.high) == pytest.approx((0.2, 0.6))


def test_estimate_is_deterministic_and_refuses_nothing() -> None:
    values = np.random.default_rng(0).random((9, 2))
    assert estimate(values) == estimate(values)
    assert estimate(values) != estimate(values, seed=1)
    for empty in (np.zeros((0, 2)), [[0.5], [NAN]], [0.5, 0.6]):
        with pytest.raises(ValueError, match="needs a value"):
            estimate(empty)


@pytest.mark.parametrize(
    ("images", "seeds", "spread"),
    # spread: standard deviations of images, of seeds (one value for all images), of both together
    [
        (50, 1, (0.1, 0.0, 0.0)),
        (50, 3, (0.1, 0.0, 0.05)),
        (60, 8, (0.1, 0.04, 0.05)),
    ],
    ids=["images", "noise", "seeds"],
)
def test_coverage(images: int, seeds: int, spread: tuple[float, float, float]) -> None:
    """The 95 % interval holds the true mean in 95 % of repeated experiments.

    500 experiments: the standard error of the share is 1 %. Percentile intervals lose the factor
    (n - 1) / n of the variance, about 1 % of coverage at 50 images and 2 % at 8 seeds; drawing
    images and seeds adds their interaction twice. Hence 95 % within 4 %.
    """
    rng = np.random.default_rng(11)
    hits = 0
    for experiment in range(500):
        values = 0.5 + spread[0] * rng.normal(size=(images, 1))
        values = values + spread[1] * rng.normal(size=(1, seeds))
        values = values + spread[2] * rng.normal(size=(images, seeds))
        found = estimate(values, draws=600, seed=experiment)
        assert found.low is not None and found.high is not None
        hits += found.low <= 0.5 <= found.high
    assert hits / 500 == pytest.approx(0.95, abs=0.04)


def test_coverage_is_lost_when_seeds_are_pooled() -> None:
    """What the hierarchy is for: 14 images x 3 seeds as 42 independent values cover far less."""
    rng = np.random.default_rng(12)
    ours = pooled = 0
    for experiment in range(300):
        values = 0.1 * rng.normal(size=(14, 1)) + 0.02 * rng.normal(size=(14, 3))
        for table, name in ((values, "ours"), (values.reshape(-1, 1), "pooled")):
            found = estimate(table, draws=400, seed=experiment)
            assert found.low is not None and found.high is not None
            hit = found.low <= 0 <= found.high
            ours, pooled = ours + (name == "ours") * hit, pooled + (name == "pooled") * hit
    # Three equal values an image narrow the pooled interval by sqrt(3): 2 Phi(1.96 / 1.73) - 1.
    assert pooled / 300 == pytest.approx(math.erf(1.96 / math.sqrt(3) / math.sqrt(2)), abs=0.08)
    # At 14 images the percentile interval is too narrow by sqrt(13 / 14), and less than normal.
    assert 0.87 <= ours / 300 <= 0.97


def test_tables_of_one_shape_are_resampled_by_one_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A study has thousands of levels of one shape; holes and order change nothing of that."""
    drawn, draw = [], intervals._draw
    monkeypatch.setattr(intervals, "_draw", lambda *a: drawn.append(a[:2]) or draw(*a))
    intervals._first_draws.cache_clear()
    rng = np.random.default_rng(0)
    tables = [rng.random((37, 5)) for _ in range(20)]
    tables[3][2, 1] = np.nan
    alone = []
    for table in tables:
        values, weights = resample(table, DRAWS, np.random.default_rng(0))
        alone.append(interval(weighted_mean(values, weights), CONFIDENCE))
    drawn.clear()
    found = [estimate(table) for table in tables]
    assert [(one.low, one.high) for one in found] == alone
    assert drawn == [(37, 5)]
