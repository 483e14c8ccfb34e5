"""The ``factors:`` and ``exclude:`` blocks: what varies, and which combinations do not run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from coin_ray.study import designs
from coin_ray.study.designs import Factor
from coin_ray.study.errors import Place, suggestion
from coin_ray.study.grammar import Node
from coin_ray.study.patches import Patch, check_value, fields, located, read_patch


@dataclass(frozen=True)
class FactorBlock:
    """A factor with the patch and the place of each of its levels."""

    factor: Factor
    patches: Mapping[str, Patch]
    places: Mapping[str, Place]


FACTOR_KEYS: Mapping[str, str] = {
    "levels": "label -> settings, or a list of values of one key",
    "baseline": "the level that stands while other factors vary",
    "key": "the setting of a list of levels; without it the factor's name is one",
    "when": "earlier factor -> level or levels with which alone this factor varies",
}


def read_factors(node: Node, design: str) -> list[FactorBlock]:
    """Every factor of the ``factors:`` block."""
    found: list[FactorBlock] = []
    given = node.entries("factors has to be a map", "NAME: {baseline: LABEL, levels: {…}}")
    for index, name in enumerate(given):
        # Behind a factor that could not be read, a `when` cannot be checked.
        earlier = [block.factor for block in found] if len(found) == index else None
        block = _factor(node, name, design, earlier)
        if block is not None:
            found.append(block)
    return found


def _factor(
    factors: Node, name: str, design: str, earlier: Sequence[Factor] | None
) -> FactorBlock | None:
    given = factors.value[name].known(tuple(FACTOR_KEYS), f"factor {name}")
    levels, base_node, when = (given.get(key) for key in ("levels", "baseline", "when"))
    if levels is None:
        factors.note_key(
            name, f"factor '{name}' has no levels", "levels: {LABEL: {uss.family: mae}}"
        )
        return None
    if levels.kind == "list":
        patches, places = _listed_levels(name, given.get("key"), levels)
    else:
        read = levels.entries("levels has to be a map or a list", "LABEL: {uss.family: mae}")
        patches = {text: read_patch(child) for text, child in read.items()}
        places = levels.keys
    if not patches:
        return None
    if base_node is None:
        hint = suggestion("", list(patches), "levels")
        factors.note_key(name, f"factor '{name}' has no baseline", f"write baseline: LABEL  {hint}")
        return None
    base = base_node.one_of(list(patches), "level", f"levels of {name}")
    if base not in patches:
        return None
    if designs.needs_two_levels(design) and len(patches) != 2:
        factors.note_key(
            name,
            f"a {design} switches each factor between two levels, '{name}' has {len(patches)}",
            "use design: grid or one_at_a_time for more",
        )
        return None
    holds = {}
    if when is not None and earlier is not None:
        holds = _levels_of(when, earlier, "earlier factors")
    return FactorBlock(Factor(name, tuple(patches), base, holds), patches, places)


def _levels_of(node: Node, factors: Sequence[Factor], what: str) -> dict[str, tuple[str, ...]]:
    """Factor -> its levels that a ``when`` or an ``exclude`` entry names; what is unknown is noted
    and left out."""
    by_name = {factor.name: factor for factor in factors}
    if node.kind != "map" or not node.value:
        node.note("expected levels of factors", "such as {FACTOR: LEVEL}")
        return {}
    out = {}
    for name, child in node.value.items():
        if name not in by_name:
            node.unknown(name, list(by_name), "factor", what)
            continue
        levels = by_name[name].levels
        given = [item.one_of(levels, "level", f"levels of {name}") for item in child.each()]
        out[name] = tuple(level for level in given if level in levels)
    return {name: levels for name, levels in out.items() if levels}


def _listed_levels(
    name: str, key_node: Node | None, levels: Node
) -> tuple[dict[str, Patch], dict[str, Place]]:
    key = key_node.label() if key_node else name
    if key not in fields():
        (key_node or levels).note(
            f"a list of levels needs the key it sets; '{key}' is none",
            suggestion(key, list(fields()), "settings"),
        )
        return {}, {}
    patches: dict[str, Patch] = {}
    places: dict[str, Place] = {}
    for item in levels.value:
        text = item.text or str(item.plain())
        if text in patches:
            item.note(
                f"level '{text}' is listed twice", f"the other one is in line {places[text].line}"
            )
        check_value(key, item)
        patches[text] = {key: located(key, item)}
        places[text] = item.place
    return patches, places


def read_exclude(
    node: Node, factors: Sequence[Factor]
) -> list[tuple[dict[str, tuple[str, ...]], Node]]:
    """Each entry as factor -> levels, with where it stands."""
    found = [(_levels_of(one, factors, "factors"), one) for one in node.each()]
    # An entry that lost a factor to a mistake would exclude too much.
    return [(entry, n) for entry, n in found if n.kind == "map" and len(entry) == len(n.value)]


def read_rungs(node: Node, factors: Sequence[Factor]) -> list[tuple[str, ...]]:
    """The factors that each row of a branching ladder has changed; unknown names are noted."""
    names = [factor.name for factor in factors]
    if node.kind != "list" or any(item.kind != "list" or not item.value for item in node.value):
        node.note("rungs has to be a list of lists of factors", "[[USS], [USS, OT], [USS, CRF]]")
        return []
    return [
        tuple(name for item in rung.value if (name := item.one_of(names, "factor", "factors")))
        for rung in node.value
    ]
