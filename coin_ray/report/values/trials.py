"""The trials of a search as its finished cells tell them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from coin_ray.report.values.study_results import Results
from coin_ray.report.values.tidy import at_end, measured
from coin_ray.statistics.searched import Trial


@dataclass(frozen=True)
class Trials:
    """``trials`` in the order they were proposed in, by level; ``values`` (trials, random seeds) of
    the objective on one data set or, of several, their mean; NaN where there is none."""

    trials: dict[str, Trial]
    values: NDArray[np.float64]


def trials_of(results: Results, dataset: str | None = None) -> Trials:
    """Of a search, the baseline left out."""
    study, goal = results.study, results.study.objective.metric
    cells = {
        cell.key_label: own[goal]
        for cell in study.cells
        if goal in (own := results.facts.get(cell.key_label, {}))
    }
    if not cells:
        found = measured(at_end(results.frame).filter(metric=goal))
        cells = dict(found.group_by("cell").agg(pl.col("value").mean()).iter_rows())
    levels = [level for level in study.levels if level != study.baseline_level]
    of: dict[tuple[str, int], list[float]] = {}
    for cell in study.cells:
        if cell.key_label in cells and dataset in (None, cell.data.name):
            of.setdefault((cell.level, cell.seed), []).append(cells[cell.key_label])
    values = np.full((len(levels), len(study.seeds)), np.nan)
    for i, level in enumerate(levels):
        for j, seed in enumerate(study.seeds):
            if made := of.get((level, seed)):
                values[i, j] = math.fsum(made) / len(made)
    trials = {}
    for level, row in zip(levels, values, strict=True):
        known = row[~np.isnan(row)]
        value = float(known.mean()) if len(known) else None
        trials[level] = Trial(study.patches[level], value)
    return Trials(trials, values)
