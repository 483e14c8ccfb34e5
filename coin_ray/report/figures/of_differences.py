"""Two results beside each other, with the nuclei that only one of them has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from coin_ray.data.sample import Sample
from coin_ray.labels import LabelMap
from coin_ray.report.figures.panel import Panel, window_of
from coin_ray.report.figures.sheet import Row, draw_sheet
from coin_ray.report.values.differences import only

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIDE = 256
"""Pixels that are shown: where most of the nuclei lie that only one has."""


def draw_differences(
    rows: Sequence[tuple[Sample, tuple[LabelMap, LabelMap], tuple[float | None, float | None]]],
    names: tuple[str, str],
    metric: str,
) -> Figure:
    """A row an image: the truth (where there is one), then both results, in boxes what only one of
    them has; ``rows``: image, label maps, values of ``metric``."""
    drawn = [_row(sample, maps, values, names, metric) for sample, maps, values in rows]
    labelled = any(sample.has_truth for sample, _, _ in rows)
    return draw_sheet(drawn, legend=("true", "found", "only") if labelled else ("found", "only"))


def _row(
    sample: Sample,
    maps: tuple[LabelMap, LabelMap],
    values: tuple[float | None, float | None],
    names: tuple[str, str],
    metric: str,
) -> Row:
    pixels, unmatched = sample.load_image(), only(*maps)
    ids = (unmatched.false_negative, unmatched.false_positive)
    interest = np.isin(maps[0], ids[0]) & (maps[0] > 0)
    interest |= np.isin(maps[1], ids[1]) & (maps[1] > 0)
    window = window_of(interest if interest.any() else maps[0] > 0, SIDE)
    truth = sample.load_label_map() if sample.has_truth else None
    said = "" if truth is None else f"truth, {truth.max(initial=0)} nuclei"
    outlines = {} if truth is None else {"true": truth}
    panels = [Panel((sample.name, said, ""), pixels, window, outlines)]  # type: ignore[arg-type]
    for name, found, own, value in zip(names, maps, ids, values, strict=True):
        words = f"{len(own)} of {found.max(initial=0)} only here"
        measured = "" if value is None else f"{metric} {value:.2f}"
        title = (name, words, measured)
        panels.append(Panel(title, pixels, window, {"found": found}, (("only", found, own),)))
    return Row(panels, mpp=sample.mpp)
