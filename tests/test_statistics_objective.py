"""Rank correlation against SciPy, and the expected best of a number of trials."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from coin_ray.statistics.objective import expected_best, spearman


@pytest.mark.parametrize("ties", [False, True])
def test_spearman_is_scipys(ties: bool) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 4, 15).astype(float) if ties else rng.normal(size=15)
    y = x + rng.normal(size=15)
    found = spearman(x, y)
    assert found is not None
    assert found.rho == pytest.approx(stats.spearmanr(x, y).statistic)
    assert found.count == 15 and found.low < found.rho < found.high
    assert found == spearman(x, y)


def test_spearman_interval_against_a_plain_bootstrap() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=30)
    y = x + rng.normal(size=30)
    found = spearman(x, y, draws=2000)
    assert found is not None
    drawn = []
    for _ in range(1000):
        chosen = rng.integers(0, 30, 30)
        drawn.append(stats.spearmanr(x[chosen], y[chosen]).statistic)
    assert (found.low, found.high) == pytest.approx(
        tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.04
    )


def test_spearman_by_hand() -> None:
    found = spearman([1, 2, 3], [10, 20, 15])
    assert found is not None
    assert found.rho == pytest.approx(1 - 6 * 2 / (3 * 8))
    exact = spearman([1, 2, 3, 4], [1, 8, 27, 64])
    assert exact is not None and (exact.rho, exact.low, exact.high) == pytest.approx((1, 1, 1))


def test_spearman_that_does_not_exist() -> None:
    assert spearman([], []) is None
    assert spearman([1, 2], [1, 2]) is None
    assert spearman([1, 1, 1, 1], [1, 2, 3, 4]) is None
    assert spearman([1, 2, 3, 4], [5, 5, 5, 5]) is None


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-9, 9), min_size=1, max_size=6))
def test_expected_best_is_the_mean_over_all_choices(values: list[int]) -> None:
    found = expected_best(values)
    for k in range(1, len(values) + 1):
        best = [max(chosen) for chosen in itertools.combinations(values, k)]
        assert found[k - 1] == pytest.approx(np.mean(best), abs=1e-9)
    assert expected_best([-v for v in values], "min") == pytest.approx(-found)
