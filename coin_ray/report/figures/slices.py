"""Settings that a study varies against what came of them: slices and parallel coordinates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from coin_ray import safe
from coin_ray.report.figures.levels import Interval
from coin_ray.report.figures.style import FAINT, FONT, INK, MUTED, PALETTE, panels, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDE = 20
"""A largest value this many times the smallest asks for a logarithmic axis."""


@dataclass(frozen=True)
class Varied:
    """A setting and its value at each level that has one of its own. ``scale``: what a search says
    of its axis; None leaves it to the numbers."""

    key: str
    values: Mapping[str, Any]
    scale: Literal["log", "lin", "int", "any"] | None = None

    @cached_property
    def numeric(self) -> bool:
        """True for numbers; a switch is none."""
        return all(
            isinstance(v, int | float) and not isinstance(v, bool) for v in self.values.values()
        )

    @cached_property
    def logarithmic(self) -> bool:
        """True for positive numbers over more than a decade."""
        if self.scale is not None or not self.numeric:
            return self.scale == "log"
        low, high = min(self.values.values()), max(self.values.values())
        return low > 0 and high / low >= WIDE

    @cached_property
    def words(self) -> list[str]:
        """The different values of a setting that is no number, in order of appearance."""
        return list(dict.fromkeys(str(value) for value in self.values.values()))

    @cached_property
    def _places(self) -> dict[str, float]:
        if self.numeric:
            return {level: float(value) for level, value in self.values.items()}
        order = {word: float(number) for number, word in enumerate(self.words)}
        return {level: order[str(value)] for level, value in self.values.items()}

    @cached_property
    def _ends(self) -> tuple[float, float]:
        """Of the axis, as it is scaled."""
        scale = math.log if self.logarithmic else float
        return scale(min(self._places.values())), scale(max(self._places.values()))

    def position(self, level: str) -> float:
        """Where a level stands on the setting's axis."""
        return self._places[level]

    def fraction(self, level: str) -> float:
        """The position between the axis' ends, 0 to 1."""
        scale = math.log if self.logarithmic else float
        low, high = self._ends
        return (scale(self.position(level)) - low) / (high - low) if high > low else 0.5


