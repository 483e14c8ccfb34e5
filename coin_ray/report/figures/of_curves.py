"""Curves one column wide: a metric over a setting, and over the rounds beside the spread of the
scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import polars as pl

from coin_ray.errors import UserError
from coin_ray.report.figures.of_design import varied
from coin_ray.report.figures.sheet import COLUMN
from coin_ray.report.figures.slices import Varied, set_scale
from coin_ray.report.figures.style import (
    MARKERS,
    PALETTE,
    Looks,
    is_named,
    panels,
    shortened,
    strokes,
)
from coin_ray.report.values.result_tables import ResultTable
from coin_ray.report.values.study_results import Results
from coin_ray.report.values.tidy import at_end, measured, metric_title

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Line = Sequence[tuple[int, float]]
"""Round and value."""


def curves(results: Results, table: ResultTable, metric: str) -> Iterator[tuple[str, str, Figure]]:
    """Name, caption and figure: the metric over each setting that levels carry as a number, after
    step 1 and at the end, and after each round. UserError for a metric that was not measured."""
    own = results.frame.filter(dataset=table.dataset)
    rows = measured(own.filter(metric=metric))
    if rows.is_empty():
        raise UserError(
            f"no {metric!r} was measured on {table.dataset}",
            expected=", ".join(own["metric"].unique(maintain_order=True)) or "images with labels",
            do="name one of these with --metric",
        )
    title, where = f"mean {metric_title(metric)}", f"{table.dataset}; over images and random seeds."
    by_level = {
        "step 1": _means(rows.filter(step="step1")),
        "end of the chain": _means(at_end(rows)),
    }
    for setting in varied(results.study):
        if len(by_level["end of the chain"].keys() & setting.values) < 2:
            continue  # not finished yet
        figure = draw_over_setting(setting, by_level, metric=title)
        yield setting.key.replace(".", "-"), f"The {title} by {setting.key}, {where}", figure
    number = pl.col("step").str.extract(r"^round_(\d+)$").cast(pl.Int64)
    after = rows.with_columns(round=number).drop_nulls("round")
    if after.is_empty():
        return
    first = rows.filter(step="step1").with_columns(round=pl.lit(0, pl.Int64))
    scores = results.rounds.filter(dataset=table.dataset, fact="score_std")
    looks = strokes(list(table.rows), table.baseline, table.best_level(results.study.report[0]))
    values = _lines(pl.concat([first, after]), table)
    figure = draw_over_rounds(values, _lines(scores, table), looks, metric=title)
    yield "rounds", f"The {title} after step 1 (0) and after each round, {where}", figure


def _means(rows: pl.DataFrame) -> dict[str, float]:
    return dict(rows.group_by("level").agg(pl.col("value").mean()).iter_rows())


def _lines(rows: pl.DataFrame, table: ResultTable) -> dict[str, Line]:
    """Level -> its mean in each round."""
    means = rows.group_by("level", "round").agg(pl.col("value").mean()).sort("round")
    return {
        level: list(part.select("round", "value").iter_rows())
        for level in table.rows
        if not (part := means.filter(level=level)).is_empty()
    }


def draw_over_setting(
    setting: Varied, lines: Mapping[str, Mapping[str, float]], *, metric: str
) -> Figure:
    """A line a step: level -> mean of the metric, at the level's value of the setting."""
    figure, (axis,) = panels(1, 1, 2.3, width=COLUMN)
    for i, (step, found) in enumerate(lines.items()):
        levels = sorted((v for v in setting.values if v in found), key=setting.position)
        x = [setting.position(level) for level in levels]
        axis.plot(
            x, [found[level] for level in levels], label=step, linewidth=1.4, markersize=4,
            color=PALETTE[i % len(PALETTE)], marker=MARKERS[i % len(MARKERS)],
        )  # fmt: skip
    axis.set(xlabel=setting.key, ylabel=metric)
    set_scale(axis, setting, list(setting.values))
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def draw_over_rounds(
    values: Mapping[str, Line], spread: Mapping[str, Line], looks: Looks, *, metric: str
) -> Figure:
    """Above the metric of each level after each round, 0 the mask that the first one learns from;
    below the standard deviation of the scores that its labels were chosen by."""
    figure, (above, below) = panels(2, 1, 3.5, width=COLUMN, sharex=True)
    for axis, lines in ((above, values), (below, spread)):
        for level, points in lines.items():
            x, y = zip(*points, strict=True)
            label = shortened(level, 16) if is_named(looks[level]) else None
            axis.plot(x, y, linewidth=1.4, markersize=4, label=label, **looks[level])
        axis.margins(y=0.12)
    above.set_ylabel(metric)
    below.set_ylabel("std. dev. of scores")
    below.set_xlabel("round")
    below.set_xticks(sorted({r for line in values.values() for r, _ in line}))
    handles = above.get_legend_handles_labels()[0]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure
