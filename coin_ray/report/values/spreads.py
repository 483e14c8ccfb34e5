"""How each level came out by round, over its images and random seeds: what a tracker draws."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import polars as pl

from coin_ray.report.values.result_tables import entry
from coin_ray.report.values.study_results import Results
from coin_ray.report.values.tidy import FINAL, Column, round_of

Means = Mapping[str, float]
"""Metric -> mean."""


def spreads(results: Results) -> list[dict[str, Any]]:
    """A row a data set, level, round and metric of ``study.report`` with a value: ``dataset``,
    ``level``, ``round`` (0: before the first; the last one is the end of the chain), ``metric``,
    ``mean`` over images of the mean over random seeds, and ``low``, ``high`` of its bootstrap
    interval, None of one image."""
    study = results.study
    parts = results.frame.partition_by("dataset", "level", as_dict=True)
    rows = []
    for (dataset, level), own in parts.items():
        steps = {
            step: round_
            for step in own["step"].unique(maintain_order=True).to_list()
            if (round_ := round_of(step)) >= 0
        }
        if FINAL in own["step"]:
            steps[FINAL] = max(steps.values(), default=0)
        found = {
            (round_, metric): told
            for step, round_ in steps.items()
            for metric in study.report
            if (told := entry(own, level, Column(step, metric), study.analysis.confidence))
        }
        rows += [
            {
                "dataset": dataset,
                "level": level,
                "round": round_,
                "metric": metric,
                **{name: getattr(told, name) for name in ("mean", "low", "high")},
            }
            for (round_, metric), told in sorted(found.items())
        ]
    return rows


def seeds_of(results: Results) -> dict[tuple[str, str], list[int]]:
    """(Data set, level) -> the random seeds that have finished."""
    told = results.frame.group_by("dataset", "level").agg(pl.col("seed").unique().sort())
    return {(dataset, level): seeds for dataset, level, seeds in told.iter_rows()}


def cell_rounds(rows: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> dict[int, Means]:
    """Round -> metric -> mean over images, of one cell and of the rounds before its last, whose
    value is that at the end; 0: before the first."""
    values: dict[int, dict[str, list[float]]] = {}
    for row in rows:
        round_, value = round_of(row["step"]), row["value"]
        if round_ >= 0 and row["metric"] in metrics and value is not None:
            values.setdefault(round_, {}).setdefault(row["metric"], []).append(value)
    last = max(values, default=0)
    return {
        round_: {metric: fmean(own) for metric, found in told.items() if (own := _finite(found))}
        for round_, told in values.items()
        if round_ < last
    }


def _finite(values: Sequence[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]
