"""The figures of a study's results: levels, steps, rounds and the objective, and what stands below
each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import polars as pl

from coin_ray.report.document.blocks import Plot, Section
from coin_ray.report.document.numbers import minus
from coin_ray.report.figures import curves, levels
from coin_ray.report.figures.of_design import of_budget, of_factors, of_settings
from coin_ray.report.figures.of_search import of_search
from coin_ray.report.figures.style import Looks, plot, strokes
from coin_ray.report.values.ends import performance_profile
from coin_ray.report.values.result_tables import ResultTable
from coin_ray.report.values.study_results import Results, objective_points
from coin_ray.report.values.tidy import FINAL, metric_title
from coin_ray.statistics.objective import spearman
from coin_ray.study.metrics import mode

MOST_LEVELS = 40
"""Levels of a dot plot; of more, the best are shown."""
ROUND_FACTS = {
    "accepted_fraction": "accepted fraction",
    "score_std": "score spread (standard deviation)",
    "agreement": "agreement with the segmenter",
    "churn": "label churn",
}


def figures_section(results: Results, *, brief: bool = False) -> Section:
    """All figures that the design and the data allow, one data set after the other; ``brief``: that
    of the levels alone."""
    several = len(results.tables) > 1
    more = (
        *(_differences, _steps, _profile, _rounds),
        *(of_settings, of_budget, of_search, of_factors, _objective),
    )
    kinds = (_levels,) if brief else (_levels, *more)
    plots = [
        replace(plot, caption=f"{table.dataset}. {plot.caption}") if several else plot
        for table in results.tables
        for kind in kinds
        for plot in kind(results, table)
    ]
    return Section("Figures", tuple(plots))


def _metrics(results: Results, table: ResultTable) -> list[str]:
    """The report's metrics that were measured, as many as a figure has room for."""
    return [m for m in results.study.report if any(table.at_end(v, m) for v in table.rows)][:4]


def _looks(results: Results, table: ResultTable) -> Looks:
    """How each level is drawn, the same in all figures of a data set."""
    return strokes(list(table.rows), table.baseline, table.best_level(results.study.report[0]))


def _levels(results: Results, table: ResultTable) -> Iterator[Plot]:
    """Means with intervals."""
    if not (metrics := _metrics(results, table)):
        return
    best, shown = table.best_level(metrics[0]), _shown(results, table, metrics[0])
    rows = [
        levels.Row(level, tuple(table.interval(level, m) for m in metrics), level == best)
        for level in shown
    ]
    titles = [metric_title(metric) for metric in metrics]
    cut = f" {len(rows)} of {len(table.rows)} levels." if len(rows) < len(table.rows) else ""
    yield plot(
        "levels",
        table.dataset,
        f"Means with {results.study.analysis.confidence:.0%} intervals. Black diamond and dashed "
        f"line: the baseline; filled: the best {titles[0]}. Levels share their images, so what "
        f"counts is the interval of the difference, not whether these overlap.{cut}",
        lambda: levels.draw_dots(titles, rows, reference=table.baseline),
    )


def _shown(results: Results, table: ResultTable, metric: str) -> list[str]:
    """The levels in the study's order; of a search or of too many the baseline and the best."""
    if not results.study.search and len(table.rows) <= MOST_LEVELS:
        return list(table.rows)
    found = {level: value for level in table.rows if (value := table.at_end(level, metric))}
    sign = 1 if mode(metric) == "min" else -1
    ranked = sorted(
        found,
        key=lambda level: (found[level].seeds < table.needed, sign * found[level].mean),
    )
    return [table.baseline, *(v for v in ranked if v != table.baseline)][:MOST_LEVELS]


