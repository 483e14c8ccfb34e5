"""Results beside the truth: levels compared, what went wrong, adjacent cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from coin_ray.data.sample import Sample
from coin_ray.labels import LabelMap
from coin_ray.metrics.contingency import contingency
from coin_ray.metrics.mistakes import Errors, errors
from coin_ray.report.figures.of_steps import View
from coin_ray.report.figures.panel import EMPTY, IGNORED, NUCLEUS, ORANGE, Kind, Panel
from coin_ray.report.figures.sheet import Row, draw_sheet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Boxed = tuple[tuple[Kind, LabelMap, NDArray[np.integer]], ...]


@dataclass(frozen=True)
class Result:
    """The label map that a level ends with, and its AJI where it was measured."""

    level: str
    label_map: LabelMap
    aji: float | None


def draw_compare(rows: Sequence[tuple[Sample, Sequence[Result]]], view: View) -> Figure:
    """A row an image, a column a level, false positives and false negatives in boxes."""
    drawn = [_compared(sample, results, view) for sample, results in rows]
    labelled = any(sample.has_truth for sample, _ in rows)
    legend: tuple[Kind, ...] = ("true", "found", "extra", "lost") if labelled else ("found",)
    return draw_sheet(drawn, legend=legend)


def _compared(sample: Sample, results: Sequence[Result], view: View) -> Row:
    pixels = sample.load_image()
    truth = sample.load_label_map() if sample.has_truth else None
    window = view((results[0].label_map if truth is None else truth) > 0)
    panels = []
    if truth is None:
        panels.append(Panel((sample.name, ""), pixels, window))
    else:
        title = (sample.name, f"truth, {truth.max(initial=0)} nuclei")
        panels.append(Panel(title, pixels, window, {"true": truth}))
    for result in results:
        said, boxed = f"{result.label_map.max(initial=0)} nuclei", Boxed()
        if truth is not None:
            wrong = errors(contingency(truth, result.label_map))
            fp, fn = len(wrong.false_positive), len(wrong.false_negative)
            said = f"{fp} FP, {fn} FN" + ("" if result.aji is None else f", AJI {result.aji:.2f}")
            boxed = _boxes(wrong, truth, result.label_map)
        title = (result.level, said)
        panels.append(Panel(title, pixels, window, {"found": result.label_map}, boxed))
    return Row(panels, mpp=sample.mpp)


def _boxes(wrong: Errors, truth: LabelMap, found: LabelMap) -> Boxed:
    return ("extra", found, wrong.false_positive), ("lost", truth, wrong.false_negative)


def draw_failures(
    rows: Sequence[tuple[Sample, LabelMap, Result]], view: View
) -> tuple[Figure, list[str]]:
    """The image, step 1 and the result of each row with all that is wrong in boxes, and in words
    what it is; the sentences say what of it was lost in step 1."""
    drawn, said = [], []
    for sample, step1, result in rows:
        truth, pixels = sample.load_label_map(), sample.load_image()
        before, after = (errors(contingency(truth, m)) for m in (step1, result.label_map))
        window = view(np.isin(truth, after.false_negative) & (truth > 0))
        panels = [Panel((sample.name, "truth"), pixels, window, {"true": truth})]
        for title, found, wrong in (
            ("step 1", step1, before),
            (result.level, result.label_map, after),
        ):
            words = f"{len(wrong.false_positive)} FP, {len(wrong.false_negative)} FN"
            words += f", AJI {result.aji:.2f}" if found is result.label_map and result.aji else ""
            boxed = _boxes(wrong, truth, found)
            panels.append(Panel((title, words), pixels, window, {"found": found}, boxed))
        notes = [f"{name}: {_causes(w)}" for name, w in (("step 1", before), ("result", after))]
        drawn.append(Row(panels, notes=tuple(notes), mpp=sample.mpp))
        both = np.intersect1d(before.false_negative, after.false_negative)
        said.append(
            f"{sample.name}: {_causes(after)}; step 1 had already lost {len(both)} of the "
            f"{len(after.false_negative)} nuclei"
        )
    return draw_sheet(drawn, legend=("true", "found", "extra", "lost")), said


def _causes(wrong: Errors) -> str:
    words = {"outline": "outlined badly"}
    found = [f"{n} {words.get(name, name)}" for name, n in wrong.causes.items() if n]
    return ", ".join(found) or "nothing wrong"


def draw_adjacency(
    sample: Sample,
    members: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    result: Result,
    parts: Sequence[float],
    view: View,
) -> Figure:
    """Cells by their part; ``members``: (N,) which of the true instances are adjacent, and which
    are not; ``parts``: AJI of both."""
    truth, pixels = sample.load_label_map(), sample.load_image()
    adjacent, alone = members
    fills = {"adjacent": ORANGE, "not adjacent": NUCLEUS}
    colours = np.select([adjacent[:, None], alone[:, None]], list(fills.values()), IGNORED)
    cells = np.concatenate([[EMPTY], colours])[truth]
    window = view(np.concatenate([[False], adjacent])[truth])
    counted = f"{adjacent.sum()} adjacent, {alone.sum()} not"
    found = " and ".join(f"{value:.2f}" for value in parts)
    outlined: dict[Kind, LabelMap] = {"found": result.label_map}
    title = (sample.name, f"truth, {truth.max(initial=0)} nuclei")
    panels = [
        Panel(title, pixels, window, {"true": truth}),
        Panel(("cells", counted), cells, window),
        Panel((result.level, f"AJI {found}" if found else ""), cells, window, outlined),
    ]
    return draw_sheet([Row(panels, mpp=sample.mpp)], legend=("true", "found"), fills=fills)
