"""What a study varies: its design with factors and excluded combinations, or a search."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from coin_ray.study import designs
from coin_ray.study.blocks import keys_of
from coin_ray.study.chain import Chain
from coin_ray.study.designs import Combination
from coin_ray.study.factors import FactorBlock, read_exclude, read_factors, read_rungs
from coin_ray.study.grammar import Node
from coin_ray.study.patches import Patch
from coin_ray.study.resolved import Dimension, Search
from coin_ray.study.search import listed
from coin_ray.study.space import read_space
from coin_ray.study.values import BAD, read

SEARCH = "search"
DESIGNS = (*designs.names(), SEARCH)
Fraction = Literal["resolution_iv"]
_BELONGS = {
    "fraction": "factorial",
    "rungs": "ladder",
    "space": SEARCH,
    "trials": SEARCH,
    "sampler": SEARCH,
    "repeats": SEARCH,
}
_NOT_SEARCHED = ("factors", "exclude", "predictions", "screen")
_FEWEST = 4
_MOST_ROWS = 100_000
_MOST_LEVELS = 2_000_000
"""Of all combinations: each has one of every factor."""


@dataclass(frozen=True)
class Varied:
    """``complete``: every factor that the file names could be read; ``left_out``: levels, of a
    factor, that are excluded whatever the others are."""

    design: str
    factors: Sequence[FactorBlock]
    combinations: Sequence[Combination]
    complete: bool = True
    search: Search | None = None
    left_out: frozenset[tuple[str, str]] = frozenset()


def read_varied(chain: Chain, base: Patch) -> Varied:
    """The combinations of a chain of files that run, or the search; ``base``: settings of all."""
    design = _design(chain)
    space = read_space(chain, [base])
    if design == SEARCH:
        search = _search(chain, space)
        return Varied(design, [], designs.expand(design, []), search=search)
    fraction = chain.get("fraction") if design == "factorial" else None
    factors, complete = _factors(chain, design, fraction is not None)
    plain = [block.factor for block in factors]
    exclude = _exclude(chain, plain) if complete else []
    if fraction is not None and complete:
        _check_fraction(fraction, chain.get("exclude"), plain)
    rungs = chain.get("rungs") if design == "ladder" and complete else None
    combinations = designs.expand(
        design,
        plain,
        exclude,
        fraction=fraction is not None,
        rungs=read_rungs(rungs, plain) if rungs else (),
    )
    alone = [pair for entry in exclude if len(entry) == 1 for pair in entry.items()]
    left_out = frozenset((name, level) for name, levels in alone for level in levels)
    return Varied(design, factors, combinations, complete, left_out=left_out)


def _design(chain: Chain) -> str:
    node = chain.get("design")
    design = node.one_of(DESIGNS, "design", "designs") if node else "one_at_a_time"
    if design not in DESIGNS:
        return "one_at_a_time"
    # What another file gives for another design is left aside; here it would be a mistake.
    head = chain.files[0].root
    for key in head.keys:
        if _BELONGS.get(key, design) != design:
            head.note_key(key, f"{key} goes with design: {_BELONGS[key]}", f"this is a {design}")
        elif design == SEARCH and key in _NOT_SEARCHED:
            head.note_key(key, f"{key} does not go with design: {SEARCH}", "it varies its space")
    return design


def _factors(chain: Chain, design: str, fraction: bool) -> tuple[list[FactorBlock], bool]:
    """The factors that can be varied, and whether they are all that the file names."""
    node = chain.get("factors")
    if node is None:
        return [], True
    factors = read_factors(node, design)
    plain = [block.factor for block in factors]
    most = min(_MOST_ROWS, _MOST_LEVELS // max(1, len(plain)))
    if designs.size(design, plain, fraction=fraction, most=most) > most:
        hint = f"at most {most:,} of {len(plain):,} factors"
        node.note(f"this {design} has too many combinations", hint)
        return [], False
    return factors, node.kind == "map" and len(factors) == len(node.value)


def _exclude(chain: Chain, factors: Sequence[designs.Factor]) -> list[dict[str, tuple[str, ...]]]:
    node = chain.get("exclude")
    if node is None:
        return []
    base = designs.baseline(factors)
    entries = read_exclude(node, factors)
    for entry, at in entries:
        if all(base[name] in levels for name, levels in entry.items()):
            at.note("this excludes the baseline", "every level is compared with it")
    return [entry for entry, _ in entries]


def _check_fraction(node: Node, exclude: Node | None, factors: Sequence[designs.Factor]) -> None:
    """A fraction estimates main effects only if all of its combinations run."""
    read(node, Fraction, "fraction")
    if len(factors) < _FEWEST:
        hint = "leave fraction out: all combinations run"
        node.note(f"a fraction needs {_FEWEST} factors, there are {len(factors)}", hint)
    hint = "every combination of a fraction has to run"
    for factor in factors:
        if factor.when:
            node.note(f"a fraction cannot do with the when of '{factor.name}'", hint)
    if exclude is not None:
        exclude.note("a fraction cannot do with exclude", hint)


def _search(chain: Chain, space: Sequence[Dimension]) -> Search | None:
    keys = keys_of(Search)
    design, given, tries = (chain.get(key) for key in ("design", "sampler", "trials"))
    assert design is not None
    sampler = read(given, keys["sampler"], "sampler") if given else Search.sampler
    if given and sampler is not BAD:
        _check_sampler(sampler, space, given)
    if chain.get("space") is None:
        hint = "such as ot.lambda: {log: [0.01, 3.0]}"
        design.note("design: search needs the key 'space'", hint)
    trials: Any = BAD
    if tries is not None:
        trials = read(tries, keys["trials"], "trials")
    elif sampler == "grid":
        trials = math.prod(map(listed, space))  # at most; see ``search.most_trials``
    else:
        design.note("design: search needs the key 'trials'", "such as trials: 30")
    again = chain.get("repeats")
    repeats = read(again, keys["repeats"], "repeats") if again else None
    if trials is BAD or sampler is BAD or repeats is BAD:
        return None
    return Search(tuple(space), trials, sampler, repeats)


def _check_sampler(sampler: str, space: Sequence[Dimension], node: Node) -> None:
    for dimension in space:
        kind = dimension.kind
        if sampler == "grid" and kind in ("log", "lin"):
            message = f"sampler: grid cannot list {dimension.key}, a {kind} range"
            node.note(message, "give it any: [...]")
        if sampler == "cmaes" and (kind == "any" or dimension.when):
            reason = "one of a list" if kind == "any" else "not always asked for"
            message = f"sampler: cmaes moves numbers, {dimension.key} is {reason}"
            node.note(message, "use sampler: tpe")
