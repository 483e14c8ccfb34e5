"""What the text of a paper says and its tables do not hold, measured on our cells."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from coin_ray.report.values.published import Verdict, published_for, verdict
from coin_ray.report.values.study_results import Results
from coin_ray.report.values.tidy import by_metric
from coin_ray.statistics.intervals import Estimate, estimate
from coin_ray.statistics.paired import Values, aligned
from coin_ray.study.resolved import Statement


@dataclass(frozen=True)
class Said:
    """A statement with our number for it; ``same_way``: whether that has its sign, None where the
    statement is that little changes."""

    statement: Statement
    own: Estimate | None
    verdict: Verdict
    same_way: bool | None


def statements(results: Results, dataset: str) -> list[Said]:
    """Every statement of the study's paper, on one data set."""
    published = results.study.published
    if published is None:
        return []
    told = published_for(published, results.study.profile, dataset)
    out = []
    for said in published.statements:
        own = _MEASURED[said.kind](results, dataset, said)
        tolerance = published.tolerance if said.tolerance is None else said.tolerance
        comparable = told.comparable and said.metric not in published.unlike
        word, _ = verdict(own, said.value, tolerance=tolerance, comparable=comparable)
        changes = own is not None and abs(said.value) > tolerance
        same = own.mean * said.value > 0 if own is not None and changes else None
        out.append(Said(said, own, word, same))
    return out


def _spread(results: Results, dataset: str, said: Statement) -> Estimate | None:
    found = [_at_end(results, dataset, level, said.metric) for level in said.levels]
    found = [values for values in found if values]
    means = [fmean(values.values()) for values in found]
    if len(found) < 2:
        return None
    best, worst = found[int(np.argmax(means))], found[int(np.argmin(means))]
    return _paired(results, [best], [worst])


def _difference(results: Results, dataset: str, said: Statement) -> Estimate | None:
    own = [_at_end(results, dataset, level, said.metric) for level in said.levels]
    other = [_at_end(results, dataset, level, said.metric) for level in said.than or ()]
    return _paired(results, own, other)


def _flat(results: Results, dataset: str, said: Statement) -> Estimate | None:
    """The last round less the first of those from ``share`` of the training on."""
    level = said.levels[0]
    own = results.frame.filter(dataset=dataset, level=level, metric=said.metric)
    rounds = results.study.configuration(level).rounds.count
    late = max(1, round(rounds * said.share))
    last, first = (
        by_metric(own.filter(step=f"round_{r}")).get(said.metric, {}) for r in (rounds, late)
    )
    return _paired(results, [last], [first])


def _trend(results: Results, dataset: str, said: Statement) -> Estimate | None:
    own = results.rounds.filter(dataset=dataset, fact=said.metric, level=said.levels[0])
    by_seed: dict[int, dict[int, float]] = {}
    for seed, round_, value in own.select("seed", "round", "value").iter_rows():
        by_seed.setdefault(seed, {})[round_] = value
    changes = [values[max(values)] - values[min(values)] for values in by_seed.values()]
    return _of_seeds(changes)


def _slower(results: Results, dataset: str, said: Statement) -> Estimate | None:
    def seconds(levels: Sequence[str]) -> list[float]:
        cells = [c for c in results.study.cells if c.level in levels and c.data.name == dataset]
        found = (results.seconds.get(cell.key_label, {}).get(said.metric) for cell in cells)
        return [value for value in found if value]

    own, other = seconds(said.levels), seconds(said.than or ())
    return _of_seeds([value / fmean(other) - 1 for value in own] if other else [])


_MEASURED: Mapping[str, Callable[[Results, str, Statement], Estimate | None]] = {
    "spread": _spread,
    "difference": _difference,
    "flat": _flat,
    "trend": _trend,
    "slower": _slower,
}


def _at_end(results: Results, dataset: str, level: str, metric: str) -> Values:
    return results.ends[dataset, level].values.get(metric, {})


def _of_seeds(values: Sequence[float]) -> Estimate | None:
    """A mean over random seeds alone, without an interval."""
    return Estimate(fmean(values), None, None, 0, len(values)) if values else None


def _paired(results: Results, own: Sequence[Values], other: Sequence[Values]) -> Estimate | None:
    """Mean of ``own`` less mean of ``other``, on the images and random seeds that all have."""
    if not all((*own, *other)) or not other:
        return None
    tables = aligned(*own, *other)
    each: NDArray[np.float64] = np.mean(tables[: len(own)], axis=0) - np.mean(
        tables[len(own) :], axis=0
    )
    shared = each[~np.isnan(each).all(axis=1)]
    if not len(shared):
        return None
    return estimate(shared, confidence=results.study.analysis.confidence)
