"""What a design can show before it is run: the smallest p, and the smallest effect."""

from __future__ import annotations

import math

EXACT_UNITS = 16
"""Up to this many differences all sign flips are enumerated."""
FLIPS = 19_999
"""Random sign flips beyond that; with the observed one no p lies below 1 / 20,000."""


def smallest_p(units: int) -> float:
    """The smallest two-sided p of the sign-flip test over ``units`` images or random seeds.

    2 / 2^units: 3 seeds reach 0.25, 5 reach 0.0625, 6 reach 0.031; where flips are drawn at random
    it is 1 / (1 + flips).
    """
    if units > EXACT_UNITS:
        return 1 / (1 + FLIPS)
    return min(1.0, 2 / 2**units)


def detectable_effect(
    sd: float, units: int, *, alpha: float = 0.05, power: float = 0.8
) -> float | None:
    """The smallest mean difference that a paired two-sided test over ``units`` finds with
    probability ``power``; ``sd`` is the standard deviation of the paired differences, and the
    result is in its unit.

    From the noncentral t distribution of the paired t-test, whose power the sign-flip test shares
    but for small ``units``. None where no difference is large enough: ``smallest_p`` > alpha.
    """
    if smallest_p(units) > alpha:
        return None
    from scipy.special import nctdtrinc, stdtrit

    threshold = stdtrit(units - 1, 1 - alpha / 2)
    return float(nctdtrinc(units - 1, 1 - power, threshold) * sd / math.sqrt(units))
