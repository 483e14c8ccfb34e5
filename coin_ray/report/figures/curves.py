"""How levels develop, along the steps of the chain and from round to round, and how an objective
without labels goes with what labels say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from coin_ray.report.figures.style import FONT, Looks, is_named, panels, shortened, spread

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_steps(
    steps: Sequence[str],
    lines: Mapping[str, Sequence[float | None]],
    looks: Looks,
    *,
    metric: str,
) -> Figure:
    """Mean of a metric at each step, one line a level, named at its end."""
    height = 3.2
    figure, (axis,) = panels(1, 1, height)
    ends: dict[str, tuple[float, float]] = {}
    for level, values in lines.items():
        x = [i for i, value in enumerate(values) if value is not None]
        y = [value for value in values if value is not None]
        axis.plot(x, y, linewidth=1.5, markersize=4, **looks[level])
        if y and is_named(looks[level]):
            ends[level] = (x[-1], y[-1])
    axis.set_xticks(range(len(steps)), steps)
    axis.set_xlim(-0.2, len(steps) - 1 + 0.1)
    axis.grid(visible=False, axis="x")
    axis.set_ylabel(f"mean {metric}")
    low, high = axis.get_ylim()
    gap = (high - low) * FONT * 1.3 / 72 / (height - 0.6)
    heights = spread([end[1] for end in ends.values()], gap)
    for (level, end), place in zip(ends.items(), heights, strict=True):
        axis.annotate(
            shortened(level, 24),
            xy=end,
            xytext=(len(steps) - 1 + 0.14, place),
            va="center",
            color=looks[level]["color"],
            annotation_clip=False,
        )
    return figure


def draw_rounds(
    facts: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]], looks: Looks
) -> Figure:
    """One panel a fact: level -> (round, value) pairs."""
    columns = min(2, len(facts))
    rows = -(-len(facts) // columns)
    figure, axes = panels(rows, columns, 0.5 + 1.9 * rows)
    for axis, (title, lines) in zip(axes, facts.items(), strict=False):
        for level, points in lines.items():
            x, y = zip(*points, strict=True)
            axis.plot(x, y, linewidth=1.4, markersize=4, label=shortened(level), **looks[level])
        axis.set_title(title)
        axis.set_xticks(sorted({r for points in lines.values() for r, _ in points}))
        axis.set_xlabel("round")
        axis.grid(visible=False, axis="x")
        axis.margins(y=0.12)
    for axis in axes[len(facts) :]:
        axis.set_visible(False)
    handles = [
        line
        for line, level in zip(axes[0].get_lines(), next(iter(facts.values())), strict=True)
        if is_named(looks[level])
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=max(1, min(5, len(handles))))
    return figure


def draw_objective(
    points: Mapping[str, tuple[str, float, float]],
    looks: Looks,
    *,
    objective: str,
    metric: str,
) -> Figure:
    """Cells as points: cell -> its level, the objective and the mean of ``metric``."""
    figure, (axis,) = panels(1, 1, 3.0, width=5.4)
    levels = list(dict.fromkeys(level for level, _, _ in points.values()))
    for level in levels:
        x, y = zip(*((x, y) for own, x, y in points.values() if own == level), strict=True)
        look = looks[level] | {"marker": looks[level]["marker"] or "o"}
        label = shortened(level) if is_named(looks[level]) else None
        axis.plot(x, y, linestyle="", markersize=5, label=label, **look)
    axis.set_xlabel(f"{objective} (reads no label)")
    axis.set_ylabel(metric)
    axis.margins(0.08)
    figure.legend(loc="outside right center")
    return figure
