"""The result table of each data set, with everything needed to read it beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from coin_ray.data.dataset import DataSpec
from coin_ray.report.values.ends import End, Ends, ends
from coin_ray.report.values.published import Numbers, published_for
from coin_ray.report.values.tidy import FINAL, Column, by_metric, columns
from coin_ray.statistics.intervals import CONFIDENCE, FEW_IMAGES, Estimate, estimate
from coin_ray.statistics.paired import Values, aligned
from coin_ray.study.metrics import mode
from coin_ray.study.resolved import ResolvedStudy

SETTINGS = {
    "transductive": "transductive: trained, without labels, on the images it is evaluated on",
    "inductive": "inductive: trained, without labels, on other images",
}
SUMMARY_SCHEMA = {
    **dict.fromkeys(("dataset", "level", "step", "metric"), pl.String),
    **dict.fromkeys(("mean", "low", "high"), pl.Float64),
    **dict.fromkeys(("images", "seeds", "skipped"), pl.Int64),
    **dict.fromkeys(("t_low", "t_high"), pl.Float64),
}
"""Columns of ``summary``."""
MOST_NOTES = 20
"""Missing levels that are named one by one."""


@dataclass(frozen=True)
class ResultTable:
    """The table of one data set: ``rows`` level -> an estimate per column, None where missing.

    ``published`` holds what a paper has for this data set, None where the study names no paper.
    ``needed``: random seeds without which a level is not told from others as the best.
    """

    dataset: str
    caption: str
    columns: tuple[Column, ...]
    rows: Mapping[str, tuple[Estimate | None, ...]]
    baseline: str
    published: Numbers | None
    notes: tuple[str, ...]
    needed: int = 1

    def at_end(self, level: str, metric: str) -> Estimate | None:
        """A metric at the end of a level's chain; None where it is missing or not in the table."""
        # The last column of a metric is its final one; see ``columns``.
        places = {column.metric: i for i, column in enumerate(self.columns)}
        return self.rows[level][places[metric]] if metric in places else None

    def interval(self, level: str, metric: str) -> tuple[float, float | None, float | None] | None:
        """Mean and ends of the interval of ``at_end``."""
        found = self.at_end(level, metric)
        return (found.mean, found.low, found.high) if found else None

    def best_level(self, metric: str, *, baseline: bool = True) -> str | None:
        """The level with the best final value, the baseline among them or not; None where nothing
        was measured, or more is neither better nor worse."""
        found = {
            level: value.mean
            for level in self.rows
            if (value := self.at_end(level, metric)) and (baseline or level != self.baseline)
            if value.seeds >= self.needed
        }
        pick = min if mode(metric) == "min" else max
        return pick(found, key=lambda level: found[level]) if found and mode(metric) else None

    def best(self) -> list[float | None]:
        """The best mean of each column; None where more is neither better nor worse."""
        out: list[float | None] = []
        for i, column in enumerate(self.columns):
            found = [e for row in self.rows.values() if (e := row[i]) is not None]
            means = [e.mean for e in found if e.seeds >= self.needed]
            pick = {"min": min, "max": max}.get(mode(column.metric) or "")
            several = len(self.rows if self.needed == 1 else means) > 1
            out.append(pick(means) if pick and means and several else None)
        return out

    @property
    def reference(self) -> str:
        """The baseline as words."""
        return "the baseline" if self.baseline == "baseline" else f"the baseline {self.baseline}"

    def name(self, level: str) -> str:
        """The level's label, saying of the baseline that it is."""
        said = level == self.baseline != "baseline" and len(self.rows) > 1
        return f"{level} (baseline)" if said else level


def result_tables(
    study: ResolvedStudy,
    frame: pl.DataFrame,
    causes: Mapping[str, str] | None = None,
    ended: Ends | None = None,
) -> list[ResultTable]:
    """One table per data set of ``study``, from its tidy per-image values; ``causes`` says of a
    cell (its label) why it has none, ``ended`` its ``ends`` where they are known."""
    found = ended or ends(frame, study)
    tables = []
    for spec in study.data:
        final = {level: found[spec.name, level] for level in study.levels}
        own = frame.filter(pl.col("dataset") == spec.name)
        tables.append(_table(study, spec, own, final, causes or {}))
    return tables


def entry(
    frame: pl.DataFrame, level: str, column: Column, confidence: float = CONFIDENCE
) -> Estimate | None:
    """Mean and interval of a column at one step for one level of a table of one data set; None
    where no image has a value. An image that is empty in truth and prediction (NaN) is skipped and
    counted."""
    cells = frame.filter(level=level, step=column.step, metric=column.metric)
    values = by_metric(cells).get(column.metric)
    return _estimate(values, cells["image"].n_unique(), confidence)


def _estimate(values: Values | None, images: int, confidence: float) -> Estimate | None:
    if not values:
        return None
    (table,) = aligned(values)
    return estimate(table, skipped=images - len(table), confidence=confidence)


