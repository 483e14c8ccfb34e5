"""The tables of a report and the words beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from coin_ray.report.document.blocks import Notes, Section, Table, Value
from coin_ray.report.document.numbers import (
    DASH,
    MISSING,
    estimated,
    interval,
    p_value,
    plain,
)
from coin_ray.report.values.across_data import aggregate
from coin_ray.report.values.result_tables import ResultTable, seeds_and_images
from coin_ray.report.values.study_results import Results, unlabelled
from coin_ray.report.values.tidy import metric_title

MOST_LEVELS = 12
"""Of more levels a page compares the first metric alone; ``results.csv`` has them all."""
Row = tuple[Value, ...]


def results_section(results: Results) -> Section:
    """The table of each data set with its notes."""
    blocks = []
    for table in results.tables:
        best = table.best()
        rows = tuple(
            (
                Value(table.name(level)),
                Value(seeds_and_images(row)),
                *(estimated(e, strong=e is not None and e.mean == top)
                  for e, top in zip(row, best, strict=True)),
            )
            for level, row in table.rows.items()
        )  # fmt: skip
        titles = ("level", "n", *(column.title for column in table.columns))
        blocks.append(Table(table.caption, titles, rows, notes=table.notes))
    return Section("Results", tuple(blocks))


def baseline_section(results: Results) -> Section | None:
    """Every level against the baseline; None where there is nothing to compare."""
    rows = results.compared
    if rows["delta"].drop_nulls().is_empty():
        return None
    analysis = results.study.analysis
    holm = "Holm-corrected within its family" if analysis.correction == "holm" else "uncorrected"
    notes = (
        f"Δ: mean over what both have of level − baseline, on the same images and random seeds, "
        f"with its {analysis.confidence:.0%} bootstrap interval.",
        f"p: paired sign-flip tests over images (for these trained models) and over random seeds "
        f"(for the method), {holm}. Effect: mean over standard deviation of the differences by "
        "image. P(better): share of images on which the level is better.",
        f"Verdict: equal, the interval lies within ±{analysis.min_effect:g}; better or worse, p "
        f"over images is at most {analysis.alpha:g} and the interval leaves out 0; else open, as "
        "with a single random seed or image.",
    )
    bare = unlabelled(results)
    tables = [
        _against_baseline(results, table)
        for table in results.tables
        if table.dataset in rows["dataset"] and table.dataset not in bare
    ]
    return Section("Against the baseline", (*tables, *_across(results), Notes(notes)))


def _against_baseline(results: Results, table: ResultTable) -> Table:
    own = results.compared.filter(dataset=table.dataset)
    metrics = own["metric"].unique(maintain_order=True).to_list()
    groups = {
        metric: [_comparison(row, table) for row in own.filter(metric=metric).iter_rows(named=True)]
        for metric in (metrics if len(table.rows) <= MOST_LEVELS else metrics[:1])
    }
    columns = ("level", "mean", "Δ", "p images", "p seeds", "effect", "P(better)", "verdict")
    return _by_metric(f"{table.dataset}, against {table.reference}", columns, groups)


def _by_metric(title: str, columns: Sequence[str], groups: Mapping[str, Sequence[Row]]) -> Table:
    """A table with a group of rows a metric, whose name stands in the first of them."""
    rows: list[Row] = []
    starts = []
    for metric, own in groups.items():
        starts.append(len(rows))
        names = [metric_title(metric), *[""] * (len(own) - 1)]
        rows += [(Value(name), *row) for name, row in zip(names, own, strict=True)]
    return Table(title, ("metric", *columns), tuple(rows), words=2, starts=tuple(starts[1:]))


def _comparison(row: Mapping[str, Any], table: ResultTable) -> Row:
    said = row["verdict"] or DASH
    return (
        Value(row["level"]),
        estimated(table.at_end(row["level"], row["metric"])),
        interval(row["delta"], row["low"], row["high"], "+.3f"),
        Value(p_value(row["p_image_adjusted"])),
        Value(p_value(row["p_seed_adjusted"])),
        interval(row["effect_size"], None, None, "+.2f"),
        interval(row["improvement"], None, None, ".2f"),
        Value(said, strong=said in ("better", "worse")),
    )


def _across(results: Results) -> list[Table]:
    """The levels over several data sets with labels."""
    bare = unlabelled(results)
    data = tuple(spec for spec in results.study.data if spec.name not in bare)
    rows = aggregate(results.frame, replace(results.study, data=data), results.ends)
    if rows.is_empty():
        return []
    ranked = not rows["average_rank"].drop_nulls().is_empty()
    groups: dict[str, list[Row]] = {}
    for row in rows.iter_rows(named=True):
        values = (
            interval(row["iqm"], row["iqm_low"], row["iqm_high"]),
            interval(row["delta"], row["delta_low"], row["delta_high"], "+.3f"),
            interval(row["improvement"], row["improvement_low"], row["improvement_high"], ".2f"),
        )
        rank = (interval(row["average_rank"], None, None, ".1f"),) if ranked else ()
        groups.setdefault(row["metric"], []).append((Value(row["level"]), *values, *rank))
    columns = ("level", "interquartile mean", "Δ", "P(better)", *["average rank"] * ranked)
    title = f"{len(data)} data sets together, each with the same weight"
    if bare:
        title += f"; without {', '.join(sorted(bare))} (no labels)"
    return [_by_metric(title, columns, groups)]


def label_free_section(results: Results) -> Section | None:
    """What the cells say without labels, by level: means over data sets and random seeds."""
    names = list(dict.fromkeys(name for found in results.facts.values() for name in found))
    if not names:
        return None
    rows = []
    for level in results.study.levels:
        cells = [cell.key_label for cell in results.study.cells if cell.level == level]
        found = [results.facts[cell] for cell in cells if cell in results.facts]
        values = ([f[name] for f in found if name in f] for name in names)
        means = (Value(plain(sum(v) / len(v)) if v else MISSING) for v in values)
        rows.append((Value(level), Value(str(len(found))), *means))
    columns = ("level", "cells", *(name.replace("_", " ") for name in names))
    title = "Means over cells; no label is read"
    return Section("Without labels", (Table(title, columns, tuple(rows)),))
