"""What a case of the benchmark is, and when two results count as the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.inputs import Inputs

Result = dict[str, Any]
Side = Callable[[Inputs], Callable[[], Result]]
Agreement = tuple[bool, str]


@dataclass(frozen=True)
class Case:
    """``compare`` takes both results (ours first); ``note`` goes under the table.

    With ``passes`` the figures are seconds of one of the runs that the result counts, and the row
    is repeated for that many, marked as extrapolated. ``needs_gb`` of free memory are asked for
    before the literal side of a 1000-px tile; ``limit_mb`` bounds the peak of ours.
    """

    title: str
    ours: Side
    literal: Side | None = None
    compare: Callable[[Result, Result], Agreement] | None = None
    note: str = ""
    passes: int = 0
    needs_gb: float = 0.0
    limit_mb: float = 0.0


def within(bound: float, *names: str) -> Callable[[Result, Result], Agreement]:
    """Arrays that differ by no more than ``bound``."""

    def compare(ours: Result, literal: Result) -> Agreement:
        worst = max(float(np.abs(ours[k] - literal[k]).max(initial=0)) for k in names)
        return worst <= bound, f"max difference {worst:.1g} (allowed {bound:g})"

    return compare


def equal(*names: str) -> Callable[[Result, Result], Agreement]:
    """Equal arrays."""

    def compare(ours: Result, literal: Result) -> Agreement:
        same = all(np.array_equal(ours[k], literal[k]) for k in names)
        return same, "equal" if same else "DIFFERENT"

    return compare
