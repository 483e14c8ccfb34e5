"""Everything that a study's finished cells say, read and computed once for all its reports."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from coin_ray.data.dataset import DataSet
from coin_ray.files import read_kept, write_text
from coin_ray.report.values.collect import collect
from coin_ray.report.values.comparisons import comparisons
from coin_ray.report.values.ends import Ends, ends
from coin_ray.report.values.result_tables import ResultTable, result_tables
from coin_ray.report.values.tidy import at_end, measured
from coin_ray.study.resolved import ResolvedStudy

SWEEP = "sweep.json"
"""What is known about the last sweep, beside its cells."""


@dataclass(frozen=True)
class Results:
    """``frame``: per-image values; ``tables``: one a data set; ``compared``: levels against the
    baseline; ``facts``: cell -> label-free fact -> value; ``rounds``: the same facts by round;
    ``sweep``: how it was made, as far as it is known (see ``keep_sweep``); ``ends``: where each
    level's chain ended; ``seconds``: cell -> what its training took, and its student an image
    (``train``, ``infer``); ``data``: the images of each data set, as far as they were read."""

    study: ResolvedStudy
    runs: Path
    frame: pl.DataFrame
    tables: list[ResultTable]
    compared: pl.DataFrame
    facts: Mapping[str, Mapping[str, float]]
    rounds: pl.DataFrame
    sweep: Mapping[str, Any]
    ends: Ends
    seconds: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    data: Mapping[str, DataSet] = field(default_factory=dict)


def unlabelled(results: Results) -> frozenset[str]:
    """The data sets without labels, as far as results tell: cells have finished, and there is
    nothing that was measured."""
    finished = {c.data.name for c in results.study.cells if c.key_label in results.facts}
    return frozenset(finished - set(results.frame["dataset"]))


def objective_points(
    results: Results, dataset: str, metric: str = "aji"
) -> dict[str, tuple[str, float, float]]:
    """Each cell of a data set that has both -> its level, its label-free objective and its mean of
    ``metric`` over images at the end of its chain. Data sets are not mixed: one is harder than
    another, which is no merit of the objective."""
    own = at_end(results.frame.filter(dataset=dataset)).filter(metric=metric)
    found = measured(own).group_by("cell").agg(pl.col("value").mean())
    means, goal = dict(found.iter_rows()), results.study.objective.metric
    values = {cell: facts.get(goal, math.nan) for cell, facts in results.facts.items()}
    return {
        cell.key_label: (cell.level, values[cell.key_label], means[cell.key_label])
        for cell in results.study.cells
        if cell.key_label in means and not math.isnan(values[cell.key_label])
    }


def read_results(
    study: ResolvedStudy, runs: Path, data: Mapping[str, DataSet] | None = None
) -> Results:
    """Read ``runs``/<cell>/ of every cell of ``study`` and compute the tables. Without its ``data``
    no picture can be drawn."""
    found, sweep = collect(study, runs), last_sweep(runs)
    old = dict.fromkeys(found.outdated, "has run with other settings, and not again")
    causes = sweep.get("missing", {})
    ended = ends(found.frame, study, causes)
    return Results(
        study,
        runs,
        found.frame,
        result_tables(study, found.frame, {**causes, **old}, ended),
        comparisons(found.frame, study, ended),
        found.facts,
        found.rounds,
        sweep,
        ended,
        found.seconds,
        data or {},
    )


def keep_sweep(runs: Path, facts: Mapping[str, Any]) -> None:
    """Write what is known about a sweep into the folder of its cells, in place of the last one.

    ``facts``: ``command``, ``git_commit``, ``git_changed``, ``environment`` (python, platform,
    processor, cores, device, packages), ``data`` (name -> train and evaluated images as name ->
    content digest, and the number of labelled ones), ``missing`` (cell -> why it has no result).
    """
    runs.mkdir(parents=True, exist_ok=True)
    write_text(runs / SWEEP, json.dumps(facts, indent=1))


def last_sweep(runs: Path) -> dict[str, Any]:
    """What ``keep_sweep`` wrote last; empty if no sweep did. UserError for a file that is empty or
    cut."""
    return read_kept(
        runs / SWEEP,
        "run `coin-ray sweep` with the same options: it writes the file again, and computes "
        "nothing that is there",
    )
