"""Statistics across data sets against hand values and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from coin_ray.statistics.datasets import improvement, interquartile_mean, ranks, stratified
from coin_ray.statistics.intervals import weighted_mean

NAN = float("nan")


def row(*values: float) -> np.ndarray:
    return np.array([values])


def test_interquartile_mean_against_scipy() -> None:
    values = np.random.default_rng(0).normal(size=(3, 20))
    found = interquartile_mean(values, np.ones_like(values))
    assert found == pytest.approx(stats.trim_mean(values, 0.25, axis=1))


def test_interquartile_mean_by_hand() -> None:
    # Quarters of the weight: the middle half of 1, 2, 3 is 1/4 of 1 .. i.e. 1/12, 4/12, 1/12 of 12.
    assert interquartile_mean(row(1, 2, 3), np.ones((1, 3))) == pytest.approx(
        (1 / 12 * 1 + 4 / 12 * 2 + 1 / 12 * 3) * 2
    )
    # An outlier with a quarter of the weight moves nothing; a value counts by its weight.
    assert interquartile_mean(row(0, 1, 1, 99), np.ones((1, 4))) == pytest.approx(1)
    assert interquartile_mean(row(5, 0), row(3, 1)) == pytest.approx(5)


def test_improvement_by_hand() -> None:
    assert improvement(row(0.1, -0.2, 0, 0.3), np.ones((1, 4))) == pytest.approx(2.5 / 4)
    assert improvement(row(0.1, -0.2), row(3, 1)) == pytest.approx(0.75)


def test_every_data_set_weighs_the_same() -> None:
    large, small = np.full((90, 2), 0.2), np.full((10, 2), 0.6)
    assert stratified([large, small], weighted_mean) == pytest.approx((0.4, 0.4, 0.4))
    # Of the middle half, half is of each data set.
    assert stratified([large, small], interquartile_mean)[0] == pytest.approx(0.4)


def test_stratified_bootstrap_against_its_definition() -> None:
    rng = np.random.default_rng(1)
    tables = [rng.normal(0.5, 0.1, (12, 1)), rng.normal(0.7, 0.2, (30, 1))]
    value, low, high = stratified(tables, weighted_mean, draws=4000)
    assert value == pytest.approx(np.mean([table.mean() for table in tables]))
    drawn = [
        np.mean([rng.choice(table[:, 0], len(table)).mean() for table in tables])
        for _ in range(4000)
    ]
    assert (low, high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.004)
    assert (value, low, high) == stratified(tables, weighted_mean, draws=4000)


def test_stratified_leaves_out_what_is_missing() -> None:
    tables = [np.array([[0.4, NAN], [0.6, 0.6]]), np.array([[0.5, 0.5]])]
    value, low, high = stratified(tables, weighted_mean)
    assert value == pytest.approx(0.5)
    assert 0.45 - 1e-9 <= low <= high <= 0.55 + 1e-9


def test_ranks_against_scipy_and_by_hand() -> None:
    # Demsar (2006): five levels on N data sets, q_0.05 = 2.728.
    scores = np.random.default_rng(0).normal(size=(8, 5)) + np.arange(5) / 2
    found = ranks(scores)
    assert found.p == pytest.approx(stats.friedmanchisquare(*scores.T).pvalue)
    assert found.critical_difference == pytest.approx(2.728 * np.sqrt(5 * 6 / (6 * 8)), abs=1e-3)
    assert found.average.sum() == pytest.approx(15)
    assert found.average.argmin() == scores.mean(axis=0).argmax()
    np.testing.assert_allclose(ranks(scores, mode="min").average, 6 - found.average)


def test_ranks_of_ties_and_of_two_levels() -> None:
    found = ranks(np.ones((5, 3)))
    assert found.p == 1 and found.average.tolist() == [2, 2, 2]
    two = ranks(np.array([[0.1, 0.2]] * 6))
    assert two.p is None and two.average.tolist() == [2, 1]


def test_ranks_need_five_complete_data_sets() -> None:
    for scores in (np.ones((4, 3)), np.ones((5, 1)), np.array([[0.1, NAN]] * 5)):
        with pytest.raises(ValueError, match="5 data sets"):
            ranks(scores)