def _differences(results: Results, table: ResultTable) -> Iterator[Plot]:
    """Differences from the baseline with intervals."""
    metrics = _metrics(results, table)
    own = results.compared.filter(pl.col("delta").is_not_null(), dataset=table.dataset)
    found = {
        (row["level"], row["metric"]): (row["delta"], row["low"], row["high"])
        for row in own.iter_rows(named=True)
    }
    shown = _shown(results, table, metrics[0]) if metrics else []
    rows = [
        levels.Row(level, tuple(found.get((level, m)) for m in metrics))
        for level in shown
        if (level, metrics[0]) in found
    ]
    least = results.study.analysis.min_effect
    if rows:
        yield plot(
            "differences",
            table.dataset,
            f"Difference from {table.reference}, on the same images and random seeds, "
            f"with {results.study.analysis.confidence:.0%} intervals. Grey: within ±{least:g}, not "
            "worth having.",
            lambda: levels.draw_dots([f"Δ {metric_title(m)}" for m in metrics], rows, band=least),
        )


def _steps(results: Results, table: ResultTable) -> Iterator[Plot]:
    """AJI along the chain: the learning curve by round, and what came before it."""
    steps = [
        (column.title.removeprefix("AJI "), i)
        for i, column in enumerate(table.columns)
        if column.metric == "aji" and column.step not in (FINAL, "pseudo_labels")
    ]
    lines = {}
    for level, row in table.rows.items():
        values = [row[i] for _, i in steps]
        if any(values):
            lines[level] = [value.mean if value else None for value in values]
    if len(steps) > 1 and lines:
        yield plot(
            "steps",
            table.dataset,
            "Mean AJI along the chain: the coarse mask, the propagated mask of step 1, the student "
            "after each round. Pseudo labels leave out what was not accepted and are not shown.",
            lambda: curves.draw_steps(
                [title for title, _ in steps], lines, _looks(results, table), metric="AJI"
            ),
        )


def _profile(results: Results, table: ResultTable) -> Iterator[Plot]:
    metric = results.study.report[0]
    lines = {
        level: performance_profile(values)
        for level in table.rows
        if (values := results.ends[table.dataset, level].values.get(metric))
    }
    if lines:
        title = metric_title(metric)
        yield plot(
            "profile",
            table.dataset,
            f"Performance profile: the share of images on which {title} (mean over random seeds) "
            "exceeds a value. A curve above another is better on that part of the images.",
            lambda: levels.draw_profiles(lines, _looks(results, table), metric=title),
        )


def _rounds(results: Results, table: ResultTable) -> Iterator[Plot]:
    """Accepted fraction, score spread and their like by round."""
    # The first labels have none before them to differ from.
    first_churn = (pl.col("fact") == "churn") & (pl.col("round") == 1)
    own = results.rounds.filter((pl.col("dataset") == table.dataset) & ~first_churn)
    means = own.group_by("fact", "level", "round").agg(pl.col("value").mean()).sort("round")
    facts = {}
    for fact, title in ROUND_FACTS.items():
        part = means.filter(pl.col("fact") == fact).partition_by("level", as_dict=True)
        lines = {
            level: list(part[level,].select("round", "value").iter_rows())
            for level in results.study.levels
            if (level,) in part
        }
        if lines:
            facts[title] = lines
    if means["round"].n_unique() > 1:  # one round is no curve, and the table has it
        yield plot(
            "rounds",
            table.dataset,
            "The pseudo labels of each round, means over random seeds; no label is read. Scores "
            "whose spread collapses while more is accepted would mean a student that confirms "
            "itself.",
            lambda: curves.draw_rounds(facts, _looks(results, table)),
        )


def _objective(results: Results, table: ResultTable) -> Iterator[Plot]:
    """The objective that reads no label against AJI, with their rank correlation."""
    goal = results.study.objective.metric
    points = objective_points(results, table.dataset)
    found = spearman([x for _, x, _ in points.values()], [y for _, _, y in points.values()])
    if found is None:
        return
    rho = f"{found.rho:.2f} ({found.low:.2f} to {found.high:.2f})"
    yield plot(
        "objective",
        table.dataset,
        f"Each cell's {goal} against its mean AJI. Spearman's rank correlation over "
        f"{found.count} cells: {minus(rho)}.",
        lambda: curves.draw_objective(
            points, _looks(results, table), objective=goal, metric="mean AJI"
        ),
    )
