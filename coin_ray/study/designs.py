"""Designs: which combinations of factor levels a study runs. Pure: labels in, labels out.

* ``one_at_a_time``: the baseline, then every other level of every factor with the rest at baseline.
* ``grid``: every combination.
* ``factorial``: every combination of factors with two levels each (main effects, interactions), or
  a fraction of them that still estimates every main effect free of two-factor interactions.
* ``leave_one_out``: the baseline is the full method; each factor in turn takes its other level.
* ``ladder``: from the baseline, the factors take their other level one after the other and keep it;
  the result depends on the order of the factors. Given ``rungs``, each says which factors have.

A factor may be varied only ``when`` others have certain levels; elsewhere it stays at its baseline,
and combinations that come to the same are one.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

BASELINE = "baseline"


@dataclass(frozen=True)
class Factor:
    """A name, its level labels in order, and the one that stands when the factor is not varied.
    ``when``: earlier factor -> the levels, one of which it has to have for this one to vary."""

    name: str
    levels: tuple[str, ...]
    baseline: str
    when: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

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
    design: str,
    factors: Sequence[Factor],
    exclude: Sequence[Mapping[str, tuple[str, ...]]] = (),
    *,
    fraction: bool = False,
    rungs: Sequence[Sequence[str]] = (),
) -> list[Combination]:
    """The combinations of a design in table order, without the excluded ones.

    An entry of ``exclude`` names levels of some factors and drops every combination that has one of
    them for each. ``rungs`` of a ladder name the factors that each has changed. ``fraction`` takes
    the factorial's share of resolution IV. Labels are unique.
    Raises KeyError for a name that is no design.
    """
    if not factors:
        return [Combination(BASELINE, {})]
    if rungs:
        rows = _rungs(factors, rungs)
    else:
        rows = _resolution_iv(factors) if fraction else _DESIGNS[design](factors)
    found: dict[tuple[str, ...], Combination] = {}
    for row in rows:
        levels = _settled(row.levels, factors)
        label = row.label or _label(design, levels, factors)
        found.setdefault(tuple(levels.values()), Combination(label, levels))
    kept = [row for row in found.values() if not any(_has(row.levels, entry) for entry in exclude)]
    return _unique(kept, factors)


def size(design: str, factors: Sequence[Factor], *, fraction: bool, most: int) -> int:
    """How many combinations :func:`expand` makes at most, before it does; more than ``most`` stands
    for any number beyond."""
    if fraction:
        return 4 * len(factors)  # twice the next power of two at most
    if design not in ("grid", "factorial"):
        return 1 + sum(len(factor.others) for factor in factors)
    found = 1
    for factor in factors:
        found = min(found * len(factor.levels), most + 1)
    return found


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
    names = [factor.name for factor in factors]
    product = itertools.product(*(factor.levels for factor in factors))
    return [Combination("", dict(zip(names, row, strict=True))) for row in product]


def _resolution_iv(factors: Sequence[Factor]) -> list[Combination]:
    basic, words = generators(len(factors))
    rows = []
    for bits in itertools.product((0, 1), repeat=basic):
        switched = [*bits, *(sum(bits[i] for i in word) % 2 for word in words)]
        levels = {
            factor.name: factor.others[0] if on else factor.baseline
            for factor, on in zip(factors, switched, strict=True)
        }
        rows.append(Combination("", levels))
    return rows


def generators(factors: int) -> tuple[int, list[tuple[int, ...]]]:
    """How many of a fraction's factors vary freely, and for each of the others the free ones whose
    product it follows; the smallest two-level design of resolution IV, the baseline in it.

    Products of an odd number of factors: any of their relations then ties an even number of
    factors, and never just two. One single product takes all free factors, which ties most.
    """
    free = next(m for m in itertools.count(1) if 2 ** (m - 1) >= factors)
    if factors == free + 1:
        return free, [tuple(range(free))]
    odd = (w for size in range(3, free + 1, 2) for w in itertools.combinations(range(free), size))
    return free, list(itertools.islice(odd, max(0, factors - free)))


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


def _rungs(factors: Sequence[Factor], rungs: Sequence[Sequence[str]]) -> list[Combination]:
    base, others = baseline(factors), {factor.name: factor.others[0] for factor in factors}
    rows = [Combination(BASELINE, base)]
    for rung in rungs:
        changed = {name: others[name] for name in base if name in rung}
        rows.append(Combination(" + ".join(changed.values()), base | changed))
    return rows


_DESIGNS: dict[str, Callable[[Sequence[Factor]], list[Combination]]] = {
    "one_at_a_time": _one_at_a_time,
    "grid": _grid,
    "leave_one_out": _leave_one_out,
    "ladder": _ladder,
    "factorial": _grid,
}


def _has(levels: Mapping[str, str], wanted: Mapping[str, tuple[str, ...]]) -> bool:
    return all(levels[name] in allowed for name, allowed in wanted.items())


def _settled(levels: Mapping[str, str], factors: Sequence[Factor]) -> dict[str, str]:
    """Every factor that does not vary here at its baseline; a ``when`` looks at earlier factors."""
    out = dict(levels)
    for factor in factors:
        if not _has(out, factor.when):
            out[factor.name] = factor.baseline
    return out


def _label(design: str, levels: Mapping[str, str], factors: Sequence[Factor]) -> str:
    """The levels of a combination: of a grid those that vary, of a factorial (which may have a
    dozen factors) those that are switched."""
    shown = [
        factor
        for factor in factors
        if _has(levels, factor.when)
        and (design != "factorial" or levels[factor.name] != factor.baseline)
    ]
    every = [level for factor in factors for level in factor.levels]
    if len(set(every)) == len(every):
        words = [levels[factor.name] for factor in shown]
    else:
        # Switches share their labels ("on", "off"): a label alone would not say which one it is.
        words = [f"{factor.name} {levels[factor.name]}" for factor in shown]
    return ", ".join(words) or BASELINE


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
