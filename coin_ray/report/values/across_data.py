"""Every level across data sets. A value that cannot be computed is null with a ``reason``."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from coin_ray.report.values.ends import End, Ends, ends
from coin_ray.statistics import datasets
from coin_ray.statistics.intervals import estimate, weighted_mean
from coin_ray.statistics.paired import aligned
from coin_ray.study.metrics import mode
from coin_ray.study.resolved import ResolvedStudy

AGGREGATE_SCHEMA = {
    **dict.fromkeys(("level", "metric"), pl.String),
    **dict.fromkeys(("datasets", "images"), pl.Int64),
    **dict.fromkeys(("iqm", "iqm_low", "iqm_high"), pl.Float64),
    **dict.fromkeys(("delta", "delta_low", "delta_high"), pl.Float64),
    **dict.fromkeys(("improvement", "improvement_low", "improvement_high"), pl.Float64),
    **dict.fromkeys(("average_rank", "critical_difference", "p_friedman"), pl.Float64),
    **dict.fromkeys(("reason", "caution"), pl.String),
}
"""Columns of ``aggregate``: every data set weighs the same.

* ``iqm``: interquartile mean of the level's own values by image.
* ``delta``, ``improvement``: mean over data sets of the paired difference and of the share of
  images that are better than the baseline's (null for the baseline).
* intervals: stratified bootstrap, images (and random seeds) resampled within each data set.
* ``average_rank`` (1 = best), ``p_friedman`` and Nemenyi's ``critical_difference`` (the same in
  every row of a metric): from five data sets on, else null.
"""


def aggregate(frame: pl.DataFrame, study: ResolvedStudy, ended: Ends | None = None) -> pl.DataFrame:
    """Every level across the data sets (``AGGREGATE_SCHEMA``): one row per level and metric of
    ``study.report``; no row for a study of one data set."""
    rows: list[dict[str, Any]] = []
    if len(study.data) > 1:
        found = ended or ends(frame, study)
        for metric in study.report:
            ranked = _ranks(found, study, metric)
            for level in study.levels:
                row = _across(found, study, level, metric) | ranked.get(level, {})
                rows.append({"level": level, "metric": metric} | row)
    return pl.DataFrame(rows, schema=AGGREGATE_SCHEMA)


def _across(
    found: Mapping[tuple[str, str], End], study: ResolvedStudy, level: str, metric: str
) -> dict[str, Any]:
    names = [spec.name for spec in study.data]
    own = {name: found[name, level].values.get(metric, {}) for name in names}
    base = {name: found[name, study.baseline_level].values.get(metric, {}) for name in names}
    lacking = [name for name in names if not own[name]]
    if lacking:
        return {"reason": f"missing on {', '.join(lacking)}"}
    tables = [aligned(own[name])[0] for name in names]
    confidence = study.analysis.confidence
    row: dict[str, Any] = {"datasets": len(names), "images": sum(len(table) for table in tables)}
    row |= _triple(
        "iqm", datasets.stratified(tables, datasets.interquartile_mean, confidence=confidence)
    )
    if level == study.baseline_level:
        return row
    pairs = [np.subtract(*aligned(own[name], base[name])) for name in names]
    pairs = [pair[~np.isnan(pair).all(axis=1)] for pair in pairs]
    unpaired = [name for name, pair in zip(names, pairs, strict=True) if not len(pair)]
    if unpaired:
        return row | {"reason": f"no image and seed of the baseline on {', '.join(unpaired)}"}
    row |= _triple("delta", datasets.stratified(pairs, weighted_mean, confidence=confidence))
    if direction := mode(metric):
        better = [pair if direction == "max" else -pair for pair in pairs]
        share = datasets.stratified(better, datasets.improvement, confidence=confidence)
        row |= _triple("improvement", share)
    uneven = [
        name
        for name in names
        if found[name, level].seeds(metric) != found[name, study.baseline_level].seeds(metric)
    ]
    if uneven:
        row["caution"] = f"over the shared random seeds on {', '.join(uneven)}"
    return row


def _triple(name: str, found: tuple[float, float, float]) -> dict[str, float]:
    return dict(zip((name, f"{name}_low", f"{name}_high"), found, strict=True))


def _ranks(
    found: Mapping[tuple[str, str], End], study: ResolvedStudy, metric: str
) -> dict[str, dict[str, float | None]]:
    """Level -> its rank columns; empty where ranks are not tested."""
    direction = mode(metric)
    scores = np.full((len(study.data), len(study.levels)), np.nan)
    for (i, spec), (j, level) in itertools.product(enumerate(study.data), enumerate(study.levels)):
        if values := found[spec.name, level].values.get(metric):
            scores[i, j] = estimate(aligned(values)[0]).mean
    enough = len(study.data) >= datasets.ENOUGH and len(study.levels) > 1
    if direction is None or not enough or np.isnan(scores).any():
        return {}
    ranked = datasets.ranks(scores, mode=direction, alpha=study.analysis.alpha)
    shared = {"critical_difference": ranked.critical_difference, "p_friedman": ranked.p}
    return {
        level: {"average_rank": float(average), **shared}
        for level, average in zip(study.levels, ranked.average, strict=True)
    }
