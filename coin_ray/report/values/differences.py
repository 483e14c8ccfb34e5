"""In what two cells, two levels or two studies differ: settings, keys, metrics, images, nuclei."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl

from coin_ray.data.sample import Sample
from coin_ray.errors import UserError
from coin_ray.files import seen
from coin_ray.labels import LabelMap
from coin_ray.metrics.contingency import contingency
from coin_ray.metrics.mistakes import Errors, errors
from coin_ray.pipeline.stages import STAGES
from coin_ray.planning.asked import cell_stages
from coin_ray.planning.contents import identities
from coin_ray.planning.plan import open_chains
from coin_ray.report.values.images import file_of, label_map_of
from coin_ray.report.values.study_results import Results
from coin_ray.report.values.tidy import at_end, by_metric
from coin_ray.statistics.paired import Comparison, aligned, compare, verdict
from coin_ray.study.errors import nearest, shortened
from coin_ray.study.metrics import mode
from coin_ray.study.resolved import StudyCell
from coin_ray.study.search import settings_of

What = Literal["cells", "levels", "studies"]


@dataclass(frozen=True)
class Side:
    """One of the two: its name, the results that it is read from, its cells."""

    name: str
    results: Results
    cells: tuple[StudyCell, ...]


@dataclass(frozen=True)
class Pair:
    """Cells of both sides that are compared, on one data set; of ``levels`` by the random seed.
    ``title`` is empty where there is one level."""

    title: str
    dataset: str
    a: tuple[StudyCell, ...]
    b: tuple[StudyCell, ...]


@dataclass(frozen=True)
class Difference:
    """``a`` and ``b`` compared; ``pairs``: what of them belongs together."""

    what: What
    a: Side
    b: Side
    pairs: tuple[Pair, ...]


@dataclass(frozen=True)
class StageCount:
    """How many artifacts of a stage both have under one key, and how many only one of them."""

    stage: str
    both: int
    only_a: int
    only_b: int


@dataclass(frozen=True)
class ImageDifference:
    """An image: values of the first metric (None: not measured) and the nuclei that only one side
    has (IoU above 0.5 is one nucleus; None: no label maps)."""

    image: str
    a: float | None
    b: float | None
    only_a: int | None = None
    only_b: int | None = None

    @property
    def size(self) -> float:
        """How much it differs, to be ranked by: measured images first."""
        if self.a is not None and self.b is not None:
            return 1 + abs(self.b - self.a)
        found = (self.only_a or 0) + (self.only_b or 0)
        return 1 - 1 / (1 + found)


def of_levels(a: Results, b: Results, names: tuple[str, str]) -> Difference:
    """A level or a cell of each, which may be of one study. UserError with the nearest name for one
    that is neither, and for two that no data set has in common."""
    own = _named(a, names[0]), _named(b, names[1])
    one, other = _told_apart(a, b)
    called = names if a.runs == b.runs else (f"{one}: {names[0]}", f"{other}: {names[1]}")
    sides = Side(called[0], a, own[0]), Side(called[1], b, own[1])
    single = all(cells[0].key_label == name for cells, name in zip(own, names, strict=True))
    common = [spec.name for spec in a.study.data if all(_on(cells, spec.name) for cells in own)]
    pairs = [Pair("", name, *(_on(cells, name) for cells in own)) for name in common]
    _check_pairs(sides, pairs)
    return Difference("cells" if single else "levels", *sides, tuple(pairs))


def of_studies(a: Results, b: Results) -> Difference:
    """Two studies, level by level. UserError if they share none."""
    sides = [Side(n, r, r.study.cells) for n, r in zip(_told_apart(a, b), (a, b), strict=True)]
    pairs = []
    for level in a.study.levels:
        own = [tuple(c for c in side.cells if c.level == level) for side in sides]
        for spec in a.study.data:
            parts = [_on(cells, spec.name) for cells in own]
            if all(parts):
                pairs.append(Pair(level, spec.name, *parts))
    _check_pairs(sides, pairs)
    return Difference("studies", sides[0], sides[1], tuple(pairs))


def _told_apart(a: Results, b: Results) -> tuple[str, str]:
    names = a.study.name, b.study.name
    return names if names[0] != names[1] else (f"{names[0]} (A)", f"{names[1]} (B)")


def _check_pairs(sides: Sequence[Side], pairs: Sequence[Pair]) -> None:
    """UserError where nothing of the two belongs together: that would read as no difference."""
    if not pairs:
        found = [
            f"{side.name}: "
            + shortened(", ".join(sorted({f"{c.level} on {c.data.name}" for c in side.cells})))
            for side in sides
        ]
        raise UserError(
            "the two have no level on a data set in common",
            expected="two levels or cells on one data set, or studies with levels of one name",
            found="; ".join(found),
            do="take others, or give both studies the same --data NAME=PATH",
        )


def _on(cells: Sequence[StudyCell], dataset: str) -> tuple[StudyCell, ...]:
    return tuple(cell for cell in cells if cell.data.name == dataset)


def _named(results: Results, name: str) -> tuple[StudyCell, ...]:
    study = results.study
    found = tuple(cell for cell in study.cells if name in (cell.key_label, cell.level))
    if found:
        return found
    names = [*study.levels, *(cell.key_label for cell in study.cells)]
    guess = nearest(name, names)
    raise UserError(
        f"{study.name} has no level or cell {name!r}",
        expected=shortened(", ".join(names)),
        do=f"did you mean {guess!r}?" if guess else "take one of these",
    )


def settings(pair: Pair) -> list[tuple[str, Any, Any]]:
    """(dotted key, value of a, value of b) of the settings that differ."""
    ours, theirs = (settings_of(cells[0].config) for cells in (pair.a, pair.b))
    keys = dict.fromkeys([*ours, *theirs])
    return [(k, ours.get(k), theirs.get(k)) for k in keys if ours.get(k) != theirs.get(k)]


def stages(found: Difference, pair: Pair) -> list[StageCount]:
    """What of their chains is the same, in the chain's order. UserError where weights or masks are
    missing."""
    keys = [_keys(side, cells) for side, cells in ((found.a, pair.a), (found.b, pair.b))]
    out = []
    for stage in STAGES:
        a, b = ({d for d, name in own.items() if name == stage} for own in keys)
        if a or b:
            out.append(StageCount(stage, len(a & b), len(a - b), len(b - a)))
    return out


def _keys(side: Side, cells: Sequence[StudyCell]) -> dict[str, str]:
    """Digest -> stage."""
    data = side.results.data
    device = side.results.sweep.get("environment", {}).get("device", "cpu")
    chains = open_chains(cells, data, *identities(cells, data), device)
    return {key.digest: key.stage for chain, own in chains for key in cell_stages(chain, own)}


def metrics(found: Difference, pair: Pair) -> dict[str, tuple[Comparison, str | None]]:
    """Metric -> b against a, over the images and random seeds that both have, and the verdict; only
    metrics that both report."""
    study, values = found.a.results.study, _values(found, pair)
    out: dict[str, tuple[Comparison, str | None]] = {}
    for metric in study.report:
        if metric not in found.b.results.study.report:
            continue
        a, b = aligned(*(own.get(metric, {}) for own in values))
        direction = mode(metric)
        made = compare(b, a, mode=direction or "max", confidence=study.analysis.confidence)
        if made is not None:
            said = (
                verdict(made, made.p_image, study.analysis, mode=direction) if direction else None
            )
            out[metric] = made, said
    return out


def _values(found: Difference, pair: Pair) -> list[dict[str, dict[tuple[str, int], float]]]:
    """Of each side metric -> (image, random seed) -> value at the end, of the images that both
    have. One seed each is one pair, whichever they are."""
    alone = len({c.seed for c in pair.a}) == len({c.seed for c in pair.b}) == 1
    both = pl.col("image").is_in([sample.name for sample, _ in _shared(found, pair)])
    out = []
    for side, cells in ((found.a, pair.a), (found.b, pair.b)):
        own = pl.col("cell").is_in([cell.key_label for cell in cells])
        frame = at_end(side.results.frame.filter(own)).filter(both)
        frame = frame.with_columns(seed=pl.lit(0, pl.Int64)) if alone else frame
        out.append(by_metric(frame))
    return out


def images(found: Difference, pair: Pair) -> list[ImageDifference]:
    """The images that both have, those that differ most first."""
    metric = found.a.results.study.report[0]
    a, b = (_by_image(own.get(metric, {})) for own in _values(found, pair))
    out = []
    for sample, _ in _shared(found, pair):
        maps = label_maps(found, pair, sample)
        unmatched = None if maps is None else only(*maps)
        out.append(
            ImageDifference(
                sample.name,
                a.get(sample.name),
                b.get(sample.name),
                None if unmatched is None else len(unmatched.false_negative),
                None if unmatched is None else len(unmatched.false_positive),
            )
        )
    return sorted(out, key=lambda one: -one.size)


def _by_image(values: Mapping[tuple[str, int], float]) -> dict[str, float]:
    of_image: dict[str, list[float]] = {}
    for (image, _), value in values.items():
        of_image.setdefault(image, []).append(value)
    return {image: math.fsum(own) / len(own) for image, own in of_image.items()}


def _shared(found: Difference, pair: Pair) -> Iterator[tuple[Sample, Sample]]:
    """Samples of equal name and equal pixels."""
    ours, theirs = (
        {s.name: s for s in side.results.data[pair.dataset].samples} for side in (found.a, found.b)
    )
    for name in (name for name in ours if name in theirs):
        if ours[name].image.digest() == theirs[name].image.digest():
            yield ours[name], theirs[name]


def label_maps(found: Difference, pair: Pair, sample: Sample) -> tuple[LabelMap, LabelMap] | None:
    """The results of the first random seed of both; None where one has not finished."""
    sides = ((found.a.results, pair.a[0]), (found.b.results, pair.b[0]))
    if not all(seen(file_of(results, cell, sample)) for results, cell in sides):
        return None
    first, second = (label_map_of(results, cell, sample) for results, cell in sides)
    return first, second


def only(a: LabelMap, b: LabelMap) -> Errors:
    """``false_negative``: nuclei that only ``a`` has; ``false_positive``: only ``b``."""
    return errors(contingency(a, b))
