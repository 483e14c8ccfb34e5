"""Effects of factors as contrasts: weights, summing to 0, over the rows of a design.

An effect is the weighted sum of the rows' values, so it can be formed for every image and random
seed first and gets the interval of any other paired difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.int64]
"""(rows, factors): -1 where the factor is at its baseline, +1 where it is at its other level."""
Term = tuple[int, ...]
"""Columns of ``Codes``: one for a main effect, two for an interaction."""
Row = Mapping[str, str]
"""Factor -> its level in a row of the design."""


@dataclass(frozen=True)
class Effect:
    """``weights`` (rows,): what is formed of the rows' values. ``main``: mean change when
    ``factor`` goes from its baseline to ``level``, over all combinations of the other factors.
    ``interaction`` of ``factor`` and ``other``. ``shapley``: the factor's part of the gain from
    all at baseline to all changed, which is ``total``. ``step``: a rung of a ladder.
    ``difference``: the factor alone is changed."""

    kind: Literal["main", "interaction", "shapley", "step", "difference", "total"]
    factor: str | None
    level: str | None
    other: str | None
    weights: NDArray[np.float64]
    caution: str | None = None


def effects(design: str, rows: Sequence[Row], baseline: Row) -> list[Effect]:
    """The effects that a design can tell, from its rows and the row with all at baseline.

    A grid of two-level factors is a factorial; in a grid, or a factorial with combinations left
    out, main effects are means over the pairs of rows that differ in one factor.
    """
    if design in ("grid", "factorial"):
        return _factorial(rows, baseline) or _paired_rows("main", rows, baseline)
    if design == "ladder":
        note = "depends on the order of the factors; a factorial gives Shapley shares, which do not"
        steps = _paired_rows("step", rows, baseline, note)
        whole = np.zeros(len(rows))
        whole[-1], whole[list(rows).index(baseline)] = 1, -1
        return [*steps, _total(whole)] if steps else []
    if design in ("one_at_a_time", "leave_one_out"):
        return _paired_rows("difference", rows, baseline)
    return []


def _paired_rows(
    kind: Literal["main", "step", "difference"],
    rows: Sequence[Row],
    baseline: Row,
    caution: str | None = None,
) -> list[Effect]:
    found = []
    for factor, base in baseline.items():
        for level in dict.fromkeys(row[factor] for row in rows):
            weights = matched(rows, factor, level, base) if level != base else None
            if weights is not None:
                found.append(Effect(kind, factor, level, None, weights, caution))
    return found


def _factorial(rows: Sequence[Row], baseline: Row) -> list[Effect]:
    """Empty where this is no two-level factorial with balanced rows."""
    names = list(baseline)
    others = {f: {row[f] for row in rows} - {base} for f, base in baseline.items()}
    if not names or any(len(levels) != 1 for levels in others.values()):
        return []
    level = {f: next(iter(levels)) for f, levels in others.items()}
    codes = np.array([[1 if row[f] == level[f] else -1 for f in names] for row in rows])
    try:
        found = contrasts(codes)
    except ValueError:
        return []
    same = aliases(found)
    out = []
    for term, weights in found.items():
        alias = ", ".join(" × ".join(names[i] for i in other) for other in same[term])
        note = f"cannot be told from {alias}" if alias else None
        factor, other = names[term[0]], names[term[1]] if len(term) == 2 else None
        kind: Literal["main", "interaction"] = "interaction" if other else "main"
        out.append(Effect(kind, factor, level[factor], other, weights, note))
    if is_full(codes):
        shares = shapley(codes)
        out += [
            Effect("shapley", f, level[f], None, share)
            for f, share in zip(names, shares, strict=True)
        ]
        out.append(_total((codes.min(axis=1) == 1) * 1.0 - (codes.max(axis=1) == -1)))
    return out


def _total(weights: NDArray[np.float64]) -> Effect:
    return Effect("total", None, None, None, weights)


def contrasts(codes: Codes) -> dict[Term, NDArray[np.float64]]:
    """Weights (rows,) of the main effects and two-way interactions of a two-level design.

    Yates' convention: a main effect is the mean at + less the mean at -; the interaction AB is half
    the effect of A at B+ less its effect at B-.

    Raises:
        ValueError: the main effects are not balanced and orthogonal (rows are missing).
    """
    rows, factors = codes.shape
    if (codes.T @ codes != rows * np.eye(factors)).any() or codes.sum(axis=0).any():
        raise ValueError("a factorial design needs balanced, orthogonal factors")
    terms = [t for size in (1, 2) for t in combinations(range(factors), size)]
    return {term: codes[:, term].prod(axis=1) * 2 / rows for term in terms}


def aliases(found: Mapping[Term, NDArray[np.float64]]) -> dict[Term, list[Term]]:
    """The terms that a fractional design cannot tell from each other: their weights are the same
    but for the sign. Interactions of three or more factors are taken for nothing."""
    return {
        term: [
            other
            for other, theirs in found.items()
            if other != term and (np.allclose(own, theirs) or np.allclose(own, -theirs))
        ]
        for term, own in found.items()
    }


def is_full(codes: Codes) -> bool:
    """True when every combination of the factors is there once."""
    rows, factors = codes.shape
    return rows == 2**factors == len(np.unique(codes, axis=0))


def shapley(codes: Codes) -> NDArray[np.float64]:
    """Weights (factors, rows) of the Shapley shares of a full 2^k factorial: what a factor adds,
    averaged over all orders in which the factors could be changed. They sum to the row with all
    changed less the row with none (Shapley 1953).

    Raises:
        ValueError: a combination is missing.
    """
    if not is_full(codes):
        raise ValueError("Shapley shares need every combination of the factors")
    k = codes.shape[1]
    size = (codes == 1).sum(axis=1)
    # With s factors changed, in or without the factor: 1 / (k C(k-1, s-1)) or -1 / (k C(k-1, s)).
    with_it = np.array([0.0] + [1 / (k * comb(k - 1, s - 1)) for s in range(1, k + 1)])
    without = np.array([1 / (k * comb(k - 1, s)) for s in range(k)] + [0.0])
    return np.where(codes.T == 1, with_it[size], -without[size])


def matched(
    rows: Sequence[Mapping[str, str]], factor: str, level: str, baseline: str
) -> NDArray[np.float64] | None:
    """Weights (rows,) of the mean difference between ``level`` and ``baseline`` of ``factor`` over
    all pairs of rows (factor -> level) that differ in nothing else; None where there is no pair."""
    place = {tuple(sorted(row.items())): i for i, row in enumerate(rows)}
    weights = np.zeros(len(rows))
    for i, row in enumerate(rows):
        partner = place.get(tuple(sorted({**row, factor: baseline}.items())))
        if row[factor] == level and partner is not None:
            weights[i] += 1
            weights[partner] -= 1
    pairs = np.abs(weights).sum() / 2
    return weights / pairs if pairs else None
