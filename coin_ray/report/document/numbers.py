"""Numbers as they are printed: means with intervals, differences with a sign, p-values."""

from __future__ import annotations

from coin_ray.report.document.blocks import Value
from coin_ray.statistics.intervals import Estimate

DASH, MISSING = "–", "missing"


def estimated(found: Estimate | None, *, strong: bool = False) -> Value:
    """A mean with its interval below it; what is missing is said to be."""
    if found is None:
        return Value(MISSING)
    return interval(found.mean, found.low, found.high, strong=strong)


def interval(
    mean: float | None,
    low: float | None,
    high: float | None,
    form: str = ".3f",
    *,
    strong: bool = False,
) -> Value:
    """A number in ``form`` with its interval below it; a dash where there is none."""
    if mean is None:
        return Value(DASH)
    between = " to " if "+" in form else DASH
    detail = "" if low is None or high is None else f"{low:{form}}{between}{high:{form}}"
    return Value(minus(f"{mean:{form}}"), minus(detail), strong)


def in_words(found: Estimate) -> str:
    """``0.611 (0.577–0.648)``."""
    value = estimated(found)
    return f"{value.text} ({value.detail})" if value.detail else value.text


def signed(number: float) -> str:
    """A difference."""
    return minus(f"{number:+.3f}")


def minus(number: str) -> str:
    """With the sign that is as wide as a plus."""
    return number.replace("-", "−")


def p_value(p: float | None) -> str:
    """Three decimals; what is smaller is said to be."""
    return DASH if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def plain(value: float) -> str:
    """A fact of any size: three decimals below ten, else none."""
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.0f}"
