"""One look for all figures: no pyplot, no global state, the same bytes for the same numbers."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from coin_ray import safe
from coin_ray.report.document.blocks import Plot
from coin_ray.study.names import file_word

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 7.2
"""Inches; the text column of the page, and of a paper with two columns."""
INK, MUTED, FAINT, BAND = "#1f2328", "#6b7280", "#c9ced6", "#eef1f4"
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's colours that stand out on white; told apart with any colour vision."""
MARKERS = ("o", "s", "^", "v", "P", "X")
FONT = 8.5

_STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same picture on every machine
    **dict.fromkeys(("font.size", "axes.labelsize"), FONT),
    "axes.titlesize": FONT + 0.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), INK),
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), MUTED),
    **dict.fromkeys(("axes.linewidth", "grid.linewidth"), 0.7),
    **dict.fromkeys(("xtick.major.width", "ytick.major.width"), 0.7),
    **dict.fromkeys(("xtick.major.size", "ytick.major.size"), 3),
    **dict.fromkeys(("xtick.minor.size", "ytick.minor.size"), 0),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    **dict.fromkeys(("axes.grid", "axes.axisbelow"), True),
    "grid.color": "#e8eaee",
    "text.parse_math": False,  # a name may hold any number of $
    "lines.solid_capstyle": "round",
    "svg.fonttype": "path",
    "svg.hashsalt": "coin-ray",
    "pdf.fonttype": 42,
}
_UNDATED: dict[str, Any] = {
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
    "png": {"Software": None},
}
DPI = 300
"""Of pixels, and of what is no vector in SVG and PDF."""


@contextmanager
def look() -> Iterator[None]:
    """In it figures are drawn and saved."""
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        yield


def saved(figure: Figure, suffix: str) -> bytes:
    """A drawn figure as svg, pdf, png or jpg, without a date, so that equal numbers are equal
    bytes."""
    out = io.BytesIO()
    with look():
        figure.savefig(out, format=suffix, metadata=_UNDATED.get(suffix), dpi=DPI)
    return out.getvalue()


def render(draw: Callable[[], Figure]) -> tuple[bytes, bytes]:
    """What ``draw`` draws as SVG and as PDF."""
    with look():
        drawn = draw()
    svg = saved(drawn, "svg")
    drawn.set_layout_engine("none")  # everything is in its place: not once more
    return svg, saved(drawn, "pdf")


def plot(kind: str, dataset: str, caption: str, draw: Callable[[], Figure]) -> Plot:
    """A figure of a data set, drawn, under a file name of its own."""
    svg, pdf = render(draw)
    name = re.sub(r"[^a-z0-9]+", "-", kind.lower()).strip("-")
    return Plot(f"{name}-{file_word(dataset)}", caption, svg, pdf)


def panels(
    rows: int, columns: int, height: float, *, width: float = WIDTH, **options: Any
) -> tuple[Figure, list[Axes]]:
    """An empty figure of ``width`` x ``height`` inches and its axes in reading order."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.06, wspace=0.04, hspace=0.06)
    drawn = Figure(figsize=(width, height), layout=layout)
    return drawn, list(drawn.subplots(rows, columns, squeeze=False, **options).flat)


Looks = Mapping[str, dict[str, Any]]
"""Level -> the properties of its line."""


def strokes(levels: Sequence[str], baseline: str, best: str | None) -> Looks:
    """Line properties of each level: the baseline in black; a colour and a marker each while there
    are enough of them, else the ``best`` level in blue and the others grey."""
    others = [level for level in levels if level != baseline]
    few = len(others) <= len(PALETTE)
    out: dict[str, dict[str, Any]] = {}
    for i, level in enumerate(others):
        if few:
            out[level] = {"color": PALETTE[i], "marker": MARKERS[i], "zorder": 3}
        elif level == best:
            out[level] = {"color": PALETTE[0], "marker": "o", "zorder": 4}
        else:
            out[level] = {"color": FAINT, "marker": "", "zorder": 2}
    return {**out, baseline: {"color": INK, "marker": "D", "zorder": 5}}


def is_named(look: Mapping[str, Any]) -> bool:
    """Whether a level that looks like this can be told from the others."""
    return look["color"] != FAINT


def spread(positions: Sequence[float], gap: float) -> list[float]:
    """``positions`` moved as little as needed for any two to lie ``gap`` apart, order kept."""
    import numpy as np
    from scipy.optimize import isotonic_regression

    if not positions:
        return []
    order, out = np.argsort(positions, kind="stable"), np.empty(len(positions))
    apart = gap * np.arange(len(positions))
    out[order] = isotonic_regression(np.asarray(positions)[order] - apart).x + apart
    return [float(place) for place in out]


def shortened(text: str, length: int = 32) -> str:
    """A label that fits beside a figure."""
    text = safe.figure(text)
    return text if len(text) <= length else text[: length - 1] + "…"
