"""The small blocks of a study file: seeds, objective, report, published, resources and their like.

Each reader takes a Node, on which it notes what is wrong, and returns plain values; a block with a
problem comes back as far as it could be read, so that the rest of the file is still checked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, replace
from dataclasses import fields as dataclass_fields
from typing import Annotated, Any, TypeVar, get_type_hints

from pydantic import Field

from coin_ray.data.label_files import Binary
from coin_ray.metrics.settings import Result
from coin_ray.pipeline.refs import step_named
from coin_ray.pipeline.stages import STAGES
from coin_ray.pipeline.stages.oracle import ORACLES
from coin_ray.section import LARGEST_SEED, Positive
from coin_ray.study.errors import suggestion
from coin_ray.study.grammar import Node
from coin_ray.study.metrics import METRICS, mode
from coin_ray.study.resolved import Claim, Gates, Objective, Published
from coin_ray.study.values import BAD, describe, fits, read, shortened

T = TypeVar("T")
MOST_SEEDS = 10_000
SeedCount = Annotated[int, Field(ge=1, le=MOST_SEEDS)]
_SEED_LIST = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]


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


@dataclass(frozen=True)
class MadeElsewhere:
    """Label maps of another program as a level called ``name``: ``path`` (from the file's own
    folder) of a folder of label maps or GeoJSON named as the images, or of a COCO file; how to
    split those that are ``binary`` masks."""

    path: Annotated[str, Field(min_length=1)]
    name: Annotated[str, Field(min_length=1)]
    binary: Binary | None = None


RESOURCES: Mapping[str, type] = {
    "stage": StageResources,
    **{
        name: StageResources
        for name, stage in STAGES.items()
        if not stage.trains and stage not in ORACLES
    },
    "round": RoundResources,
}
"""``stage`` is for every stage that is not named itself."""


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


def read_block(node: Node, kind: type[T], what: str) -> T | None:
    """A map as the dataclass whose fields are its keys. A bad value counts as left out; None when
    a key that is needed cannot be had."""
    keys, needed = keys_of(kind), required_keys(kind)
    given = node.known(tuple(keys), what)
    found = {
        key: value
        for key, child in given.items()
        if key in keys and (value := read(child, keys[key], key)) is not BAD
    }
    for key in needed if node.kind == "map" else ():
        if key not in given:
            node.note(f"{what} needs the key '{key}'", f"{key}: {shortened(describe(keys[key]))}")
    return kind(**found) if found.keys() >= set(needed) else None


def read_seeds(node: Node) -> tuple[tuple[int, ...], int | None]:
    """``3`` is 0, 1, 2; ``[0, 7]`` is itself; ``{first: 2, max: 6}`` is 0 .. 5, of which all levels
    get the first two (the second value; None where every seed is run)."""
    if node.kind == "map":
        span = read_block(node, SeedRange, "seeds")
        if span is None:
            return (0,), None
        if span.first >= span.max:
            node.note("seeds: first has to be below max", f"or seeds: {span.max}")
        return tuple(range(span.max)), span.first
    given = node.plain()
    is_count = fits(Annotated[int, Field(ge=1)], given)
    if not is_count and not fits(_SEED_LIST, given):
        hint = "expected 3, [0, 1, 2] or {first: 2, max: 6}"
        node.note(f"seeds cannot be {node.text or node.kind}", hint)
        return (0,), None
    if (given if is_count else len(given)) > MOST_SEEDS:
        node.note(f"at most {MOST_SEEDS:,} seeds can be asked for")
        return (0,), None
    if is_count:
        return tuple(range(given)), None
    seeds: dict[int, None] = {}
    for item in node.value:
        if item.value in seeds:
            item.note(f"seed {item.value} is listed twice")
        if item.value > LARGEST_SEED:
            item.note(f"a seed is at most {LARGEST_SEED:,}")
        seeds[item.value] = None
    return tuple(seeds), None


def read_steps(node: Node) -> tuple[str, ...]:
    """Steps as people call them, as tables of values do."""
    found = [read(item, Result, "a step") for item in node.each()]
    return tuple(dict.fromkeys(step_named(step) for step in found if step is not BAD))


def read_objective(node: Node) -> Objective:
    """What ranks cells; a split named test is refused, and a mode that looks for the worst. Without
    ``split`` and ``mode`` the metric says them."""
    given = node.value if node.kind == "map" else {}
    split = given.get("split")
    if split is not None and split.text == "test":
        split.note(
            "a study may not optimise on a split named test",
            "use split: proxy (no labels) or val",
        )
        node = replace(node, value={k: n for k, n in given.items() if k != "split"})
    goal = read_block(node, Objective, "objective") or Objective()
    if goal.metric not in METRICS:
        return goal
    _check_mode(goal, given)
    if goal.split == "val":
        return goal
    if split is not None and split.text == "proxy":
        hint = "write split: val, or rank by agreement"
        split.note(f"{goal.metric} reads labels, proxy has none", hint)
    return replace(goal, split="val")


def _check_mode(goal: Objective, given: Mapping[str, Node]) -> None:
    """Notes a mode that contradicts a metric of labels, and one that is missing."""
    best = mode(goal.metric)
    if best is None and "mode" not in given:
        hint = "write mode: max or mode: min"
        given["metric"].note(f"neither more nor less of {goal.metric} is better", hint)
    if best is not None and goal.mode != best:
        which = {"max": "more", "min": "less"}[best]
        given["mode"].note(f"{which} of {goal.metric} is better", f"leave mode out: it is {best}")


def read_resources(node: Node) -> dict[str, dict[str, float]]:
    """What steps may take, by stage; see ``RESOURCES``."""
    out: dict[str, dict[str, float]] = {}
    for step, child in node.known(tuple(RESOURCES), "resources").items():
        if step in RESOURCES:
            taken = read_block(child, RESOURCES[step], f"resources of {step}")
            if taken is not None:
                given = vars(taken).items()
                out[step] = {key: float(value) for key, value in given if value is not None}
    return out


def read_gates(node: Node, labels: Sequence[str], data: Sequence[str], seeds: int) -> Gates | None:
    """Claims and the sealed split. Levels are checked unless ``labels``, the baseline first, is
    empty (they could not be read); ``seeds``: how many the study has."""
    given = node.value.get("claims") if node.kind == "map" else None
    claims = [_read_claim(one, labels, data, seeds) for one in (given.each() if given else ())]
    if given is None or None in claims:
        return read_block(node, Gates, "gates") if given is None else None
    found = read_block(node, Gates, "gates")
    if found is None:
        return None
    sealed = node.value.get("sealed")
    if sealed is not None:
        sealed.one_of(data, "data set", "data sets")
        if len(data) < 2:
            sealed.note("the only data set cannot be sealed", "name another under data:")
    names = [claim.claim for claim in found.claims]
    for one, claim in zip(given.each(), found.claims, strict=True):
        if names.count(claim.claim) > 1:
            one.value["claim"].note(f"two claims are called '{claim.claim}'")
        if claim.watch is not None and claim.watch == found.sealed:
            one.value["watch"].note("a sealed data set cannot be watched")
    return found


def _read_claim(node: Node, labels: Sequence[str], data: Sequence[str], seeds: int) -> Claim | None:
    claim = read_block(node, Claim, "a claim")
    if claim is None:
        return None
    for key, known, what in (
        ("level", labels, "level"),
        ("baseline", labels, "level"),
        ("data", data, "data set"),
        ("watch", data, "data set"),
    ):
        if known and key in node.value:
            node.value[key].one_of(known, what, f"{what}s")
    if claim.level == (claim.baseline or next(iter(labels), None)):
        node.value["level"].note(
            "a level is no better than itself", "name another than the baseline"
        )
    if mode(claim.metric) is None:
        hint = "claim aji, pq, fn, fp or another of which it is; report: shows a count"
        node.value["metric"].note(f"neither more nor less of {claim.metric} is better", hint)
    if claim.seeds > seeds:
        node.value["seeds"].note(f"the study has {seeds} random seeds", f"write seeds: {seeds}")
    return claim


def read_published(node: Node, labels: Sequence[str]) -> Published | None:
    """Numbers of a paper by level, data set and metric. Levels are checked unless ``labels`` is
    empty (they could not be read); data names are free."""
    rows = node.value.get("rows") if node.kind == "map" else None
    if labels and rows is not None and rows.kind == "map":
        for level in rows.keys:
            if level not in labels:
                rows.unknown(level, labels, "level", "levels")
    found = read_block(node, Published, "published")
    for said in found.statements if found and labels else ():
        for level in (*said.levels, *(said.than or ())):
            if level not in labels:
                hint = suggestion(level, labels, "levels")
                node.value["statements"].note(f"unknown level '{level}'", hint)
    return found