def _table(
    study: ResolvedStudy,
    spec: DataSpec,
    frame: pl.DataFrame,
    final: Mapping[str, End],
    causes: Mapping[str, str],
) -> ResultTable:
    confidence = study.analysis.confidence
    wanted = columns(frame, study.report, study.steps)
    by_level = frame.partition_by("level", as_dict=True)
    rows = {
        level: tuple(
            _estimate(end.values.get(column.metric), end.images, confidence)
            if column.step == FINAL
            else entry(by_level.get((level,), frame.clear()), level, column, confidence)
            for column in wanted
        )
        for level, end in final.items()
    }
    found = [e for row in rows.values() for e in row if e is not None]
    images = frame["image"].n_unique()
    numbers = None
    if study.published is not None:
        numbers = published_for(study.published, study.profile, spec.name)
    notes = _missing(study, spec, final, causes)
    if frame.is_empty():
        notes.insert(0, "No image has labels, or no cell has finished: nothing to measure.")
    if found:
        notes.append(
            f"Mean over images, {confidence:.0%} bootstrap interval (images and random seeds "
            "resampled)."
        )
    if 0 < images < FEW_IMAGES:
        notes.append(f"{images} images, fewer than {FEW_IMAGES}: intervals are approximate.")
    if skipped := max((e.skipped for e in found), default=0):
        notes.append(f"Skipped where truth and prediction are both empty: up to {skipped} images.")
    every = frame["image"].unique(maintain_order=True).to_list()
    notes += [
        f"{level} has label maps of {end.images} of {images} images, and its means are over these: "
        f"without {', '.join(lacking[:5])}{' …' * (len(lacking) > 5)}."
        for level, end in final.items()
        if (lacking := [image for image in every if end.step and image not in end.names])
    ]
    if between := _of_neither_part(frame):
        notes.append(between)
    seeds = frame["seed"].n_unique()
    counts = (count(images, "labelled image"), count(seeds, "random seed")) if images else ()
    caption = (f"profile {study.profile}", f"data {spec.name}", *counts, SETTINGS[spec.setting])
    return ResultTable(
        spec.name,
        " · ".join(caption),
        tuple(wanted),
        rows,
        study.baseline_level,
        numbers,
        tuple(notes),
        # Of many trials with one random seed the best is the one with the luckiest.
        len(study.seeds) if study.search and study.search.repeats else 1,
    )


def _of_neither_part(frame: pl.DataFrame) -> str:
    """How many cells are neither adjacent nor alone; empty where each is one of both."""
    told = frame.filter(pl.col("metric").is_in(("n_one_neighbour", "n_true")))
    images = told.unique(("image", "metric")).group_by("metric").agg(pl.col("value").sum())
    cells = {metric: int(value) for metric, value in images.iter_rows()}
    if "n_one_neighbour" not in cells:
        return ""
    return (
        "Adjacent: two neighbours or more; non-adjacent: none. "
        f"{cells['n_one_neighbour']} of {cells['n_true']} nuclei have exactly one and are in "
        "neither part."
    )


def count(n: int, word: str) -> str:
    """``1 image``, ``2 images``."""
    return f"{n} {word}" if n == 1 else f"{n} {word}s"


def _missing(
    study: ResolvedStudy, spec: DataSpec, final: Mapping[str, End], causes: Mapping[str, str]
) -> list[str]:
    """Cells without a value: a mean over fewer seeds than asked for is said to be one."""
    lacking: dict[tuple[str, str], list[int]] = {}
    measured = any(end.values for end in final.values())
    for cell in study.cells:
        why = causes.get(cell.key_label, "")
        gone = cell.data.name == spec.name and cell.seed in final[cell.level].missing
        # Where nothing at all was measured only what failed is named.
        if gone and (why or measured):
            lacking.setdefault((cell.level, why), []).append(cell.seed)
    out = []
    for (level, why), seeds in lacking.items():
        listed = ", ".join(str(seed) for seed in sorted(seeds))
        out.append(f"Missing: {level}, random seed {listed}{f' ({why})' if why else ''}.")
    if len(out) > MOST_NOTES:
        out = [*out[:MOST_NOTES], f"… and {len(out) - MOST_NOTES} more levels with seeds missing."]
    return out


def seeds_and_images(row: Sequence[Estimate | None]) -> str:
    """Images, and random seeds where there are several, behind the last value of a level."""
    last = next((e for e in reversed(row) if e is not None), None)
    if last is None:
        return "0"
    return str(last.images) if last.seeds == 1 else f"{last.images}×{last.seeds}"


def summary(tables: Sequence[ResultTable]) -> pl.DataFrame:
    """Long table (``SUMMARY_SCHEMA``): every level appears in every column, and values that
    do not exist are null, never left out."""
    rows = [
        {"dataset": table.dataset, "level": level, "step": column.step, "metric": column.metric}
        | (found.as_dict() if found else {})
        for table in tables
        for level, row in table.rows.items()
        for column, found in zip(table.columns, row, strict=True)
    ]
    return pl.DataFrame(rows, schema=SUMMARY_SCHEMA)
