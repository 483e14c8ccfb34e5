"""What became of a claim that was written down before anything ran."""

from __future__ import annotations

from typing import Literal

from coin_ray.statistics.sequential import Look, bounds

Judgement = Literal["confirmed", "refuted", "not decided"]


def judge(found: Look | None, *, worth: float, alpha: float) -> Judgement:
    """``refuted``: surely smaller than the smallest difference ``worth`` having (the upper bound is
    below it); ``confirmed``: surely above 0, and not refuted. A difference of 0 or less is
    confirmed, and one of ``worth`` or more refuted, with probability ``alpha`` at most."""
    if found is None:
        return "not decided"
    low, high = bounds(found, alpha)
    if high < worth:
        return "refuted"
    return "confirmed" if low > 0 else "not decided"
