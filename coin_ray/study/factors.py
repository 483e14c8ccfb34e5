"""The ``factors:`` and ``exclude:`` blocks: what varies, and which combinations do not run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
    found = [
        _factor(name, child, node.keys[name], design, problems)
        for name, child in node.value.items()
    ]
    return [block for block in found if block is not None]


def _factor(
    name: str, node: Node, at: Place, design: str, problems: Problems
) -> FactorBlock | None:
    reader = Reader(node, problems, f"factor {name}", ("key", "baseline", "levels"))
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
    return FactorBlock(Factor(name, tuple(patches), base), patches, places)


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
            problems.add(item.place, f"level '{text}' is listed twice")
        setting = Setting(key, item.plain(), item.place, item.text)
        check_value(setting, problems)
        patches[text] = {key: setting}
        places[text] = item.place
    return patches, places


def read_exclude(
    node: Node, factors: Iterable[Factor], problems: Problems
) -> list[tuple[dict[str, str], Place]]:
    """Each entry as factor -> level, with its place."""
    by_name = {factor.name: factor for factor in factors}
    out = []
    for entry in items(node):
        if entry.kind != "map" or not entry.value:
            problems.add(entry.place, "an exclude entry names levels", "- {FACTOR: LEVEL}")
            continue
        levels: dict[str, str] = {}
        for name, child in entry.value.items():
            if name not in by_name:
                hint = suggestion(name, list(by_name), "factors")
                problems.add(entry.keys[name], f"unknown factor '{name}'", hint)
                continue
            text = label(child, problems)
            if text not in by_name[name].levels:
                hint = suggestion(text, by_name[name].levels, f"levels of {name}")
                problems.add(child.place, f"unknown level '{text}'", hint)
                continue
            levels[name] = text
        if len(levels) == len(entry.value):
            out.append((levels, entry.place))
    return out