def draw_slices(
    settings: Sequence[Varied],
    results: Mapping[str, Interval],
    baseline: str,
    *,
    metric: str,
    connected: bool,
) -> Figure:
    """One panel a setting: what each level's value gave. ``connected`` joins the points, for a
    study in which nothing else varies."""
    columns = min(3, len(settings))
    rows = -(-len(settings) // columns)
    figure, axes = panels(rows, columns, 0.3 + 2.2 * rows, width=2.4 * max(columns, 2), sharey=True)
    for i, (axis, setting) in enumerate(zip(axes, settings, strict=False)):
        _slice(axis, setting, results, baseline, connected)
        if i % columns == 0:
            axis.set_ylabel(metric)
    for axis in axes[len(settings) :]:
        axis.set_visible(False)
    return figure


def _slice(
    axis: Axes,
    setting: Varied,
    results: Mapping[str, Interval],
    baseline: str,
    connected: bool,
) -> None:
    levels = sorted((v for v in setting.values if v in results), key=setting.position)
    if connected:
        x = [setting.position(level) for level in levels]
        axis.plot(x, [results[level][0] for level in levels], color=FAINT, linewidth=1.2, zorder=1)
    for level in levels:
        mean, low, high = results[level]
        own = level == baseline
        colour = INK if own else PALETTE[0]
        x0 = setting.position(level)
        if connected and low is not None and high is not None:
            axis.plot([x0, x0], [low, high], color=colour, linewidth=1.4, alpha=0.55, zorder=2)
        axis.plot(
            x0, mean, marker="D" if own else "o", color=colour, markersize=4.5, zorder=3 + own
        )
    axis.set_xlabel(setting.key)
    set_scale(axis, setting, levels)


def set_scale(axis: Axes, setting: Varied, levels: Sequence[str]) -> None:
    """The setting's own axis, with ticks at the values of ``levels``."""
    if setting.numeric and all(float(v).is_integer() for v in setting.values.values()):
        axis.locator_params(axis="x", integer=True)
    if setting.logarithmic:
        axis.set_xscale("log")
        _plain_ticks(axis, sorted({setting.position(level) for level in levels}))
    elif not setting.numeric:
        words = [shortened(word, 16) for word in setting.words]
        axis.set_xticks(range(len(words)), words)
        if len(words) > 3:
            axis.tick_params(axis="x", labelrotation=35)
            for text in axis.get_xticklabels():
                text.set_horizontalalignment("right")
                text.set_rotation_mode("anchor")
        axis.set_xlim(-0.5, len(setting.words) - 0.5)


def _plain_ticks(axis: Axes, values: Sequence[float]) -> None:
    """The values themselves where they are few, else decades as plain numbers."""
    from matplotlib.ticker import NullFormatter

    if len(values) <= 8:
        axis.set_xticks(values, [f"{v:g}" for v in values])
    else:
        axis.xaxis.set_major_formatter(lambda v, _: f"{v:g}")
    axis.xaxis.set_minor_formatter(NullFormatter())


def draw_parallel(
    settings: Sequence[Varied],
    outcome: Varied,
    baseline: str,
    best: str | None,
) -> Figure:
    """Parallel coordinates: an axis a setting and one for the ``outcome``, a line a level, coloured
    by the outcome; the ``best`` level drawn thick, the ``baseline`` dashed."""
    from matplotlib import colormaps

    figure, (axis,) = panels(1, 1, 3.2)
    columns = [*settings, outcome]
    colours = colormaps["cividis"]
    levels = [
        level for level in outcome.values if all(level in column.values for column in columns)
    ]
    for level in sorted(levels, key=outcome.fraction):
        y = [column.fraction(level) for column in columns]
        share = outcome.fraction(level)
        look: dict[str, Any] = {"color": colours(0.95 - 0.9 * share), "linewidth": 0.9}
        if level == best:
            look = {"color": PALETTE[1], "linewidth": 2.4}
        if level == baseline:
            look = {"color": INK, "linewidth": 1.6, "linestyle": (0, (4, 2))}
        axis.plot(range(len(columns)), y, **look)
    for x, column in enumerate(columns):
        axis.axvline(x, color=MUTED, linewidth=0.8, zorder=1)
        for share, text in _ends(column):
            axis.text(x + 0.02, share, text, size=FONT - 1, va="center", bbox=_HALO, zorder=6)
    axis.set_xticks(range(len(columns)), [column.key.replace(".", ".\n", 1) for column in columns])
    axis.set_xlim(-0.1, len(columns) - 1 + 0.25)
    axis.set_ylim(-0.06, 1.06)
    axis.set_yticks([])
    axis.grid(visible=False)
    for side in ("left", "bottom"):
        axis.spines[side].set_visible(False)
    axis.tick_params(length=0)
    return figure


def draw_budget(values: Sequence[float], baseline: float | None, *, metric: str) -> Figure:
    """``values``: the expected best of 1, 2, ... trials; a line for the baseline."""
    figure, (axis,) = panels(1, 1, 2.4, width=4.6)
    axis.plot(range(1, len(values) + 1), values, color=PALETTE[0], linewidth=1.6)
    if baseline is not None:
        axis.axhline(baseline, color=INK, linewidth=1, linestyle=(0, (4, 2)))
    axis.set_xlabel("trials")
    axis.set_ylabel(f"expected best {metric}")
    axis.locator_params(axis="x", integer=True)
    return figure


_HALO = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}


def _ends(column: Varied) -> list[tuple[float, str]]:
    """What is written on an axis: all its words, or the smallest and the largest number."""
    if not column.numeric:
        words = {str(value): level for level, value in column.values.items()}
        return [(column.fraction(level), safe.figure(word)) for word, level in words.items()]
    ends = dict.fromkeys(pick(column.values, key=column.position) for pick in (min, max))
    return [(column.fraction(level), f"{column.values[level]:.3g}") for level in ends]
