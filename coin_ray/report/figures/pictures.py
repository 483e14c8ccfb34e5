"""Pictures of a finished study by their kind: which images and levels they show."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from coin_ray.data.sample import Sample
from coin_ray.errors import UserError
from coin_ray.pipeline import refs
from coin_ray.pipeline.cell import CellRun
from coin_ray.pipeline.settings import Cell
from coin_ray.report.figures import of_results, of_scores
from coin_ray.report.figures.of_curves import curves
from coin_ray.report.figures.of_steps import Made, draw_labels, draw_scores, draw_stages, scored
from coin_ray.report.figures.panel import Window, window_of
from coin_ray.report.figures.style import look, saved
from coin_ray.report.values import images
from coin_ray.report.values.finished import check_level, open_finished, stored
from coin_ray.report.values.study_results import Results
from coin_ray.study.errors import shortened
from coin_ray.study.names import file_word
from coin_ray.study.resolved import StudyCell

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIDE = 256
"""Pixels of the window that is shown: outlines of more nuclei run together in a column."""
ROWS = 3  # images of a picture that shows several


@dataclass(frozen=True)
class Asked:
    """What pictures are to show. Empty: chosen by their kind. ``window``: (side,) or (x, y, side),
    px; ``round_``: whose labels and scores; ``metric``: of curves; ``compute``: what is missing is
    made again."""

    images: tuple[str, ...] = ()
    levels: tuple[str, ...] = ()
    window: tuple[int, ...] = ()
    round_: int | None = None
    metric: str | None = None
    compute: bool = False

    def __post_init__(self) -> None:
        window = self.window
        if window and (len(window) not in (1, 3) or min(window) < 0 or window[-1] < 1):
            found = ",".join(map(str, window))
            raise UserError("no window", expected="SIDE or X,Y,SIDE in px", found=found)

    @property
    def ending(self) -> str:
        """Of the names of their files: by all that is asked for but the images."""
        window = "-".join(map(str, self.window))
        said = {"round": self.round_, "metric": self.metric, "window": window}
        words = [", ".join(self.levels), *(f"{key}-{word}" for key, word in said.items() if word)]
        return "".join(f"-{file_word(word)}" for word in words if word)

    def view(self, interest: NDArray[Any]) -> Window:
        """The window, by itself the one with most of ``interest`` (H, W)."""
        if len(self.window) < 3:
            return window_of(interest, *(self.window or (SIDE,)))
        x, y, side = self.window
        height, width = interest.shape
        if x + side > width or y + side > height:
            raise UserError(
                "the window leaves the image",
                expected=f"X + SIDE up to {width}, Y + SIDE up to {height}",
                found=f"{x},{y},{side}",
                do="take a window inside it, or name its side alone",
            )
        return Window(y, x, side, side)


@dataclass(frozen=True)
class Picture:
    """``name``: of its file, without a suffix; ``caption``: what it shows."""

    name: str
    caption: str
    figure: Figure

    def to(self, suffix: str) -> bytes:
        """As svg, pdf, png or jpg."""
        return saved(self.figure, suffix)

    def _repr_svg_(self) -> str:
        """How a notebook shows it."""
        return self.to("svg").decode()


def pictures(results: Results, workspace: Path, kind: str, asked: Asked) -> list[Picture]:
    """The pictures of a kind. UserError for names that are not there, and for what the kind needs
    and the study has not."""
    if kind not in KINDS:
        raise UserError(
            f"there are no pictures of {kind!r}", expected=", ".join(KINDS), do="take one of these"
        )
    with look():
        drawn = list(KINDS[kind](results, workspace, asked))
    if not drawn:
        wanted = "levels that differ by a number, or a round that was trained"
        raise UserError(f"nothing to draw as {kind}", expected=wanted)
    return [replace(picture, name=f"{picture.name}{asked.ending}") for picture in drawn]


Draw = Callable[[Made, Asked], "tuple[Figure, str]"]


def _stages(made: Made, asked: Asked) -> tuple[Figure, str]:
    return draw_stages(made, asked.view), "What each step made of it."


def _labels(made: Made, asked: Asked) -> tuple[Figure, str]:
    round_ = _round(made.run.config, asked, max(1, made.run.config.rounds.count))
    figure = draw_labels(made, asked.view, round_)
    return figure, f"What the student of round {round_} is told, and what it is not."


def _scores(made: Made, asked: Asked) -> tuple[Figure, str]:
    round_ = _round(made.run.config, asked, 1)
    said = f"Instances of the highest and of the lowest score in round {round_}; dot: the prompt."
    return draw_scores(made, round_), said


def _round(config: Cell, asked: Asked, usual: int) -> int:
    count = max(1, config.rounds.count)
    if asked.round_ is not None and not 1 <= asked.round_ <= count:
        raise UserError(
            "this level has no such round", expected=f"1 to {count}", found=str(asked.round_)
        )
    return asked.round_ or usual


def _of_steps(kind: str, draw: Draw) -> Callable[[Results, Path, Asked], Iterator[Picture]]:
    """A picture an image, of what the steps of a level made of it."""

    def each(results: Results, workspace: Path, asked: Asked) -> Iterator[Picture]:
        found = images.find(results, asked.images)
        (cell,) = _cells(results, asked, found, one=True)
        run = _open(results, workspace, cell)
        trained = [image.name for image in found.data.train]
        fits = trained if kind != "stages" else [s.name for s in found.data.samples]
        for sample in found.samples or _typical(results, cell, fits):
            if kind != "stages" and sample.name not in trained:
                raise UserError(
                    "no labels are made of an image that is not trained on",
                    found=sample.name,
                    expected=shortened(", ".join(trained)),
                    do="take one of these",
                )
            values = images.by_step(results, cell, sample.name)
            made = Made(sample, run, partial(stored, run, compute=asked.compute), values)
            figure, said = draw(made, asked)
            yield _picture(kind, cell, sample, figure, said)

    return each


def _adjacency(results: Results, workspace: Path, asked: Asked) -> Iterator[Picture]:
    from coin_ray.metrics.adjacency import neighbours

    found = images.find(results, asked.images)
    (cell,) = _cells(results, asked, found, one=True)
    radius, least = (
        cell.config.evaluate.adjacency_radius,
        cell.config.evaluate.adjacency_neighbours,
    )
    if radius is None:
        raise UserError(
            "this study does not tell adjacent cells from others",
            where=cell.level,
            found="evaluate.adjacency_radius: null",
            do="leave the setting out, or give a number of pixels",
        )
    for sample in _check_labelled(found) or _typical(results, cell, _labelled(found)):
        near = neighbours(sample.load_label_map(), radius=radius)
        members = (near >= least, near == 0)
        parts = [
            value
            for part in ("adj_aji", "nonadj_aji")
            if (value := images.at_the_end(results, cell, sample.name, part)) is not None
        ]
        result = result_of(results, cell, sample)
        figure = of_results.draw_adjacency(sample, members, result, parts, asked.view)
        said = f"Adjacent: {least} or more others within {radius} px of the outline"
        yield _picture("adjacency", cell, sample, figure, f"{said}; AJI of these and the others.")


def _compare(results: Results, workspace: Path, asked: Asked) -> Iterator[Picture]:
    """Levels beside each other: the best one beside the baseline, on the images on which that is
    worst, in the middle and best."""
    found = images.find(results, asked.images)
    cells = _cells(results, asked, found)
    if not (samples := found.samples):
        samples = images.find(results, tuple(images.telling(results, cells[0]))).samples
    rows = [(s, [result_of(results, cell, s) for cell in cells]) for s in samples]
    figure = of_results.draw_compare(rows, asked.view)
    said = "Counts and AJI: of the whole image. A prediction matches above an IoU of 0.5."
    shown = f"{', '.join(s.name for s in samples)} ({found.spec.name})"
    levels = f"{', '.join(cell.level for cell in cells)}, random seed {cells[0].seed}"
    yield Picture(_name("compare", found, asked), f"{shown}: {levels}. {said}", figure)


def _failures(results: Results, workspace: Path, asked: Asked) -> Iterator[Picture]:
    found = images.find(results, asked.images)
    (cell,) = _cells(results, asked, found, one=True)
    run = _open(results, workspace, cell)
    samples = _check_labelled(found)
    names = (images.ranked(results, cell) or _labelled(found))[:ROWS]
    rows = []
    for sample in samples or images.find(results, names).samples:
        wanted = {"instances": refs.step1(sample.image)}
        step1 = stored(run, wanted, compute=asked.compute)["instances"].arrays["array"]
        rows.append((sample, step1, result_of(results, cell, sample)))
    figure, said = of_results.draw_failures(rows, asked.view)
    worst = "" if samples else "; the worst images"
    head = f"{found.spec.name}: {cell.level}, random seed {cell.seed}{worst}"
    yield Picture(_name("failures", found, asked), f"{head}. {'. '.join(said)}.", figure)


def _curves(results: Results, workspace: Path, asked: Asked) -> Iterator[Picture]:
    metric = asked.metric or results.study.report[0]
    for table in results.tables:
        for name, said, figure in curves(results, table, metric):
            yield Picture(f"curves-{name}-{file_word(table.dataset)}", said, figure)


def _reliability(results: Results, workspace: Path, asked: Asked) -> Iterator[Picture]:
    """Of all training images with labels, unless some are asked for."""
    found = images.find(results, asked.images)
    (cell,) = _cells(results, asked, found, one=True)
    run = _open(results, workspace, cell)
    trained = {image.name for image in found.data.train}
    samples = _check_labelled(found) or tuple(s for s in found.data.samples if s.has_truth)
    samples = tuple(sample for sample in samples if sample.name in trained)
    if not samples:
        raise UserError(
            "no instances are scored of images that are not trained on",
            expected="training images with labels",
            do="take other images, or data that is trained on itself (without --train)",
        )
    round_ = _round(run.config, asked, 1)
    parts = [scored(run, sample, round_, compute=asked.compute) for sample in samples]
    score, predicted, iou = (np.concatenate(part) for part in zip(*parts, strict=True))
    if not len(iou):
        raise UserError("no instance of these images was scored", where=cell.level)
    by = {"score": score, "segmenter's estimate": predicted}
    whose = "the instance" if run.config.labels.source == "prediction" else "the mask"
    figure = of_scores.draw_reliability(by, iou, drawn=whose)
    said = ". ".join(of_scores.told(score, iou, len(samples)))
    head = f"{found.spec.name}: {cell.level}, random seed {cell.seed}, round {round_}"
    yield Picture(_name("reliability", found, asked), f"{head}. {said}.", figure)


KINDS: dict[str, Callable[[Results, Path, Asked], Iterator[Picture]]] = {
    "stages": _of_steps("stages", _stages),
    "labels": _of_steps("labels", _labels),
    "scores": _of_steps("scores", _scores),
    "reliability": _reliability,
    "adjacency": _adjacency,
    "compare": _compare,
    "failures": _failures,
    "curves": _curves,
}


def _cells(
    results: Results, asked: Asked, found: images.Found, *, one: bool = False
) -> list[StudyCell]:
    """The finished cells of the levels asked for; by themselves of the baseline and, unless it is
    to be ``one``, of the best other level."""
    levels = list(dict.fromkeys(asked.levels))
    if one and len(levels) > 1:
        raise UserError(
            "this picture is of one level", found=", ".join(levels), do="name one --level"
        )
    usual = [results.study.baseline_level] if one else images.best_levels(results, found.spec)
    cells = []
    for level in levels or usual:
        check_level(results.study, level)
        if (cell := images.finished_cell(results, level, found.spec)) is None:
            raise UserError(
                "no cell of this level has finished",
                where=f"{level}, {found.spec.name}",
                do="run `coin-ray sweep` with the same options first, or take another level",
            )
        cells.append(cell)
    return cells


def _open(results: Results, workspace: Path, cell: StudyCell) -> CellRun:
    """A cell on what computed it. UserError for masks made elsewhere, which no step made."""
    if cell.config.predictions.path is not None:
        raise UserError(
            "masks made elsewhere have no steps to show",
            where=cell.level,
            do="take `compare` or `adjacency`, or a level that coin-ray computes",
        )
    device = results.sweep.get("environment", {}).get("device", "cpu")
    return open_finished(cell, results.data[cell.data.name].train, workspace, device)


def _typical(results: Results, cell: StudyCell, fits: Sequence[str]) -> tuple[Sample, ...]:
    """Of the images that fit the one in the middle by its AJI; where nothing is measured, the
    first."""
    order = [name for name in images.ranked(results, cell) if name in fits] or fits[:1]
    return images.find(results, (order[len(order) // 2],)).samples


def _labelled(found: images.Found) -> list[str]:
    return [sample.name for sample in found.data.samples if sample.has_truth]


def _check_labelled(found: images.Found) -> tuple[Sample, ...]:
    """The images asked for. UserError where one of them, or all there are, have no labels."""
    labelled = _labelled(found)
    bare = [sample.name for sample in found.samples if not sample.has_truth]
    if bare or not labelled:
        raise UserError(
            "this picture shows what is right and wrong, and "
            + ("an image has no labels" if labelled else "no image of this study has labels"),
            where=", ".join(bare) or found.spec.name,
            expected=shortened(", ".join(labelled)),
        )
    return found.samples


def result_of(results: Results, cell: StudyCell, sample: Sample) -> of_results.Result:
    """What a cell ends with."""
    aji = images.at_the_end(results, cell, sample.name)
    return of_results.Result(cell.level, images.label_map_of(results, cell, sample), aji)


def _picture(kind: str, cell: StudyCell, sample: Sample, figure: Figure, said: str) -> Picture:
    whose = f"{sample.name} ({cell.data.name}): {cell.level}, random seed {cell.seed}"
    return Picture(f"{kind}-{file_word(sample.name)}", f"{whose}. {said}", figure)


def _name(kind: str, found: images.Found, asked: Asked) -> str:
    """By its image if it is of one, else by the data set and the images asked for."""
    of_one = len(asked.images) == 1
    return f"{kind}-{file_word(', '.join((found.spec.name, *asked.images)[of_one:]))}"
