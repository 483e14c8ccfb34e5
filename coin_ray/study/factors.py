"""The ``factors:`` and ``exclude:`` blocks: what varies, and which combinations do not run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from coin_ray.study import designs
from coin_ray.study.blocks import Reader, items
from coin_ray.study.designs import Factor
from coin_ray.study.errors import Place, Problems, suggestion
from coin_ray.study.grammar import Node, label
from coin_ray.study.patches import Patch, Setting, check_value, fields, read_patch


@dataclass(frozen=True)
class FactorBlock:
    """A factor with the patch and the place of each of its levels."""

    factor: Factor
    patches: Mapping[str, Patch]
    places: Mapping[str, Place]


def read_factors(node: Node, design: str, problems: Problems) -> list[FactorBlock]:
    """Every factor of the ``factors:`` block."""
    if node.kind != "map":
        problems.add(node.place, "factors has to be a map", "NAME: {baseline: LABEL, levels: {…}}")
        return []
    found: list[FactorBlock] = []
    for index, (name, child) in enumerate(node.value.items()):
        # Behind a factor that could not be read, a `when` cannot be checked.
        earlier = [block.factor for block in found] if len(found) == index else None
        block = _factor(name, child, node.keys[name], design, earlier, problems)
        if block is not None:
            found.append(block)
    return found


FACTOR_KEYS: Mapping[str, str] = {
    "levels": "label -> settings, or a list of values of one key",
    "baseline": "the level that stands while other factors vary",
    "key": "the setting of a list of levels; without it the factor's name is one",
    "when": "earlier factor -> level or levels with which alone this factor varies",
}


def _factor(
    name: str,
    node: Node,
    at: Place,
    design: str,
    earlier: Sequence[Factor] | None,
    problems: Problems,
) -> FactorBlock | None:
    reader = Reader(node, problems, f"factor {name}", tuple(FACTOR_KEYS))
    levels = reader.values.get("levels")
    if levels is None:
        problems.add(at, f"factor '{name}' has no levels", "levels: {LABEL: {uss.family: mae}}")
        return None
    if levels.kind == "list":
        patches, places = _listed_levels(name, reader, levels, problems)
    elif levels.kind == "map":
        patches = {text: read_patch(child, problems) for text, child in levels.value.items()}
        places = dict(levels.keys)
    else:
        problems.add(levels.place, "levels has to be a map or a list", "LABEL: {uss.family: mae}")
        return None
    if not patches:
        return None
    base_node = reader.values.get("baseline")
    if base_node is None:
        hint = suggestion("", list(patches), "levels")
        problems.add(at, f"factor '{name}' has no baseline", f"write baseline: LABEL  {hint}")
        return None
    base = label(base_node, problems)
    if base not in patches:
        hint = suggestion(base, list(patches), f"levels of {name}")
        problems.add(base_node.place, f"unknown level '{base}'", hint)
        return None
    if designs.needs_two_levels(design) and len(patches) != 2:
        problems.add(
            at,
            f"a {design} switches each factor between two levels, '{name}' has {len(patches)}",
            "use design: grid or one_at_a_time for more",
        )
        return None
    when, holds = reader.values.get("when"), {}
    if when is not None and earlier is not None:
        holds = _levels_of(when, earlier, "earlier factors", problems)
    return FactorBlock(Factor(name, tuple(patches), base, holds), patches, places)


def _levels_of(
    node: Node, factors: Sequence[Factor], what: str, problems: Problems
) -> dict[str, tuple[str, ...]]:
    """Factor -> its levels that a ``when`` or an ``exclude`` entry names; what is unknown is noted
    and left out."""
    by_name = {factor.name: factor for factor in factors}
    if node.kind != "map" or not node.value:
        problems.add(node.place, "expected levels of factors", "such as {FACTOR: LEVEL}")
        return {}
    out = {}
    for name, child in node.value.items():
        if name not in by_name:
            hint = suggestion(name, list(by_name), what)
            problems.add(node.keys[name], f"unknown factor '{name}'", hint)
            continue
        levels = by_name[name].levels
        for item in items(child):
            if label(item, problems) not in levels:
                hint = suggestion(item.text, levels, f"levels of {name}")
                problems.add(item.place, f"unknown level '{item.text}'", hint)
        out[name] = tuple(item.text for item in items(child) if item.text in levels)
    return {name: levels for name, levels in out.items() if levels}


def _listed_levels(
    name: str, reader: Reader, levels: Node, problems: Problems
) -> tuple[dict[str, Patch], dict[str, Place]]:
    key_node = reader.values.get("key")
    key = label(key_node, problems) if key_node else name
    if key not in fields():
        place = key_node.place if key_node else levels.place
        hint = suggestion(key, list(fields()), "settings")
        problems.add(place, f"a list of levels needs the key it sets; '{key}' is none", hint)
        return {}, {}
    patches: dict[str, Patch] = {}
    places: dict[str, Place] = {}
    for item in levels.value:
        text = item.text or str(item.plain())
        if text in patches:
            there = f"the other one is in line {places[text].line}"
            problems.add(item.place, f"level '{text}' is listed twice", there)
        setting = Setting(key, item.plain(), item.place, item.text)
        check_value(setting, problems)
        patches[text] = {key: setting}
        places[text] = item.place
    return patches, places


def read_exclude(
    node: Node, factors: Sequence[Factor], problems: Problems
) -> list[tuple[dict[str, tuple[str, ...]], Place]]:
    """Each entry as factor -> levels, with its place."""
    found = [(_levels_of(n, factors, "factors", problems), n) for n in items(node)]
    # An entry that lost a factor to a mistake would exclude too much.
    return [
        (entry, n.place) for entry, n in found if n.kind == "map" and len(entry) == len(n.value)
    ]
