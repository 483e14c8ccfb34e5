"""The ``space:`` block: which settings a search varies, and in which ranges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from coin_ray.study.blocks import Reader, items, keys_of
from coin_ray.study.chain import Document
from coin_ray.study.errors import Problems, suggestion
from coin_ray.study.grammar import Node, label
from coin_ray.study.patches import Patch, Setting, check_value, configure, fields, unknown_key
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


def read_space(
    chain: Sequence[Document], base: Sequence[Patch], problems: Problems
) -> tuple[Dimension, ...]:
    """The dimensions of the nearest ``space:`` of a chain; those with a problem are left out. A
    list names settings whose ranges are given further up. ``base``: the patches of the baseline, to
    which every single value of ``any`` has to fit."""
    ranges: dict[str, Dimension | None] = {}
    chosen: list[str] = []
    for doc in reversed(chain):
        node = doc.root.value.get("space")
        if node is None:
            continue
        if node.kind == "map":
            chosen = list(node.value)
            for index, (key, child) in enumerate(node.value.items()):
                if key in fields():
                    ranges[key] = _dimension(key, child, chosen[index:], base, problems)
                else:
                    unknown_key(key, node.keys[key], problems)
        else:
            wanted = _names(node, list(ranges), problems)
            chosen = [key for key in ranges if key in wanted]  # in the order they are asked for in
    return tuple(found for key in chosen if (found := ranges.get(key)) is not None)


def _names(node: Node, known: Sequence[str], problems: Problems) -> list[str]:
    if node.kind != "list" or not node.value:
        problems.add(node.place, "space has to be a map, or a list of settings", _EXAMPLE)
        return []
    names = [label(item, problems) for item in node.value]
    for name, item in zip(names, node.value, strict=True):
        if name not in known:
            hint = suggestion(name, known, "ranges there")
            problems.add(item.place, f"what this extends gives no range for '{name}'", hint)
    return names


def _dimension(
    key: str, node: Node, later: Sequence[str], base: Sequence[Patch], problems: Problems
) -> Dimension | None:
    given = Reader(node, problems, f"the range of {key}", tuple(RANGE_KEYS)).values
    kinds = [kind for kind in KINDS if kind in given]
    if len(kinds) != 1:
        if node.kind == "map":
            message = f"the range of {key} needs one of {', '.join(KINDS)}"
            problems.add(node.place, message, _EXAMPLE)
        return None
    kind: Any = kinds[0]
    if kind == "any":
        values = _any(key, given[kind], base, problems)
    else:
        values = _bounds(key, kind, given[kind], problems)
    when = _conditions(given["when"], later, problems) if "when" in given else {}
    step = 1
    if "step" in given:
        if kind != "int":
            problems.add(node.keys["step"], f"step goes with int, not with {kind}")
        step = read(given["step"], keys_of(Dimension)["step"], "step", problems)
    return Dimension(key, kind, values, step, when) if values and step is not BAD else None


def _bounds(key: str, kind: str, node: Node, problems: Problems) -> tuple[Any, ...]:
    if node.kind != "list" or len(node.value) != 2:
        problems.add(node.place, f"{kind} needs [low, high]", _EXAMPLE)
        return ()
    ends = [read(n, int if kind == "int" else float, kind, problems) for n in node.value]
    if BAD in ends:
        return ()
    low, high = ends
    if not low < high or (kind == "log" and low <= 0):
        positive = "0 < " if kind == "log" else ""
        problems.add(node.place, f"{kind} needs {positive}low < high", _EXAMPLE)
        return ()
    written = [Setting(key, item.plain(), item.place, item.text) for item in node.value]
    fitting = [check_value(setting, problems) for setting in written]
    if not all(fitting):
        return ()
    if kind != "int" and not fits(fields()[key], low + (high - low) / 3):
        problems.add(node.place, f"{key} takes {describe(fields()[key])}", "write int")
    return (low, high)


def _any(key: str, node: Node, base: Sequence[Patch], problems: Problems) -> tuple[Any, ...]:
    values: list[Any] = []
    for item in items(node):
        setting = Setting(key, item.plain(), item.place, item.text)
        if setting.value in values:
            problems.add(item.place, f"'{item.text}' is listed twice")
        if check_value(setting, problems):
            configure([*base, {key: setting}], item.place, problems)
        values.append(setting.value)
    return tuple(values)


def _conditions(node: Node, later: Sequence[str], problems: Problems) -> dict[str, tuple[Any, ...]]:
    """Of a ``when``: setting -> the values that it may have. Only earlier dimensions can be known
    when a value is asked for."""
    if node.kind != "map":
        problems.add(node.place, "when has to be a map", "such as {select.rule: fixed}")
        return {}
    out = {}
    for key, child in node.value.items():
        if key not in fields():
            unknown_key(key, node.keys[key], problems)
        elif key in later:
            problems.add(node.keys[key], f"{key} is asked for later", f"write it above {later[0]}")
        else:
            for item in items(child):
                check_value(Setting(key, item.plain(), item.place, item.text), problems)
            out[key] = tuple(item.plain() for item in items(child))
    return out
