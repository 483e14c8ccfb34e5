"""Paired tests against SciPy and hand values, and the properties that they promise."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from coin_ray.statistics.intervals import estimate
from coin_ray.statistics.paired import (
    Comparison,
    aligned,
    compare,
    holm,
    sign_flip,
    verdict,
)
from coin_ray.statistics.power import FLIPS
from coin_ray.study.resolved import Analysis

NAN = float("nan")
numbers = st.floats(-1, 1).map(lambda x: round(x, 3))
quick = settings(max_examples=30, deadline=None)


def scipy_p(values: np.ndarray, resamples: float) -> float:
    found = stats.permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=resamples, rng=0
    )
    return float(found.pvalue)


@pytest.mark.parametrize("n", [2, 5, 12])
def test_sign_flip_is_scipys_where_it_is_exact(n: int) -> None:
    values = np.random.default_rng(n).normal(0.3, 1, n)
    assert sign_flip(values) == pytest.approx(scipy_p(values, np.inf))


def test_sign_flip_of_ties_is_scipys() -> None:
    # Many sums are equal up to rounding, and zeros do not change with their sign.
    values = np.array([0.1, 0.2, 0.3, 0.0, -0.1, 0.2, 0.1, 0.0])
    assert sign_flip(values) == pytest.approx(scipy_p(values, np.inf))


def test_sign_flip_by_hand() -> None:
    # Of +-1 +-2 +-3 only +++ and --- are as far from 0.
    assert sign_flip([1, 2, 3]) == 2 / 8
    # Of the sums 4, -2, 0, -6 and their mirror images, half are as far from 0 as -1 + 2 + 3 = 4.
    assert sign_flip([-1, 2, 3]) == 4 / 8
    assert sign_flip([0, 0, 0]) == 1
    assert sign_flip([0.3] * 6) == 2 / 2**6  # six seeds reach 0.031
    assert sign_flip([0.3]) is None


def test_sign_flip_of_many_is_drawn() -> None:
    values = np.random.default_rng(0).normal(0.25, 1, 40)
    found = sign_flip(values)
    assert found is not None
    assert found == sign_flip(values)
    # p is near 0.1: the standard error of each of the two draws is 0.002.
    assert found == pytest.approx(scipy_p(values, FLIPS), abs=0.01)
    assert sign_flip(np.ones(40)) == 1 / (1 + FLIPS)  # never 0


@quick
@given(st.lists(numbers, min_size=2, max_size=9))
def test_sign_flip_is_symmetric_and_bounded_below(values: list[float]) -> None:
    found = sign_flip(values)
    assert found is not None
    assert found == sign_flip([-v for v in values]) == sign_flip(values[::-1])
    assert 2 / 2 ** len(values) <= found <= 1


def test_holm_by_hand() -> None:
    # Sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1, each at least the one before.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    # 4 x 0.005, 3 x 0.011, 2 x 0.02, 0.04.
    assert holm([0.02, 0.005, 0.04, 0.011]) == pytest.approx([0.04, 0.02, 0.04, 0.033])
    assert holm([0.6, None, 0.7]) == [1.0, None, 1.0]
    assert holm([]) == [] and holm([0.03]) == [0.03]


@quick
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_against_its_closed_form(p_values: list[float]) -> None:
    """Closed testing: the adjusted p is the largest Bonferroni p of the sets it is in."""
    everyone = range(len(p_values))
    expected = [0.0] * len(p_values)
    for size in range(1, len(p_values) + 1):
        for group in itertools.combinations(everyone, size):
            bonferroni = min(1.0, size * min(p_values[i] for i in group))
            for i in group:
                expected[i] = max(expected[i], bonferroni)
    assert holm(p_values) == pytest.approx(expected)


@quick
@given(st.lists(st.floats(0, 1), min_size=2, max_size=8))
def test_holm_keeps_the_order_and_never_lowers(p_values: list[float]) -> None:
    found = [p for p in holm(p_values) if p is not None]
    assert all(a >= p for a, p in zip(found, p_values, strict=True))
    ranked = [a for _, a in sorted(zip(p_values, found, strict=True))]
    assert ranked == sorted(ranked)


def test_aligned_by_hand() -> None:
    one, two = aligned({("b", 0): 1.0, ("a", 3): 2.0}, {("a", 0): 3.0})
    np.testing.assert_array_equal(one, [[NAN, 2.0], [1.0, NAN]])
    np.testing.assert_array_equal(two, [[3.0, NAN], [NAN, NAN]])


def same(level: np.ndarray, baseline: np.ndarray, **options: str) -> Comparison:
    found = compare(level, baseline, **options)  # type: ignore[arg-type]
    assert found is not None
    return found


def test_compare_by_hand() -> None:
    baseline = np.array([[0.5, 0.5], [0.2, 0.4], [0.6, 0.6]])
    level = baseline + np.array([[0.1, 0.3], [0.0, 0.0], [-0.1, 0.1]])
    found = same(level, baseline)
    # By image 0.2, 0, 0; by seed 0, 0.4 / 3.
    assert found.delta.mean == pytest.approx(0.2 / 3)
    assert (found.delta.images, found.delta.seeds) == (3, 2)
    assert found.level_mean - found.baseline_mean == pytest.approx(found.delta.mean)
    assert found.baseline_mean == pytest.approx((0.5 + 0.3 + 0.6) / 3)
    assert found.p_image == 1  # one difference: both signs are as far from 0
    assert found.p_seed == 1
    deviation = 0.2 / np.sqrt(3)
    assert found.effect_size == pytest.approx(0.2 / 3 / deviation)


def test_the_tests_see_images_or_seeds_never_both() -> None:
    rng = np.random.default_rng(4)
    baseline = rng.uniform(0.3, 0.6, (14, 6))
    level = baseline + rng.normal(0.02, 0.03, (14, 6))
    found = same(level, baseline)
    difference = level - baseline
    assert found.p_image == pytest.approx(scipy_p(difference.mean(axis=1), np.inf))
    assert found.p_seed == pytest.approx(scipy_p(difference.mean(axis=0), np.inf))
    by_image = difference.mean(axis=1)
    assert found.p_wilcoxon == pytest.approx(stats.wilcoxon(by_image).pvalue)
    assert found.delta == estimate(difference)
    # d_z is the t statistic over the root of n.
    t = stats.ttest_1samp(by_image, 0).statistic
    assert found.effect_size == pytest.approx(t / np.sqrt(14))
    assert found.improvement == np.mean(by_image > 0)
    # More copies of the same seeds add nothing to the images.
    again = same(np.tile(level, 3), np.tile(baseline, 3))
    assert again.p_image == pytest.approx(found.p_image)


def test_improvement_counts_ties_half_and_knows_the_direction() -> None:
    baseline = np.full((4, 1), 0.5)
    level = np.array([[0.6], [0.7], [0.5], [0.4]])
    assert same(level, baseline).improvement == pytest.approx(2.5 / 4)
    assert same(level, baseline, mode="min").improvement == pytest.approx(1.5 / 4)


@quick
@given(st.integers(2, 9), st.integers(1, 3), st.integers(0, 999))
def test_compare_is_antisymmetric(images: int, seeds: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 6, (2, images, seeds)) / 5  # ties happen
    there, back = same(a, b), same(b, a)
    assert there.delta.mean == pytest.approx(-back.delta.mean, abs=1e-12)
    assert there.delta.low is not None and back.delta.high is not None
    assert there.delta.low == pytest.approx(-back.delta.high, abs=1e-12)
    assert (there.p_image, there.p_seed) == (back.p_image, back.p_seed)
    assert there.improvement + back.improvement == pytest.approx(1)


def test_other_seeds_or_one_seed_get_no_test() -> None:
    baseline = np.random.default_rng(0).random((8, 3))
    level = baseline + 0.1
    level[:, 2] = NAN
    found = same(level, baseline)
    assert not found.same_seeds
    assert (found.p_image, found.p_seed, found.p_wilcoxon) == (None, None, None)
    assert found.delta.mean == pytest.approx(0.1) and found.delta.seeds == 2
    alone = same(level[:, :1], baseline[:, :1])
    assert alone.p_seed is None and alone.p_image == 2 / 2**8
    assert same(level[:1, :2], baseline[:1, :2]).p_image is None
    assert compare(level[:, 2:], baseline[:, 2:]) is None
    assert compare(*aligned({}, {})) is None


def test_an_image_without_a_pair_is_left_out() -> None:
    baseline = np.array([[0.5, 0.5], [NAN, NAN], [0.3, 0.3]])
    level = np.array([[0.6, NAN], [0.9, 0.9], [0.5, 0.3]])
    found = same(level, baseline)
    assert found.delta.images == 2
    # By image 0.1 (its one pair) and 0.1.
    assert found.delta.mean == pytest.approx(0.1)
    assert (found.level_mean, found.baseline_mean) == pytest.approx((0.5, 0.4))


def test_equal_levels() -> None:
    values = np.random.default_rng(0).random((20, 2))
    found = same(values, values)
    assert (found.p_image, found.p_seed, found.p_wilcoxon) == (1, 1, 1)
    assert found.effect_size is None and found.improvement == 0.5


ANALYSIS = Analysis(alpha=0.05, min_effect=0.01)


def decided(low: float | None, high: float | None, p: float | None, **options: object) -> str:
    found = same(np.full((3, 2), 0.6), np.full((3, 2), 0.5))
    seeds = options.pop("seeds", 2)
    delta = dataclasses.replace(found.delta, low=low, high=high, seeds=seeds)  # type: ignore[arg-type]
    found = dataclasses.replace(found, delta=delta)
    return verdict(found, p, ANALYSIS, **options)  # type: ignore[arg-type]


def test_verdicts() -> None:
    assert decided(0.02, 0.08, 0.01) == "better"
    assert decided(-0.08, -0.02, 0.01) == "worse"
    assert decided(0.02, 0.08, 0.01, mode="min") == "worse"
    assert decided(-0.08, -0.02, 0.01, mode="min") == "better"
    assert decided(-0.009, 0.01, 0.9) == "equal"
    assert decided(0.001, 0.005, 0.001) == "equal"  # too small to be worth having
    assert decided(-0.01, 0.02, 0.01) == "open"  # the interval holds 0
    assert decided(0.02, 0.08, 0.06) == "open"  # p does not reach alpha
    assert decided(0.02, 0.08, None) == "open"  # no test
    assert decided(None, None, None) == "open"  # one image
    assert decided(0.02, 0.08, 0.01, seeds=1) == "open"  # another training may differ


def test_a_real_difference_is_found_and_no_difference_is_not() -> None:
    """Share of 200 experiments without a difference that get a p below 5 %: at most 5 %."""
    rng = np.random.default_rng(7)
    small = 0
    for _ in range(200):
        p = sign_flip(rng.normal(0, 0.1, 10))
        assert p is not None
        small += p <= 0.05
    assert small / 200 <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 200)
    assert small > 0
    assert sign_flip(rng.normal(0.2, 0.1, 10)) == pytest.approx(2 / 2**10, abs=0.01)
