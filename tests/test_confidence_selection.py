"""Threshold and acceptance (Eqs. 7, 8) on vectors with known mean and deviation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coin_ray.confidence.selection import accept, threshold

FOUR = np.array([0.1, 0.3, 0.5, 0.7], dtype=np.float32)  # mean .4, population std sqrt(.05)
STD = 0.05**0.5


def test_thresholds_of_a_known_vector() -> None:
    assert threshold(FOUR, rule="mean") == pytest.approx(0.4)
    assert threshold(FOUR, rule="mean_plus_std") == pytest.approx(0.4 + STD)
    assert threshold(FOUR, rule="cv") == pytest.approx(STD / 0.4)
    assert threshold(FOUR, rule="fixed", value=0.25) == 0.25
    assert accept(FOUR, rule="mean_plus_std").tolist() == [False, False, False, True]
    assert accept(FOUR, rule="mean").tolist() == [False, False, True, True]
    assert accept(FOUR, rule="fixed", value=0.25).tolist() == [False, True, True, True]


def test_adaptive_thresholds_are_capped_and_fixed_ones_are_not() -> None:
    high = np.array([0.85, 0.95, 0.99])
    assert threshold(high, rule="mean_plus_std") == 0.9
    assert threshold(high, rule="mean") == 0.9
    assert threshold(np.array([0.0, 0.0, 0.0, 1.0]), rule="cv") == 0.9  # std / mean = sqrt 3
    assert threshold(high, rule="mean_plus_std", cap=0.5) == 0.5
    assert threshold(high, rule="fixed", value=0.97) == 0.97
    assert accept(high, rule="mean_plus_std").tolist() == [False, True, True]


def test_acceptance_is_strict() -> None:
    scores = np.array([0.5, 0.5, 0.75])
    assert accept(scores, rule="fixed", value=0.5).tolist() == [False, False, True]
    assert accept(np.array([0.25, 0.75]), rule="mean_plus_std").tolist() == [False, True]


def test_no_one_and_two_instances() -> None:
    none = np.zeros(0, dtype=np.float32)
    for rule, expected in [
        ("mean", 0.9),
        ("mean_plus_std", 0.9),
        ("cv", 0.9),
        ("fixed", 0.3),
        ("top_fraction", 0.9),
    ]:
        assert threshold(none, rule=rule, value=0.3) == expected
        assert accept(none, rule=rule, value=0.3).shape == (0,)
    # One score equals its own mean: nothing is above, the best one is taken.
    assert threshold(np.array([0.4]), rule="mean_plus_std") == 0.4
    assert accept(np.array([0.4]), rule="mean_plus_std").tolist() == [True]
    # Of two, the better one equals mean + std and is not above it; the guard takes it.
    assert accept(np.array([0.25, 0.75]), rule="mean_plus_std").tolist() == [False, True]


def test_guard_takes_the_best_five_percent_but_never_a_zero() -> None:
    scores = np.linspace(0.1, 0.8, 41)
    best = accept(scores, rule="fixed", value=0.95)
    assert np.flatnonzero(best).tolist() == [38, 39, 40]  # 5 % of 41 rounded up
    ties = accept(np.full(20, 0.5), rule="mean_plus_std")
    assert np.flatnonzero(ties).tolist() == [0]
    assert not accept(np.zeros(5), rule="mean_plus_std").any()


def test_equal_scores_never_pass_by_rounding() -> None:
    for value in (0.1, 0.7, 1 / 3):
        assert accept(np.full(37, value), rule="mean").sum() == 2  # the guard's 5 %


@pytest.mark.parametrize(
    ("share", "expected"), [(0.5, 2), (0.25, 1), (0.01, 1), (1.0, 4), (0.0, 1)]
)
def test_top_fraction_keeps_that_share(share: float, expected: int) -> None:
    kept = accept(FOUR, rule="top_fraction", value=share)
    assert kept.sum() == expected
    assert kept[-expected:].all()


def test_top_fraction_leaves_ties_at_its_edge_out() -> None:
    scores = np.array([0.9, 0.5, 0.5, 0.5])
    assert accept(scores, rule="top_fraction", value=0.5).tolist() == [True, False, False, False]


def test_bad_scores_and_rules_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        threshold(np.array([0.1, np.nan]))
    with pytest.raises(ValueError, match="unknown"):
        threshold(FOUR, rule="best")  # type: ignore[arg-type]


@settings(max_examples=80, deadline=None)
@given(
    scores=st.lists(st.floats(0, 1, width=32), min_size=1, max_size=40),
    rule=st.sampled_from(["mean", "mean_plus_std", "cv", "fixed", "top_fraction"]),
    value=st.floats(0, 1),
    cap=st.floats(0, 1),
)
def test_accepted_are_the_best(scores: list[float], rule: str, value: float, cap: float) -> None:
    x = np.array(scores)
    kept = accept(x, rule=rule, value=value, cap=cap)
    assert np.isfinite(threshold(x, rule=rule, value=value, cap=cap))
    if kept.any() and not kept.all():
        assert x[kept].min() >= x[~kept].max()
    if x.max() > 0:
        assert kept.any()
