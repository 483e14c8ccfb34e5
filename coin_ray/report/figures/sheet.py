"""Panels of image tiles beside each other, at the width of a paper's column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from coin_ray import safe
from coin_ray.report.figures.panel import LOOKS, SEAM, SMALL, Kind, Panel, draw_panel, scale_bar
from coin_ray.report.figures.style import INK, MUTED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMN, PAGE = 85 / 25.4, 174 / 25.4
"""Inches of one column and of both."""
LINE = SMALL * 1.32 / 72
ROOM = 0.97 * 72
"""Points an inch that a text may take: on a screen letters are up to 2 % wider."""
GAP, EDGE = 0.05, 0.02


@dataclass(frozen=True)
class Row:
    """``side``: what stands beside a row of panels; ``notes``: lines below it; ``mpp``: um/px."""

    panels: Sequence[Panel]
    side: str = ""
    notes: tuple[str, ...] = ()
    mpp: float | None = None


def draw_sheet(
    rows: Sequence[Row],
    *,
    legend: Sequence[Kind] = (),
    fills: Mapping[str, Any] | None = None,
    width: float | None = None,
) -> Figure:
    """All panels, equally wide; ``legend``: kinds of outlines, ``fills``: name -> colour. More than
    three panels in a row take both columns of a page, unless the ``width`` (inches) is given."""
    from matplotlib.figure import Figure

    columns = max(len(row.panels) for row in rows)
    width = width or (COLUMN if columns <= 3 else PAGE)
    left = EDGE + (1.5 * LINE if any(row.side for row in rows) else 0)
    wide = (width - left - EDGE - GAP * (columns - 1)) / columns
    sizes = [_height(row, wide) for row in rows]
    keys = _legend_rows(legend, fills or {}, width)
    height = EDGE + sum(map(sum, sizes)) + GAP * len(rows) + len(keys) * LINE * 1.2
    figure = Figure(figsize=(width, height))
    top = height - EDGE
    for row, (above, tall, below) in zip(rows, sizes, strict=True):
        _draw_row(figure, row, left, top - above, wide, tall)
        top -= above + tall + below + GAP
    _draw_legend(figure, keys, left, top)
    return figure


def _draw_row(figure: Figure, row: Row, left: float, top: float, wide: float, tall: float) -> None:
    """Panels whose upper edge is at ``top``; all in inches from the lower left corner."""
    width, height = figure.get_size_inches()
    for i, panel in enumerate(row.panels):
        x = left + i * (wide + GAP)
        at = (x / width, (top - tall) / height, wide / width, tall / height)
        axis = figure.add_axes(at)
        draw_panel(axis, panel, wide)
        for n, line in enumerate(reversed(panel.title)):
            strong = n == len(panel.title) - 1
            figure.text(
                x / width,
                (top + 0.03 + n * LINE) / height,
                fitted(line, wide * ROOM, strong=strong),
                size=SMALL,
                weight="bold" if strong else "normal",
                color=INK if strong else MUTED,
            )
        if i == 0 and row.mpp:
            scale_bar(axis, panel.window, row.mpp)
    if row.side:
        said = fitted(row.side, tall * ROOM, strong=True)
        figure.text(
            EDGE / width, (top - tall / 2) / height, said, va="center", rotation=90,
            size=SMALL, weight="bold", color=INK,
        )  # fmt: skip
    for n, line in enumerate(row.notes, start=1):
        figure.text(left / width, (top - tall - n * LINE) / height, line, size=SMALL, color=MUTED)


def _height(row: Row, wide: float) -> tuple[float, float, float]:
    """Inches above, of and below the panels of a row."""
    titles = max(len(panel.title) for panel in row.panels)
    window = row.panels[0].window
    above = titles * LINE + (0.04 if titles else 0)
    return above, wide * window.height / window.width, len(row.notes) * LINE + 0.02


Key = tuple[str, Any, Any]
"""A name, its colour, and its line style; None for a fill."""


def _legend_rows(
    kinds: Sequence[Kind], fills: Mapping[str, Any], width: float
) -> list[list[tuple[Key, float]]]:
    """What is explained below, as many beside each other as fit, and how wide each is."""
    keys: list[Key] = [LOOKS[kind] for kind in kinds]
    keys += [(name, colour, None) for name, colour in fills.items()]
    rows: list[list[tuple[Key, float]]] = []
    room = 0.0
    for key in keys:
        size = 0.3 + text_width(key[0]) / 72 + 0.1
        if size > room:
            rows.append([])
            room = width - 2 * EDGE
        rows[-1].append((key, size))
        room -= size
    return rows


def _draw_legend(
    figure: Figure, rows: Sequence[Sequence[tuple[Key, float]]], left: float, top: float
) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import Normal, Stroke

    width, height = figure.get_size_inches()
    for n, row in enumerate(rows):
        x, y = left + 0.02, top - (n + 0.8) * LINE * 1.2
        for (name, colour, style), size in row:
            middle = (y + 0.035) / height
            if style is None:
                at = (x / width, (y - 0.005) / height)
                figure.add_artist(
                    Rectangle(at, 0.2 / width, 0.08 / height, facecolor=colour, edgecolor=MUTED,
                              lw=0.4)
                )  # fmt: skip
            else:
                ends = [x / width, (x + 0.22) / width]
                line = Line2D(ends, [middle, middle], color=colour, lw=1.3, ls=style)
                line.set_path_effects([Stroke(linewidth=2.3, foreground=SEAM), Normal()])
                figure.add_artist(line)
            figure.text((x + 0.28) / width, y / height, name, size=SMALL, color=INK)
            x += size


def text_width(text: str, *, strong: bool = False) -> float:
    """Points that a line of small text is wide."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    font = FontProperties(family="DejaVu Sans", weight="bold" if strong else "normal")
    return float(TextPath((0, 0), text, size=SMALL, prop=font, usetex=False).get_extents().x1)


def fitted(text: str, room: float, *, strong: bool = False) -> str:
    """A line that is at most ``room`` points wide: its end is cut off where it is wider."""
    text = safe.figure(text)
    if not text.strip() or text_width(text, strong=strong) <= room:
        return text
    while len(text) > 1 and text_width(text + "…", strong=strong) > room:
        text = text[:-1]
    return text + "…"
