"""What the trials of a search say: which settings matter, how two act together, the best so far."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from coin_ray.report.document.blocks import Plot
from coin_ray.report.figures.of_design import varied
from coin_ray.report.figures.slices import Varied, set_scale
from coin_ray.report.figures.style import FONT, INK, PALETTE, panels, plot
from coin_ray.report.values.result_tables import ResultTable
from coin_ray.report.values.study_results import Results
from coin_ray.report.values.trials import trials_of
from coin_ray.statistics.searched import Best, Importance, best_so_far, importances

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 3
"""Settings, the most important ones, whose pairs are drawn."""


def of_search(results: Results, table: ResultTable) -> Iterator[Plot]:
    """Importances, contours of the most important pairs, the best so far."""
    study = results.study
    if study.search is None:
        return
    goal, found = study.objective, trials_of(results, table.dataset)
    if not found.ranked:
        return
    compared = found.values[:, : found.ranked]
    best = list(best_so_far(compared, goal.mode, study.analysis.confidence))
    if len(best) > 1:
        baseline = found.baseline_mean(found.ranked)
        spread = (
            f"the band is its {study.analysis.confidence:.0%} interval over random seeds"
            if found.ranked > 1
            else "one random seed: how far it would spread is not known"
        )
        if np.isnan(compared).any(axis=1).sum() > np.isnan(compared).all(axis=1).sum():
            spread += f"; only trials with all {found.ranked} of them are compared"
        yield plot(
            "best-so-far",
            table.dataset,
            f"Best {goal.metric} among the first so many trials; {spread}. The best of many is "
            "partly luck: its interval is that of a trial chosen beforehand. Dashed: the baseline.",
            lambda: draw_best(best, found.values, baseline, metric=goal.metric),
        )
    ranked = importances(study.search.space, list(found.trials.values()), goal.mode)
    if not ranked:
        return
    yield plot(
        "importance",
        table.dataset,
        f"Which settings {goal.metric} depends on. PED-ANOVA: what the best tenth of the trials "
        "have in common; fANOVA: share of the variance over the whole space (settings that every "
        "trial was asked for).",
        lambda: draw_importances(ranked),
    )
    settings = {one.key: one for one in varied(study)}
    decides = sorted(ranked, key=lambda one: -max(one.ped_anova, one.fanova or 0.0))
    names = [one.key for one in decides if one.key in settings][:MOST]
    pairs = [(settings[a], settings[b]) for a, b in itertools.combinations(names, 2)]
    values = {v: t.value for v, t in found.trials.items() if t.value is not None}
    if pairs:
        yield plot(
            "contour",
            table.dataset,
            f"{goal.metric} over pairs of the settings most important by either measure: a point a "
            "trial, dark for high values; between them, where both are numbers, interpolated "
            "linearly.",
            lambda: draw_contours(pairs, values, metric=goal.metric),
        )


def draw_best(
    best: Sequence[Best],
    values: np.ndarray[tuple[int, int], np.dtype[np.float64]],
    baseline: float | None,
    *,
    metric: str,
) -> Figure:
    """A step line with its band, over the trials (a point a random seed)."""
    figure, (axis,) = panels(1, 1, 2.4, width=4.6)
    x = np.arange(1, len(best) + 1)
    low = [one.value if one.low is None else one.low for one in best]
    high = [one.value if one.high is None else one.high for one in best]
    axis.fill_between(x, low, high, step="post", color=PALETTE[0], alpha=0.2, linewidth=0)
    axis.plot(x, [one.value for one in best], drawstyle="steps-post", color=PALETTE[0], lw=1.6)
    for column in values.T:
        axis.plot(x, column, ".", color=INK, markersize=3, alpha=0.5)
    if baseline is not None:
        axis.axhline(baseline, color=INK, linewidth=1, linestyle=(0, (4, 2)))
    axis.set_xlabel("trials")
    axis.set_ylabel(metric)
    axis.locator_params(axis="x", integer=True)
    return figure


def draw_importances(found: Sequence[Importance]) -> Figure:
    """Two bars a setting, the most important on top."""
    height = 0.9 + 0.34 * len(found)
    figure, (axis,) = panels(1, 1, height, width=4.6)
    for row, one in enumerate(found):
        axis.barh(row - 0.18, one.ped_anova, 0.34, color=PALETTE[0])
        if one.fanova is not None:
            axis.barh(row + 0.18, one.fanova, 0.34, color=PALETTE[1])
    axis.set_yticks(range(len(found)), [one.key for one in found])
    axis.set_ylim(len(found) - 0.45, -0.55)
    axis.set_xlim(0, 1)
    axis.set_xlabel("share of the importance")
    axis.grid(visible=False, axis="y")
    for n, (name, colour) in enumerate((("PED-ANOVA", PALETTE[0]), ("fANOVA", PALETTE[1]))):
        axis.text(
            0.99, (0.3 - 0.24 * n) / height, name, color=colour, size=FONT, ha="right",
            transform=axis.transAxes, weight="bold",
        )  # fmt: skip
    return figure


def draw_contours(
    pairs: Sequence[tuple[Varied, Varied]], values: dict[str, float], *, metric: str
) -> Figure:
    """A panel a pair, all with one scale of colours."""
    figure, axes = panels(1, len(pairs), 2.6, width=2.6 * max(2, len(pairs)))
    limits = (min(values.values()), max(values.values()))
    drawn = [
        _contour(axis, first, second, values, limits)
        for axis, (first, second) in zip(axes, pairs, strict=True)
    ]
    figure.colorbar(drawn[0], ax=axes, label=metric)
    return figure


def _contour(
    axis: Axes, first: Varied, second: Varied, values: dict[str, float], limits: tuple[float, float]
) -> Any:
    levels = [v for v in values if v in first.values and v in second.values]
    x, y = ([one.position(level) for level in levels] for one in (first, second))
    z = [values[level] for level in levels]
    if first.numeric and second.numeric and len(levels) > 3:
        at = [
            [math.log(p) if one.logarithmic else p for p in places]
            for one, places in ((first, x), (second, y))
        ]
        _filled(axis, x, y, at, z, limits)
    set_scale(axis, first, levels)
    if second.logarithmic:
        axis.set_yscale("log")
    elif not second.numeric:
        axis.set_yticks(range(len(second.words)), second.words)
    axis.set_xlabel(first.key)
    axis.set_ylabel(second.key)
    axis.grid(visible=False)
    return axis.scatter(
        x, y, c=z, cmap="cividis_r", vmin=limits[0], vmax=limits[1], s=16, edgecolors="white",
        linewidths=0.5, zorder=3,
    )  # fmt: skip


def _filled(
    axis: Axes,
    x: Sequence[float],
    y: Sequence[float],
    at: Sequence[Sequence[float]],
    z: Sequence[float],
    limits: tuple[float, float],
) -> None:
    """Interpolated on the triangles of the points as the axes show them; points on one line have
    none."""
    from matplotlib.tri import Triangulation

    spans = [max(p) - min(p) for p in at]
    if min(spans) <= 0:
        return
    scaled = [[(p - min(own)) / span for p in own] for own, span in zip(at, spans, strict=True)]
    if np.linalg.matrix_rank(np.column_stack(scaled) - np.mean(scaled, axis=1), tol=1e-6) < 2:
        return
    triangles = Triangulation(*scaled).triangles
    steps = np.linspace(*limits, 12)
    axis.tricontourf(x, y, triangles, z, levels=steps, cmap="cividis_r", alpha=0.75, zorder=1)
