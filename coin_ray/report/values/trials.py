"""The trials of a search as its finished cells tell them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from coin_ray.report.values.study_results import Results
from coin_ray.report.values.tidy import at_end, measured
from coin_ray.statistics.searched import Trial
from coin_ray.study.search import trial_seeds


@dataclass(frozen=True)
class Trials:
    """``trials`` in the order they were proposed in, by level; ``values`` (trials, random seeds) of
    the objective on one data set or, of several, their mean, and ``baseline`` (random seeds,) the
    same; NaN where there is none. ``first``: how many random seeds every trial is run with;
    ``ranked``: over how many trials are told apart, as many as the one with the most has."""

    trials: dict[str, Trial]
    values: NDArray[np.float64]
    baseline: NDArray[np.float64]
    first: int
    ranked: int

    def means(self, seeds: int) -> dict[str, float]:
        """The mean over the first so many random seeds of each trial that has them all: one seed
        may be lucky, and is not compared with the mean of several."""
        return {
            level: float(row[:seeds].mean())
            for level, row in zip(self.trials, self.values, strict=True)
            if _whole(row[:seeds])
        }

    def best(self, mode: Literal["max", "min"]) -> str | None:
        """The best trial of those that are ranked."""
        found, pick = self.means(self.ranked), min if mode == "min" else max
        return pick(found, key=lambda level: found[level], default=None)

    def baseline_mean(self, seeds: int) -> float | None:
        """The same of the baseline; None where one is missing."""
        own = self.baseline[:seeds]
        return float(own.mean()) if _whole(own) else None


def trials_of(results: Results, dataset: str | None = None) -> Trials:
    """Of a search. A trial that lacks a value of the random seeds that all are run with failed."""
    study, cells = results.study, _objective_by_cell(results)
    data = {spec.name for spec in study.data if dataset in (None, spec.name)}
    of: dict[tuple[str, int], list[float]] = {}
    for cell in study.cells:
        if cell.key_label in cells and cell.data.name in data:
            of.setdefault((cell.level, cell.seed), []).append(cells[cell.key_label])
    # A mean over some of the data sets says which they were, and little of the level.
    of = {which: made for which, made in of.items() if len(made) == len(data)}

    def row(level: str) -> NDArray[np.float64]:
        made = (of.get((level, seed), [math.nan]) for seed in study.seeds)
        return np.array([math.fsum(own) / len(own) for own in made])

    levels = [level for level in study.levels if level != study.baseline_level]
    values = np.array([row(level) for level in levels]).reshape(len(levels), len(study.seeds))
    whole = np.isfinite(values).cumprod(axis=1).sum(axis=1)
    ranked = int(whole.max(initial=0))
    first = min(len(trial_seeds(study)), ranked)
    trials = {
        level: Trial(
            study.patches[level], float(own[:count].mean()) if count >= first > 0 else None
        )
        for level, own, count in zip(levels, values, whole.tolist(), strict=True)
    }
    return Trials(trials, values, row(study.baseline_level), first, ranked)


def _objective_by_cell(results: Results) -> dict[str, float]:
    """The study's objective of each cell that has it: a fact that reads no label, or the mean over
    images at the end of its chain."""
    goal = results.study.objective.metric
    facts = {cell: own[goal] for cell, own in results.facts.items() if goal in own}
    if facts:
        return facts
    found = measured(at_end(results.frame).filter(metric=goal))
    return dict(found.group_by("cell").agg(pl.col("value").mean()).iter_rows())


def _whole(row: NDArray[np.float64]) -> bool:
    return bool(len(row) and np.isfinite(row).all())
