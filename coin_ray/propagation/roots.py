"""Roots of increasing functions of one unknown, as the closed forms of the transport need them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]


def root(
    excess: Callable[[float], tuple[float, float]],
    bracket: tuple[float, float],
    start: float,
    *,
    within: float,
) -> float:
    """Where an increasing function is 0: Newton, kept inside the shrinking ``bracket``, until a
    step is ``within`` this share of the root or of 1. ``excess`` gives its value and slope.

    A step over the root that comes hardly nearer is followed by half of the bracket: where the
    slope is small on both sides and steep between, Newton goes to and fro.
    """
    low, high = bracket
    b, before = start, 0.0
    for _ in range(100):
        value, slope = excess(b)
        low, high = (low, b) if value > 0 else (b, high)
        step = b - value / slope if slope > 0 else np.inf
        to_and_fro = value * before < 0 and 2 * abs(value) > abs(before)
        following = step if low < step < high and not to_and_fro else (low + high) / 2
        before = value
        if abs(following - b) <= within * max(1.0, abs(b)):
            break
        b = following
    return b


def logistic(x: Float64) -> Float64:
    """1 / (1 + exp(-x)) without overflow and exact in both tails."""
    tail = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, tail) / (1 + tail)
