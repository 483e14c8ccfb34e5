"""A few pictures of a study, small enough to travel inside its page."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from coin_ray.data.dataset import DataSpec
from coin_ray.files import seen
from coin_ray.report.document.blocks import Photo
from coin_ray.report.figures.of_results import draw_compare
from coin_ray.report.figures.pictures import Asked, result_of
from coin_ray.report.figures.style import look, saved
from coin_ray.report.values import images
from coin_ray.report.values.study_results import Results

LEGEND = (
    "The part of each image that has most nuclei. Counts and AJI are of the whole image; a "
    "prediction matches a nucleus above an IoU of 0.5."
)
MOST = 12
"""Pictures on a page."""


def gallery(results: Results) -> list[Photo]:
    """The baseline and the best other level beside each other, as ``coin-ray figure compare`` draws
    them: first finished random seed, of each data set the images on which the baseline is worst, in
    the middle and best."""
    return list(islice((p for spec in results.study.data for p in _of(results, spec)), MOST))


def _of(results: Results, spec: DataSpec) -> Iterator[Photo]:
    levels = images.best_levels(results, spec)
    cells = [c for level in levels if (c := images.finished_cell(results, level, spec))]
    if not cells or spec.name not in results.data:
        return
    samples = {sample.name: sample for sample in results.data[spec.name].samples}
    for name, why in images.telling(results, cells[0]).items():
        there = [c for c in cells if seen(images.file_of(results, c, samples[name]))]
        if not there:
            continue
        shown = [result_of(results, cell, samples[name]) for cell in there]
        with look():
            figure = draw_compare([(samples[name], shown)], Asked().view)
        whose = ", ".join(f"{cell.level} (seed {cell.seed})" for cell in there)
        said = f"{name} ({spec.name}): {whose}" + (f"; {why}" if why else "")
        yield Photo(said, saved(figure, "jpg"))
