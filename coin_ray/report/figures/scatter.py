"""An objective without labels against what labels say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from coin_ray.report.figures.style import Looks, is_named, panels, shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
