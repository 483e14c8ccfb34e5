"""The ``space:`` block: which settings a search varies, and in which ranges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from coin_ray.propagation.settings import OF_A_BACKBONE
from coin_ray.study.blocks import keys_of
from coin_ray.study.chain import Chain
from coin_ray.study.errors import suggestion
from coin_ray.study.grammar import Node
from coin_ray.study.patches import (
    Patch,
    check_value,
    configure,
    fields,
    located,
    note_idle,
    unknown_key,
)
from coin_ray.study.resolved import Dimension
from coin_ray.study.values import BAD, describe, fits, read

KINDS: tuple[str, ...] = get_args(keys_of(Dimension)["kind"])
RANGE_KEYS: Mapping[str, str] = {
    "log": "[low, high], drawn on a logarithmic scale",
    "lin": "[low, high]",
    "int": "[low, high], whole numbers",
    "any": "one of these values",
    "step": "between the whole numbers of int",
    "when": "setting -> value or values with which alone this one is asked for",
}
_EXAMPLE = "such as ot.lambda: {log: [0.01, 3.0]}"


def read_space(chain: Chain, base: Sequence[Patch]) -> tuple[Dimension, ...]:
    """The dimensions of the nearest ``space:`` of a chain; those with a problem are left out. A
    list names settings whose ranges are given further up. ``base``: the patches of the baseline, to
    which every single value of ``any`` has to fit."""
    ranges: dict[str, Dimension | None] = {}
    nodes: dict[str, Node] = {}
    chosen: list[str] = []
    for node in reversed(chain.all("space")):
        if node.kind == "map":
            chosen = list(node.value)
            for index, (key, child) in enumerate(node.value.items()):
                if key in fields():
                    ranges[key], nodes[key] = _dimension(key, child, chosen[index:], base), child
                else:
                    unknown_key(key, node.keys[key], node.problems)
        else:
            wanted = _names(node, list(ranges))
            chosen = [key for key in ranges if key in wanted]  # in the order they are asked for in
    space = tuple(found for key in chosen if (found := ranges.get(key)) is not None)
    if any(found.key == "uss.family" and "sam" in found.values for found in space):
        for found in space:
            of_a_backbone = found.key.removeprefix("uss.") in OF_A_BACKBONE
            if of_a_backbone and "sam" in found.when.get("uss.family", ("sam",)):
                nodes[found.key].note(
                    f"{found.key} says nothing beside uss.family: sam",
                    "write it below uss.family, with when: {uss.family: [the others]}",
                )
    return space


def _names(node: Node, known: Sequence[str]) -> list[str]:
    if node.kind != "list" or not node.value:
        node.note("space has to be a map, or a list of settings", _EXAMPLE)
        return []
    names = [item.label() for item in node.value]
    for name, item in zip(names, node.value, strict=True):
        if name not in known:
            hint = suggestion(name, known, "ranges there")
            item.note(f"what this extends gives no range for '{name}'", hint)
    return names


def _dimension(
    key: str, node: Node, later: Sequence[str], base: Sequence[Patch]
) -> Dimension | None:
    given = node.known(tuple(RANGE_KEYS), f"the range of {key}")
    kinds = [kind for kind in KINDS if kind in given]
    if len(kinds) != 1:
        if node.kind == "map":
            node.note(f"the range of {key} needs one of {', '.join(KINDS)}", _EXAMPLE)
        return None
    kind: Any = kinds[0]
    values = _any(key, given[kind], base) if kind == "any" else _bounds(key, kind, given[kind])
    if kind != "any":
        note_idle([*base, {key: node}])
    when = _conditions(given["when"], later) if "when" in given else {}
    step = 1
    if "step" in given:
        if kind != "int":
            node.note_key("step", f"step goes with int, not with {kind}")
        step = read(given["step"], keys_of(Dimension)["step"], "step")
    return Dimension(key, kind, values, step, when) if values and step is not BAD else None


def _bounds(key: str, kind: str, node: Node) -> tuple[Any, ...]:
    if node.kind != "list" or len(node.value) != 2:
        node.note(f"{kind} needs [low, high]", _EXAMPLE)
        return ()
    ends = [read(item, int if kind == "int" else float, kind) for item in node.value]
    if BAD in ends:
        return ()
    low, high = ends
    if not low < high or (kind == "log" and low <= 0):
        positive = "0 < " if kind == "log" else ""
        node.note(f"{kind} needs {positive}low < high", _EXAMPLE)
        return ()
    fitting = [check_value(key, item) for item in node.value]
    if not all(fitting):
        return ()
    if kind != "int" and not fits(fields()[key], low + (high - low) / 3):
        node.note(f"{key} takes {describe(fields()[key])}", "write int")
    return (low, high)


def _any(key: str, node: Node, base: Sequence[Patch]) -> tuple[Any, ...]:
    values: list[Any] = []
    for given in node.each():
        item = located(key, given)
        value = item.plain()
        if value in values:
            item.note(f"'{item.text}' is listed twice")
        if check_value(key, item):
            configure([*base, {key: item}], item.place, item.problems)
        values.append(value)
    return tuple(values)


def _conditions(node: Node, later: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    """Of a ``when``: setting -> the values that it may have. Only earlier dimensions can be known
    when a value is asked for."""
    out = {}
    for key, child in node.entries("when has to be a map", "such as {select.rule: fixed}").items():
        if key not in fields():
            unknown_key(key, node.keys[key], node.problems)
        elif key in later:
            node.note_key(key, f"{key} is asked for later", f"write it above {later[0]}")
        else:
            for item in child.each():
                check_value(key, item)
            out[key] = tuple(located(key, item).plain() for item in child.each())
    return out
