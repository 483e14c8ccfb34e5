"""The small blocks of a study file: seeds, objective, report, published, resources and their like.

Each reader takes a Node, notes what is wrong and returns plain values; a block with a problem comes
back as far as it could be read, so that the rest of the file is still checked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, replace
from dataclasses import fields as dataclass_fields
from typing import Annotated, Any, TypeVar, get_type_hints

from pydantic import Field

from coin_ray.pipeline.stages import STAGES
from coin_ray.section import LARGEST_SEED, Positive
from coin_ray.study.errors import Problems, suggestion
from coin_ray.study.grammar import Node, label
from coin_ray.study.metrics import METRICS
from coin_ray.study.resolved import Objective, Published
from coin_ray.study.values import BAD, describe, read, shortened

T = TypeVar("T")
MOST_SEEDS = 10_000
SeedCount = Annotated[int, Field(ge=1, le=MOST_SEEDS)]


@dataclass(frozen=True)
class StageResources:
    """What a stage may take: CPUs, GPUs (a fraction too), GiB of memory."""

    cpu: Positive | None = None
    gpu: Positive | None = None
    memory: Positive | None = None


@dataclass(frozen=True)
class RoundResources:
    """What a round, or the training of a coarse model, may take: CPUs, GPUs and GiB of memory a
    process, and processes."""

    cpu: Positive | None = None
    gpu: Positive | None = None
    memory: Positive | None = None
    workers: Annotated[int, Field(ge=1, le=4096)] | None = None


@dataclass(frozen=True)
class SeedRange:
    """Sequential seeds: the ``first`` for every level, up to ``max`` where the verdict is open."""

    first: SeedCount
    max: SeedCount


RESOURCES: Mapping[str, type] = {
    "stage": StageResources,
    **{name: StageResources for name, stage in STAGES.items() if not stage.trains},
    "round": RoundResources,
}
"""``stage`` is for every stage that is not named itself."""


@dataclass
class Reader:
    """A map whose keys are known; those that are not are noted."""

    node: Node
    problems: Problems
    what: str
    known: Sequence[str]
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


def keys_of(kind: type) -> Mapping[str, Any]:
    """The keys of a block, with their types: the fields of its dataclass."""
    return get_type_hints(kind, include_extras=True)


def required_keys(kind: type) -> tuple[str, ...]:
    """The keys that a block cannot do without."""
    return tuple(
        f.name
        for f in dataclass_fields(kind)
        if f.default is MISSING and f.default_factory is MISSING
    )


def read_block(node: Node, kind: type[T], what: str, problems: Problems) -> T | None:
    """A map as the dataclass whose fields are its keys. A bad value counts as left out; None when
    a key that is needed cannot be had."""
    keys = keys_of(kind)
    given = Reader(node, problems, what, tuple(keys)).values
    found = {
        key: value
        for key, child in given.items()
        if key in keys and (value := read(child, keys[key], key, problems)) is not BAD
    }
    if node.kind == "map":
        for key in required_keys(kind):
            if key not in given:
                hint = f"{key}: {shortened(describe(keys[key]))}"
                problems.add(node.place, f"{what} needs the key '{key}'", hint)
    return kind(**found) if found.keys() >= set(required_keys(kind)) else None


def items(node: Node) -> list[Node]:
    """A list's items; a single value stands for a list of one."""
    return node.value if node.kind == "list" else [node]


def read_seeds(node: Node, problems: Problems) -> tuple[tuple[int, ...], int | None]:
    """``3`` is 0, 1, 2; ``[0, 7]`` is itself; ``{first: 2, max: 6}`` is 0 .. 5, of which all levels
    get the first two (the second value; None where every seed is run)."""
    if node.kind == "map":
        span = read_block(node, SeedRange, "seeds", problems)
        if span is None:
            return (0,), None
        if span.first >= span.max:
            problems.add(node.place, "seeds: first has to be below max", f"or seeds: {span.max}")
        return tuple(range(span.max)), span.first
    if node.kind == "scalar" and _is_int(node.value) and node.value > 0:
        if node.value > MOST_SEEDS:
            problems.add(node.place, f"at most {MOST_SEEDS:,} seeds can be asked for")
            return (0,), None
        return tuple(range(node.value)), None
    listed = (
        node.kind == "list"
        and node.value
        and all(n.kind == "scalar" and _is_int(n.value) and n.value >= 0 for n in node.value)
    )
    if not listed:
        hint = "expected 3, [0, 1, 2] or {first: 2, max: 6}"
        problems.add(node.place, f"seeds cannot be {node.text or node.kind}", hint)
        return (0,), None
    if len(node.value) > MOST_SEEDS:
        problems.add(node.place, f"at most {MOST_SEEDS:,} seeds can be asked for")
    seeds: dict[int, None] = {}
    for item in node.value:
        if item.value in seeds:
            problems.add(item.place, f"seed {item.value} is listed twice")
        if item.value > LARGEST_SEED:
            problems.add(item.place, f"a seed is at most {LARGEST_SEED:,}")
        seeds[item.value] = None
    return tuple(seeds), None


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def read_objective(node: Node, problems: Problems) -> Objective:
    """What ranks cells; a split named test is refused. Without ``split`` the metric says it."""
    given = node.value if node.kind == "map" else {}
    split = given.get("split")
    if split is not None and split.text == "test":
        problems.add(
            split.place,
            "a study may not optimise on a split named test",
            "use split: proxy (no labels) or val",
        )
        node = replace(node, value={k: n for k, n in given.items() if k != "split"})
    goal = read_block(node, Objective, "objective", problems) or Objective()
    if goal.metric not in METRICS or goal.split == "val":
        return goal
    if split is not None and split.text == "proxy":
        hint = "write split: val, or rank by agreement"
        problems.add(split.place, f"{goal.metric} reads labels, proxy has none", hint)
    return replace(goal, split="val")


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
    """What steps may take, by stage; see ``RESOURCES``."""
    found = Reader(node, problems, "resources", tuple(RESOURCES)).values
    out: dict[str, dict[str, float]] = {}
    for step, child in found.items():
        if step in RESOURCES:
            taken = read_block(child, RESOURCES[step], f"resources of {step}", problems)
            if taken is not None:
                given = vars(taken).items()
                out[step] = {key: float(value) for key, value in given if value is not None}
    return out


def read_published(node: Node, labels: Sequence[str], problems: Problems) -> Published | None:
    """Numbers of a paper by level, data set and metric. Levels are checked unless ``labels`` is
    empty (they could not be read); data names are free."""
    rows = node.value.get("rows") if node.kind == "map" else None
    if labels and rows is not None and rows.kind == "map":
        for level, place in rows.keys.items():
            if level not in labels:
                hint = suggestion(level, labels, "levels")
                problems.add(place, f"unknown level '{level}'", hint)
    return read_block(node, Published, "published", problems)
