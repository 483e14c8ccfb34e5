"""Threshold and acceptance (Eqs. 7, 8) on vectors with known mean and deviation; sanity checks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from coin_ray.confidence import selection
from coin_ray.confidence.selection import sound, without_overlaps
from coin_ray.confidence.settings import Select
from coin_ray.labels import InstanceMasks

FOUR = np.array([0.1, 0.3, 0.5, 0.7], dtype=np.float32)  # mean .4, population std sqrt(.05)
STD = 0.05**0.5


def threshold(scores: NDArray[np.floating], **settings: Any) -> float:
    return selection.threshold(scores, Select(**settings))


def accept(
    scores: NDArray[np.floating], sound: NDArray[np.bool_] | None = None, **settings: Any
) -> NDArray[np.bool_]:
    return selection.accept(scores, Select(**settings), sound)


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
        ("otsu", 0.9),
        ("top_fraction", 0.9),
    ]:
        assert threshold(none, rule=rule, value=0.3) == expected
        assert accept(none, rule=rule, value=0.3).shape == (0,)
    # One score equals its own mean: nothing is above, the best one is taken.
    assert threshold(np.array([0.4]), rule="mean_plus_std") == 0.4
    assert accept(np.array([0.4]), rule="mean_plus_std").tolist() == [True]
    assert threshold(np.array([0.4]), rule="otsu") == 0.4
    assert accept(np.array([0.4]), rule="otsu").tolist() == [True]
    assert accept(np.array([0.25, 0.75]), rule="otsu").tolist() == [False, True]
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


def test_all_accepted_are_all_kept() -> None:
    assert accept(FOUR, rule="fixed", value=0.05).all()
    assert accept(np.array([0.95, 0.99]), rule="mean_plus_std").all()  # above the cap


def test_otsu_finds_the_gap() -> None:
    scores = np.array([0.9, 0.1, 0.85, 0.2, 0.15, 0.8])
    assert threshold(scores, rule="otsu") == 0.2
    assert accept(scores, rule="otsu").tolist() == [True, False, True, False, False, True]
    assert threshold(scores, rule="otsu", cap=0.12) == 0.12
    assert threshold(np.full(5, 0.3), rule="otsu") == 0.3


@settings(max_examples=60, deadline=None)
@given(scores=st.lists(st.integers(0, 20), min_size=2, max_size=15))
def test_otsu_is_the_split_of_least_variance_within(scores: list[int]) -> None:
    """Least variance within the classes and most between them are the same split."""
    x = np.array(scores) / 20
    cuts = np.unique(x)[:-1]
    found = threshold(x, rule="otsu", cap=1.0)
    if not len(cuts):
        assert found == x[0]
        return
    within = {c: sum(part.var() * len(part) for part in (x[x <= c], x[x > c])) for c in cuts}
    assert within[found] == pytest.approx(min(within.values()), abs=1e-12)


def test_sound_masks_by_hand() -> None:
    ratio, holds = np.array([0.4, 0.5, 1.0, 2.0, 2.1]), np.array([True, True, False, True, True])
    assert sound(ratio, holds, Select()).all()
    checked = sound(ratio, holds, Select(area_ratio=(0.5, 2.0)))
    assert checked.tolist() == [False, True, True, True, False]
    both = sound(ratio, holds, Select(area_ratio=(0.5, 2.0), contains_point=True))
    assert both.tolist() == [False, True, False, True, False]


def test_unsound_masks_are_refused_after_the_threshold_and_by_the_guard() -> None:
    # The threshold .5 is that of all four; 0.7 alone passes it and is not sound.
    rule = {"rule": "fixed", "value": 0.5}
    assert accept(FOUR, np.array([1, 1, 1, 0], bool), **rule).tolist() == [0, 0, 1, 0]
    assert accept(FOUR, np.array([1, 1, 0, 0], bool), **rule).tolist() == [0, 1, 0, 0]
    assert not accept(FOUR, np.zeros(4, bool), **rule).any()


def strips(*columns: tuple[int, int]) -> InstanceMasks:
    """Masks of one row, from column to column."""
    boxes = np.array([(0, a, 1, b) for a, b in columns], dtype=np.int64).reshape(-1, 4)
    crops = [np.ones((1, b - a), dtype=bool) for a, b in columns]
    return InstanceMasks(boxes, crops, np.ones(len(columns), np.float32))


def test_of_two_masks_of_one_nucleus_the_better_stays() -> None:
    masks = strips((0, 10), (2, 12), (9, 19), (30, 40))  # IoU 8/12, then 3/17 and 1/19
    scores = np.array([0.5, 0.9, 0.8, 0.1])
    everything = np.ones(4, dtype=bool)
    for limit, kept in [(0.5, [0, 1, 1, 1]), (0.1, [0, 1, 0, 1]), (0.7, [1] * 4), (1.0, [1] * 4)]:
        assert without_overlaps(everything, scores, masks, limit).tolist() == kept
    # A refused mask refuses nobody, and neither does one that was not accepted.
    chain = strips((0, 10), (4, 14), (8, 18))
    ranked = np.array([0.9, 0.8, 0.7])
    assert without_overlaps(np.ones(3, bool), ranked, chain, 0.3).tolist() == [1, 0, 1]
    without_first = np.array([False, True, True])
    assert without_overlaps(without_first, ranked, chain, 0.3).tolist() == [0, 1, 0]
    assert without_overlaps(np.zeros(0, bool), np.zeros(0), strips(), 0.3).shape == (0,)


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


def test_scores_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        threshold(np.array([0.1, np.nan]))


@settings(max_examples=80, deadline=None)
@given(
    scores=st.lists(st.floats(0, 1, width=32), min_size=1, max_size=40),
    rule=st.sampled_from(["mean", "mean_plus_std", "cv", "fixed", "otsu", "top_fraction"]),
    value=st.floats(0, 1),
    cap=st.floats(0, 1),
    seed=st.integers(0, 2**16),
)
def test_accepted_are_the_best_of_the_sound(
    scores: list[float], rule: str, value: float, cap: float, seed: int
) -> None:
    x = np.array(scores)
    rng = np.random.default_rng(seed)
    allowed = rng.random(len(x)) < rng.choice([0.5, 1.0])
    kept = accept(x, allowed, rule=rule, value=value, cap=cap)
    found = threshold(x, rule=rule, value=value, cap=cap)
    assert np.isfinite(found)
    assert found <= cap or rule in ("fixed", "top_fraction")
    assert not kept[~allowed].any()
    left = allowed & ~kept
    if kept.any() and left.any():
        assert x[kept].min() >= x[left].max()
    if (x[allowed] > 0).any():
        assert kept.any()
