"""The small blocks of a study file: seeds, objective, report, published, resources.

Each reader takes a Node, notes what is wrong and returns plain values; a block with a problem comes
back as far as it could be read, so that the rest of the file is still checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from coin_ray.study.errors import Problems, suggestion
from coin_ray.study.grammar import Node, label
from coin_ray.study.resolved import Objective, Published

RESOURCES = {"stage": ("cpu", "gpu"), "round": ("cpu", "workers")}
METRICS = (
    "aji", "aji_plus", "pq", "sq", "dq", "dice", "iou", "miou", "fn", "fp", "n_true", "n_predicted",
)  # fmt: skip


@dataclass
class Reader:
    """A map whose keys are asked for one by one; what was never asked for is an unknown key."""

    node: Node
    problems: Problems
    what: str
    known: tuple[str, ...]
    values: Mapping[str, Node] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.node.kind != "map":
            self.problems.add(
                self.node.place, f"{self.what} has to be a map", f"(keys: {', '.join(self.known)})"
            )
            return
        self.values = self.node.value
        for key in self.values:
            if key not in self.known:
                hint = suggestion(key, self.known, f"keys of {self.what}")
                self.problems.add(self.node.keys[key], f"unknown key '{key}'", hint)

    def get(self, key: str, kind: type | tuple[type, ...], default: Any, expected: str) -> Any:
        """The scalar under ``key``; ``default`` if it is absent, or noted as of another type."""
        node = self.values.get(key)
        if node is None:
            return default
        wrong_bool = isinstance(node.value, bool) and kind is not bool
        if node.kind != "scalar" or wrong_bool or not isinstance(node.value, kind):
            shown = node.text if node.kind == "scalar" else f"a {node.kind}"
            self.problems.add(node.place, f"{key} cannot be {shown}", f"expected {expected}")
            return default
        return node.value

    def choice(self, key: str, choices: Sequence[str], default: str) -> str:
        """One of ``choices``."""
        value = str(self.get(key, str, default, " or ".join(choices)))
        if value not in choices:
            hint = suggestion(value, choices, "one of")
            self.problems.add(self.values[key].place, f"{key} cannot be {value}", hint)
            return default
        return value


def items(node: Node) -> list[Node]:
    """A list's items; a single value stands for a list of one."""
    return node.value if node.kind == "list" else [node]


def read_seeds(node: Node, problems: Problems) -> tuple[int, ...]:
    """``3`` is 0, 1, 2; ``[0, 7]`` is itself."""
    whole = node.kind == "scalar" and _is_int(node.value) and node.value > 0
    if whole:
        return tuple(range(node.value))
    listed = (
        node.kind == "list"
        and node.value
        and all(n.kind == "scalar" and _is_int(n.value) and n.value >= 0 for n in node.value)
    )
    if not listed:
        problems.add(
            node.place, f"seeds cannot be {node.text or node.kind}", "expected 3 or [0, 1, 2]"
        )
        return (0,)
    seeds = [n.value for n in node.value]
    for index, seed in enumerate(seeds):
        if seed in seeds[:index]:
            problems.add(node.value[index].place, f"seed {seed} is listed twice")
    return tuple(dict.fromkeys(seeds))


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def read_objective(node: Node, problems: Problems) -> Objective:
    """What ranks cells; a split named test is refused."""
    reader = Reader(node, problems, "objective", ("metric", "mode", "split"))
    split = str(reader.get("split", str, "proxy", "proxy or val"))
    if split == "test":
        problems.add(
            reader.values["split"].place,
            "a study may not optimise on a split named test",
            "use split: proxy (no labels) or val",
        )
    else:
        split = reader.choice("split", ("proxy", "val"), "proxy")
    metric = reader.choice("metric", ("agreement", *METRICS), "agreement")
    mode: Literal["max", "min"] = "max"
    if reader.choice("mode", ("max", "min"), "max") == "min":
        mode = "min"
    return Objective(metric, mode, split)


def read_report(node: Node, problems: Problems) -> tuple[str, ...]:
    """Metrics of the result table."""
    out = []
    for item in items(node):
        name = label(item, problems)
        if name not in METRICS:
            hint = suggestion(name, METRICS, "metrics")
            problems.add(item.place, f"unknown metric '{name}'", hint)
        out.append(name)
    return tuple(out)


def read_resources(node: Node, problems: Problems) -> dict[str, dict[str, float]]:
    """What a step may take: ``stage`` cpu and gpu (a fraction too), ``round`` cpu and workers."""
    found = Reader(node, problems, "resources", tuple(RESOURCES))
    out: dict[str, dict[str, float]] = {}
    for step, child in found.values.items():
        if step not in RESOURCES:
            continue
        reader = Reader(child, problems, f"resources of {step}", RESOURCES[step])
        values = {key: reader.get(key, (int, float), None, "a number > 0") for key in reader.values}
        for key, value in values.items():
            if value is not None and value <= 0:
                problems.add(child.value[key].place, f"{key} cannot be {value}", "expected > 0")
        out[step] = {key: float(value) for key, value in values.items() if value is not None}
    return out


def read_published(node: Node, labels: Sequence[str], problems: Problems) -> Published:
    """Numbers of a paper by level, data set and metric. Levels are checked unless ``labels`` is
    empty (they could not be read); data names are free."""
    known = ("source", "tolerance", "comparable", "note", "rows")
    reader = Reader(node, problems, "published", known)
    comparable = reader.values.get("comparable")
    profiles = tuple(label(n, problems) for n in items(comparable)) if comparable else ()
    rows: dict[str, dict[str, dict[str, float]]] = {}
    rows_node = reader.values.get("rows")
    for level, by_data in _children(rows_node, "rows", problems):
        if labels and level not in labels:
            hint = suggestion(level, labels, "levels")
            assert rows_node is not None
            problems.add(rows_node.keys[level], f"unknown level '{level}'", hint)
        rows[level] = {
            data: _numbers(values, problems)
            for data, values in _children(by_data, "a row", problems)
        }
    return Published(
        source=str(reader.get("source", str, "", "text")),
        rows=rows,
        tolerance=float(reader.get("tolerance", (int, float), 0.01, "a number")),
        comparable=profiles or Published.comparable,
        note=str(reader.get("note", str, "", "text")),
    )


def _children(node: Node | None, what: str, problems: Problems) -> Iterable[tuple[str, Node]]:
    if node is None:
        return ()
    if node.kind != "map":
        problems.add(node.place, f"{what} has to be a map", "LEVEL: {DATA: {aji: 0.5}}")
        return ()
    return tuple(node.value.items())


def _numbers(node: Node, problems: Problems) -> dict[str, float]:
    reader = Reader(node, problems, "published numbers", METRICS)
    found = {key: reader.get(key, (int, float), None, "a number") for key in reader.values}
    return {key: float(value) for key, value in found.items() if value is not None}
