"""A paper's numbers beside ours: the difference, and what it says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from coin_ray.statistics.intervals import Estimate
from coin_ray.study.resolved import Published

Verdict = Literal["reproduced", "within tolerance", "differs", "not comparable", "missing"]
MEANING = (
    "Reproduced: within {tolerance:g} of the published value, which lies in our interval. "
    "Within tolerance: within {tolerance:g}, outside our interval or without one. Differs: further "
    "away; where the published value still lies in our interval, there are too few images to tell."
)


@dataclass(frozen=True)
class Numbers:
    """Published values for one data set: level -> metric -> value. ``comparable``: whether our
    cells measure the same thing; ``note`` says where the values are from, or why there are none."""

    rows: Mapping[str, Mapping[str, float]]
    comparable: bool
    note: str


def published_for(published: Published, profile: str, data: str) -> Numbers:
    """What ``published`` has for a data set."""
    rows: dict[str, Mapping[str, float]] = {
        level: {str(metric): value for metric, value in values.items()}
        for level, by_data in published.rows.items()
        for name, values in by_data.items()
        if _same(name, data)
    }
    comparable = bool(rows) and profile in published.comparable
    if comparable:
        note = f" ({published.note})" if published.note else ""
        return Numbers(rows, True, f"Published: {published.source}{note}.")
    names = sorted({name for by_data in published.rows.values() for name in by_data})
    return Numbers(
        rows,
        False,
        f"Numbers of {published.source} are for profile {' or '.join(published.comparable)} on "
        f"{', '.join(names)}; they are not comparable with profile {profile} on {data}.",
    )


def verdict(
    own: Estimate | None, value: float, *, tolerance: float, comparable: bool
) -> tuple[Verdict, bool]:
    """What our mean ``own`` says about a published ``value``, see ``MEANING``, and whether the
    value lies in its interval.

    ``own`` is compared at the three decimals of a published value; ``tolerance`` is inclusive.
    """
    if not comparable:
        return "not comparable", False
    if own is None:
        return "missing", False
    inside = own.low is not None and own.high is not None and own.low <= value <= own.high
    if abs(round(own.mean, 3) - value) > tolerance + 1e-9:
        return "differs", inside
    return "reproduced" if inside else "within tolerance", inside


def _same(left: str, right: str) -> bool:
    """MoNuSeg-test, MoNuSeg_test and monuseg test are one data set."""
    bare = ["".join(c for c in name.lower() if c.isalnum()) for name in (left, right)]
    return bare[0] == bare[1]
