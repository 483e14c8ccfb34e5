"""What scores that read no label say of what is true: each instance of the training images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from coin_ray.report.figures.sheet import COLUMN
from coin_ray.report.figures.style import INK, MUTED, PALETTE, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Values = NDArray[np.floating]
BINS = 10
FEWEST = 5
"""Instances of a bin whose mean is shown."""


def draw_reliability(scores: Mapping[str, Values], iou: Values, *, drawn: str) -> Figure:
    """A panel a score (name -> (N,) in [0, 1]): the instances as points over their true IoU (N,),
    and the mean of that in each tenth of the score. ``drawn``: whose outline is judged."""
    figure, axes = panels(1, len(scores), 2.1, width=COLUMN, sharey=True)
    for axis, (name, values) in zip(axes, scores.items(), strict=True):
        axis.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=(0, (3, 3)))
        axis.scatter(values, iou, s=3, color=PALETTE[5], alpha=0.45, linewidths=0, rasterized=True)
        at, means = binned(values, iou)
        axis.plot(at, means, color=INK, linewidth=1.4, marker="o", markersize=3.5, clip_on=False)
        axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel=name)
        axis.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        axis.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
        axis.set_title(f"rank correlation {correlation(values, iou)}", fontweight="normal")
    axes[0].set_ylabel(f"true IoU of {drawn}")
    return figure


def binned(values: Values, iou: Values) -> tuple[list[float], list[float]]:
    """Mean value and mean IoU of the instances in each tenth of [0, 1] that has FEWEST or more."""
    tenth = np.clip((np.asarray(values) * BINS).astype(int), 0, BINS - 1)
    held = [tenth == i for i in range(BINS) if np.count_nonzero(tenth == i) >= FEWEST]
    return [float(np.mean(values[h])) for h in held], [float(np.mean(iou[h])) for h in held]


def correlation(values: Values, iou: Values) -> str:
    """Spearman's rank correlation, to two digits; a dash where one of them does not vary."""
    from scipy.stats import spearmanr

    if len(values) < 3 or np.ptp(values) == 0 or np.ptp(iou) == 0:
        return "–"
    return f"{spearmanr(values, iou).statistic:.2f}"


def told(values: Values, iou: Values, images: int) -> Sequence[str]:
    """What the caption says: how many there are, and what taking the better half is worth."""
    order = np.argsort(-np.asarray(values), kind="stable")
    half = iou[order[: -(-len(order) // 2)]]
    count = f"{len(iou)} instances of {images} image{'s' if images != 1 else ''}"
    return (
        f"{count}: mean true IoU {iou.mean():.2f}, of the half with the higher scores "
        f"{half.mean():.2f}",
        f"Dots: means of {BINS} ranges of the score; rank correlation of Spearman",
    )
