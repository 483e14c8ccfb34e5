"""What a study varies: its design with factors and excluded combinations, or a search."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from coin_ray.study import designs
from coin_ray.study.blocks import keys_of
from coin_ray.study.chain import Document, first
from coin_ray.study.designs import Combination
from coin_ray.study.errors import Place, Problems, suggestion
from coin_ray.study.factors import FactorBlock, read_exclude, read_factors
from coin_ray.study.grammar import label
from coin_ray.study.patches import Patch
from coin_ray.study.resolved import Dimension, Search
from coin_ray.study.space import read_space
from coin_ray.study.values import BAD, read

SEARCH = "search"
DESIGNS = (*designs.names(), SEARCH)
Fraction = Literal["resolution_iv"]
_BELONGS = {"fraction": "factorial", "space": SEARCH, "trials": SEARCH, "sampler": SEARCH}
_NOT_SEARCHED = ("factors", "exclude", "screen")
_FEWEST = 4
_MOST_ROWS = 100_000
_MOST_LEVELS = 2_000_000
"""Of all combinations: each has one of every factor."""


@dataclass(frozen=True)
class Varied:
    """``complete``: every factor that the file names could be read."""

    design: str
    factors: Sequence[FactorBlock]
    combinations: Sequence[Combination]
    complete: bool = True
    search: Search | None = None


def read_varied(chain: Sequence[Document], base: Patch, problems: Problems) -> Varied:
    """The combinations of a chain of files that run, or the search; ``base``: settings of all."""
    design = _design(chain, problems)
    space = read_space(chain, [base], problems)
    if design == SEARCH:
        search = _search(chain, space, problems)
        return Varied(design, [], designs.expand(design, []), search=search)
    fraction = design == "factorial" and first(chain, "fraction") is not None
    factors, complete = _factors(chain, design, fraction, problems)
    plain = [block.factor for block in factors]
    exclude = _exclude(chain, plain, problems) if complete else []
    if fraction and complete:
        _check_fraction(chain, plain, problems)
    combinations = designs.expand(design, plain, exclude, fraction=fraction)
    return Varied(design, factors, combinations, complete)


def _design(chain: Sequence[Document], problems: Problems) -> str:
    found = first(chain, "design")
    design = label(found[0], problems) if found else "one_at_a_time"
    if found and design not in DESIGNS:
        hint = suggestion(design, DESIGNS, "designs")
        problems.add(found[0].place, f"unknown design '{design}'", hint)
        return "one_at_a_time"
    # What another file gives for another design is left aside; here it would be a mistake.
    head = chain[0].root
    for key, place in head.keys.items():
        if _BELONGS.get(key, design) != design:
            problems.add(place, f"{key} goes with design: {_BELONGS[key]}", f"this is a {design}")
        elif design == SEARCH and key in _NOT_SEARCHED:
            problems.add(place, f"{key} does not go with design: {SEARCH}", "it varies its space")
    return design


def _factors(
    chain: Sequence[Document], design: str, fraction: bool, problems: Problems
) -> tuple[list[FactorBlock], bool]:
    """The factors that can be varied, and whether they are all that the file names."""
    found = first(chain, "factors")
    if found is None:
        return [], True
    node = found[0]
    factors = read_factors(node, design, problems)
    plain = [block.factor for block in factors]
    most = min(_MOST_ROWS, _MOST_LEVELS // max(1, len(plain)))
    if designs.size(design, plain, fraction=fraction, most=most) > most:
        hint = f"at most {most:,} of {len(plain):,} factors"
        problems.add(node.place, f"this {design} has too many combinations", hint)
        return [], False
    return factors, node.kind == "map" and len(factors) == len(node.value)


def _exclude(
    chain: Sequence[Document], factors: Sequence[designs.Factor], problems: Problems
) -> list[dict[str, tuple[str, ...]]]:
    found = first(chain, "exclude")
    if found is None:
        return []
    base = designs.baseline(factors)
    entries = read_exclude(found[0], factors, problems)
    for entry, place in entries:
        if all(base[name] in levels for name, levels in entry.items()):
            problems.add(place, "this excludes the baseline", "every level is compared with it")
    return [entry for entry, _ in entries]


def _check_fraction(
    chain: Sequence[Document], factors: Sequence[designs.Factor], problems: Problems
) -> None:
    """A fraction estimates main effects only if all of its combinations run."""
    found = first(chain, "fraction")
    assert found is not None
    place = found[0].place
    read(found[0], Fraction, "fraction", problems)
    if len(factors) < _FEWEST:
        hint = "leave fraction out: all combinations run"
        problems.add(place, f"a fraction needs {_FEWEST} factors, there are {len(factors)}", hint)
    hint = "every combination of a fraction has to run"
    for factor in factors:
        if factor.when:
            problems.add(place, f"a fraction cannot do with the when of '{factor.name}'", hint)
    exclude = first(chain, "exclude")
    if exclude is not None:
        problems.add(exclude[0].place, "a fraction cannot do with exclude", hint)


def _search(
    chain: Sequence[Document], space: Sequence[Dimension], problems: Problems
) -> Search | None:
    keys = keys_of(Search)
    design, given = first(chain, "design"), first(chain, "sampler")
    assert design is not None
    sampler = read(given[0], keys["sampler"], "sampler", problems) if given else Search.sampler
    if given and sampler is not BAD:
        _check_sampler(sampler, space, given[0].place, problems)
    if first(chain, "space") is None:
        hint = "such as ot.lambda: {log: [0.01, 3.0]}"
        problems.add(design[0].place, "design: search needs the key 'space'", hint)
    found = first(chain, "trials")
    trials: Any = BAD
    if found is not None:
        trials = read(found[0], keys["trials"], "trials", problems)
    elif sampler == "grid":
        trials = math.prod(len(_grid_values(dimension)) for dimension in space)
    else:
        problems.add(design[0].place, "design: search needs the key 'trials'", "such as trials: 30")
    if trials is BAD or sampler is BAD:
        return None
    return Search(tuple(space), trials, sampler)


def _grid_values(dimension: Dimension) -> Sequence[Any]:
    if dimension.kind == "int":
        low, high = dimension.values
        return range(low, high + 1, dimension.step)
    return dimension.values


def _check_sampler(
    sampler: str, space: Sequence[Dimension], place: Place, problems: Problems
) -> None:
    for dimension in space:
        kind = dimension.kind
        if sampler == "grid" and kind in ("log", "lin"):
            message = f"sampler: grid cannot list {dimension.key}, a {kind} range"
            problems.add(place, message, "give it any: [...]")
        if sampler == "cmaes" and (kind == "any" or dimension.when):
            reason = "one of a list" if kind == "any" else "not always asked for"
            message = f"sampler: cmaes moves numbers, {dimension.key} is {reason}"
            problems.add(place, message, "use sampler: tpe")
