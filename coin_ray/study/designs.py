"""Designs: which combinations of factor levels a study runs. Pure: labels in, labels out.

* ``one_at_a_time``: the baseline, then every other level of every factor with the rest at baseline.
* ``grid``: every combination.
* ``factorial``: every combination of factors with two levels each (main effects, interactions).
* ``leave_one_out``: the baseline is the full method; each factor in turn takes its other level.
* ``ladder``: from the baseline, the factors take their other level one after the other and keep it;
  the result depends on the order of the factors.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

BASELINE = "baseline"


@dataclass(frozen=True)
class Factor:
    """A name, its level labels in order, and the one that stands when the factor is not varied."""

    name: str
    levels: tuple[str, ...]
    baseline: str

    @property
    def others(self) -> tuple[str, ...]:
        """The levels that are not the baseline."""
        return tuple(level for level in self.levels if level != self.baseline)


@dataclass(frozen=True)
class Combination:
    """A row of the result table: its label and the level of every factor."""

    label: str
    levels: Mapping[str, str]


def expand(
    design: str, factors: Sequence[Factor], exclude: Sequence[Mapping[str, str]] = ()
) -> list[Combination]:
    """The combinations of a design in table order, without the excluded ones.

    An entry of ``exclude`` names levels of some factors and drops every combination that has all of
    them. Labels are unique. Raises KeyError for a name that is no design.
    """
    if not factors:
        return [Combination(BASELINE, {})]
    rows = _DESIGNS[design](factors)
    kept = [row for row in rows if not any(_matches(row.levels, entry) for entry in exclude)]
    return _unique(kept, factors)


def baseline(factors: Sequence[Factor]) -> dict[str, str]:
    """Every factor at its baseline."""
    return {factor.name: factor.baseline for factor in factors}


def needs_two_levels(design: str) -> bool:
    """True for a design in which each factor is a switch between exactly two levels."""
    return design in ("factorial", "leave_one_out", "ladder")


def names() -> tuple[str, ...]:
    """The designs there are."""
    return tuple(_DESIGNS)


def _one_at_a_time(factors: Sequence[Factor]) -> list[Combination]:
    base = baseline(factors)
    if len(factors) == 1:
        (only,) = factors
        return [Combination(level, {only.name: level}) for level in only.levels]
    rows = [Combination(BASELINE, base)]
    rows += [
        Combination(level, {**base, factor.name: level})
        for factor in factors
        for level in factor.others
    ]
    return rows


def _grid(factors: Sequence[Factor]) -> list[Combination]:
    product = itertools.product(*(factor.levels for factor in factors))
    rows = [dict(zip((f.name for f in factors), row, strict=True)) for row in product]
    every = [level for factor in factors for level in factor.levels]
    if len(set(every)) == len(every):
        return [Combination(", ".join(row.values()), row) for row in rows]
    # Switches share their labels ("on", "off"), so a label alone would not say which one it is.
    return [Combination(", ".join(f"{n} {v}" for n, v in row.items()), row) for row in rows]


def _leave_one_out(factors: Sequence[Factor]) -> list[Combination]:
    base = baseline(factors)
    rows = [Combination("full", base)]
    rows += [
        Combination(f"without {factor.name}", {**base, factor.name: factor.others[0]})
        for factor in factors
    ]
    return rows


def _ladder(factors: Sequence[Factor]) -> list[Combination]:
    current = baseline(factors)
    rows = [Combination(BASELINE, dict(current))]
    for factor in factors:
        current[factor.name] = factor.others[0]
        rows.append(Combination(f"+ {factor.others[0]}", dict(current)))
    return rows


_DESIGNS: dict[str, Callable[[Sequence[Factor]], list[Combination]]] = {
    "one_at_a_time": _one_at_a_time,
    "grid": _grid,
    "leave_one_out": _leave_one_out,
    "ladder": _ladder,
    "factorial": _grid,
}


def _matches(levels: Mapping[str, str], entry: Mapping[str, str]) -> bool:
    return all(levels.get(name) == label for name, label in entry.items())


def _unique(rows: Sequence[Combination], factors: Sequence[Factor]) -> list[Combination]:
    """Two factors may share a level label ("off"); then the factor's name tells the rows apart."""
    labels = Counter(row.label for row in rows)
    base = baseline(factors)
    out = []
    for row in rows:
        label = row.label
        if labels[label] > 1:
            label = ", ".join(f"{n}={v}" for n, v in row.levels.items() if v != base[n]) or label
        out.append(Combination(label, row.levels))
    return out
