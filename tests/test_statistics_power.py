"""What a design can reach, against its definition and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from coin_ray.statistics.paired import sign_flip
from coin_ray.statistics.power import detectable_effect, smallest_p


@pytest.mark.parametrize("units", [2, 3, 6, 14, 16, 17, 100])
def test_smallest_p_is_what_the_test_can_reach(units: int) -> None:
    # No pattern of differences is further from 0 than all of one sign.
    assert smallest_p(units) == sign_flip(np.ones(units))


def test_smallest_p_by_hand() -> None:
    assert [smallest_p(n) for n in (0, 1, 3, 4, 5)] == [1, 1, 0.25, 0.125, 0.0625]
    assert smallest_p(6) == pytest.approx(0.031, abs=5e-4)
    assert smallest_p(14) == pytest.approx(1.2e-4, abs=5e-6)


def test_no_effect_is_large_enough_for_five_seeds() -> None:
    assert detectable_effect(0.01, 5) is None
    assert detectable_effect(0.01, 5, alpha=0.1) is not None
    assert detectable_effect(0.01, 6) is not None


@pytest.mark.parametrize("units", [6, 14, 50])
def test_power_of_the_detectable_effect(units: int) -> None:
    effect = detectable_effect(0.03, units)
    assert effect is not None
    # Power of the two-sided t-test, by the definition of the noncentral t distribution.
    threshold = stats.t.ppf(0.975, units - 1)
    shift = effect / 0.03 * np.sqrt(units)
    assert stats.nct.sf(threshold, units - 1, shift) == pytest.approx(0.8, abs=1e-4)
    wanted = detectable_effect(0.03, units, power=0.95)
    assert wanted is not None and wanted > effect
    assert detectable_effect(0.06, units) == pytest.approx(2 * effect)


def test_sign_flip_finds_the_detectable_effect() -> None:
    """300 experiments of 10 images: the standard error of the share found is 2.3 %."""
    rng = np.random.default_rng(3)
    effect = detectable_effect(0.05, 10)
    assert effect is not None
    found = [sign_flip(rng.normal(effect, 0.05, 10)) for _ in range(300)]
    assert np.mean([p is not None and p <= 0.05 for p in found]) == pytest.approx(0.8, abs=0.07)
