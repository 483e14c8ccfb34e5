"""Which images of a study there are to show, and what its finished cells made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from coin_ray.data.dataset import DataSet, DataSpec
from coin_ray.data.label_files import read_label_map
from coin_ray.data.sample import Sample
from coin_ray.errors import UserError
from coin_ray.files import seen
from coin_ray.labels import LabelMap
from coin_ray.report.values.study_results import Results
from coin_ray.report.values.tidy import at_end, final_step, measured
from coin_ray.study.errors import nearest, shortened
from coin_ray.study.resolved import StudyCell

FIRST = 3
"""Images that are shown where nothing tells them apart."""


def best_levels(results: Results, spec: DataSpec) -> list[str]:
    """The baseline, and the best of the other levels."""
    own = (table for table in results.tables if table.dataset == spec.name)
    others = (table.best_level(results.study.report[0], baseline=False) for table in own)
    return [results.study.baseline_level, *(level for level in others if level is not None)]


def finished_cell(results: Results, level: str, spec: DataSpec) -> StudyCell | None:
    """The cell of the first random seed that has finished."""
    own = (c for c in results.study.cells if c.level == level and c.data == spec)
    return next((c for c in own if c.key_label in results.facts), None)


def by_step(results: Results, cell: StudyCell, image: str, metric: str = "aji") -> dict[str, float]:
    """A metric of an image at each step of a cell, where it was measured."""
    rows = results.frame.filter(cell=cell.key_label, image=image, metric=metric)
    return dict(measured(rows).select("step", "value").iter_rows())


def at_the_end(results: Results, cell: StudyCell, image: str, metric: str = "aji") -> float | None:
    """A metric of an image at the end of a cell, where it was measured."""
    steps = by_step(results, cell, image, metric)
    return steps.get(final_step(list(steps)))


def ranked(results: Results, cell: StudyCell) -> list[str]:
    """The measured images of a cell, by their AJI at its end, worst first."""
    own = at_end(results.frame.filter(cell=cell.key_label)).filter(metric="aji")
    return measured(own).sort("value", "image")["image"].to_list()


def telling(results: Results, cell: StudyCell) -> dict[str, str]:
    """The images on which a cell is worst, in the middle and best, and what each is; where nothing
    is measured, the first ones."""
    order = ranked(results, cell)
    if not order:
        return {s.name: "" for s in results.data[cell.data.name].samples[:FIRST]}
    places = {"worst": 0, "best": len(order) - 1, "median": len(order) // 2}
    named = {order[at]: f"the {word} image of {cell.level}" for word, at in places.items()}
    return {image: named[image] for image in order if image in named}


@dataclass(frozen=True)
class Found:
    """A data set of a study, and those of its images that are asked for."""

    spec: DataSpec
    data: DataSet
    samples: tuple[Sample, ...]


def find(results: Results, wanted: Sequence[str]) -> Found:
    """The data set that has all the images ``wanted``; of none wanted the first one. UserError for
    a name that none has."""
    for spec in results.study.data:
        data = results.data[spec.name]
        known = {image.name: Sample(image) for image in data.train}
        known |= {sample.name: sample for sample in data.samples}
        if set(wanted) <= known.keys():
            return Found(spec, data, tuple(known[name] for name in wanted))
    names = [image.name for data in results.data.values() for image in data.images]
    unknown = next((name for name in wanted if name not in names), None)
    if unknown is None:
        raise UserError(
            "these images are of several data sets",
            found=", ".join(wanted),
            do="take those of one data set at a time",
        )
    guess = nearest(unknown, names)
    raise UserError(
        f"this study has no image {unknown!r}",
        expected=shortened(", ".join(names)),
        do=f"did you mean {guess!r}?" if guess else "take one of these",
    )


def file_of(results: Results, cell: StudyCell, sample: Sample) -> Path:
    """Where a finished cell leaves the result of an image."""
    return results.runs / cell.key_label / "predictions" / f"{sample.name}.tif"


def label_map_of(results: Results, cell: StudyCell, sample: Sample) -> LabelMap:
    """What a finished cell left as the result of an image. UserError if that has gone."""
    path = file_of(results, cell, sample)
    if not seen(path):
        raise UserError(
            "the label map of this image has gone, or is none of this study",
            where=str(path),
            do="run `coin-ray sweep` with the same options: it writes what is missing",
        )
    # A result that is not split (table 11 of the paper) is one instance in many pieces.
    return read_label_map(path, sample.image.shape(), binary="instances")
