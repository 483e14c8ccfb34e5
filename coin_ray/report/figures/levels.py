"""Levels: their means with intervals, and the share of images above each value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from coin_ray.report.figures.style import (
    BAND,
    FONT,
    INK,
    MUTED,
    PALETTE,
    Looks,
    is_named,
    panels,
    shortened,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Interval = tuple[float, float | None, float | None]
"""A value and the ends of its interval, None where there is none."""


@dataclass(frozen=True)
class Row:
    """A line of a dot plot: its label and an interval for each panel, None where missing."""

    label: str
    values: tuple[Interval | None, ...]
    strong: bool = False


def draw_dots(
    titles: Sequence[str],
    rows: Sequence[Row],
    *,
    reference: str | None = None,
    band: float = 0.0,
) -> Figure:
    """One panel a title, one line a row, from top to bottom.

    ``reference``: the label of the row whose value is drawn through the panel; None draws zero,
    with a ``band`` to either side.
    """
    height = 0.75 + 0.25 * len(rows)
    figure, axes = panels(1, len(titles), height, sharey=True)
    base = next((row for row in rows if row.label == reference), None)
    for i, (axis, title) in enumerate(zip(axes, titles, strict=True)):
        found = base.values[i] if base is not None else (0.0, None, None)
        if found is not None:
            axis.axvline(found[0], color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
        if band:
            axis.axvspan(-band, band, color=BAND, linewidth=0, zorder=0)
        for y, row in enumerate(rows):
            _dot(axis, y, row, row.values[i], is_reference=row is base)
        axis.set_title(title)
        axis.grid(visible=False, axis="y")
        axis.locator_params(axis="x", nbins=max(3, 8 // len(titles)))
    axes[0].set_ylim(len(rows) - 0.4, -0.6)
    axes[0].set_yticks(range(len(rows)), [shortened(row.label) for row in rows])
    for axis in axes:
        axis.tick_params(axis="y", length=0)
        axis.spines["left"].set_visible(False)
    return figure


def _dot(axis: Axes, y: int, row: Row, value: Interval | None, *, is_reference: bool) -> None:
    if value is None:
        place = axis.get_yaxis_transform()
        axis.text(0.02, y, "missing", transform=place, color=MUTED, size=FONT - 1.5, va="center")
        return
    colour = INK if is_reference else PALETTE[0]
    mean, low, high = value
    if low is not None and high is not None:
        axis.plot([low, high], [y, y], color=colour, linewidth=1.6, alpha=0.55, zorder=2)
    face = colour if is_reference or row.strong else "white"
    marker = "D" if is_reference else "o"
    axis.plot(mean, y, marker=marker, color=colour, markersize=5, markerfacecolor=face, zorder=3)


def draw_profiles(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], looks: Looks, *, metric: str
) -> Figure:
    """Performance profiles: level -> thresholds and the share of images above each."""
    figure, (axis,) = panels(1, 1, 2.9, width=5.4)
    for level, (x, y) in curves.items():
        colour, order = looks[level]["color"], looks[level]["zorder"]
        label = shortened(level) if is_named(looks[level]) else None
        axis.step(x, y, where="post", color=colour, zorder=order, linewidth=1.5, label=label)
    axis.set_xlabel(metric)
    axis.set_ylabel("share of images above it")
    axis.set_ylim(-0.02, 1.02)
    # The curves begin at 0, where nothing happens: the first drop says where the images are.
    values = [value for x, _ in curves.values() for value in x[1:]]
    if values and max(values) > min(values):
        room = 0.05 * (max(values) - min(values))
        axis.set_xlim(min(values) - room, max(values) + room)
    figure.legend(loc="outside right center")
    return figure
