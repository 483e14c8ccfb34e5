"""The result table as Markdown and for a terminal, with everything needed to read it beside it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from coin_ray.report.intervals import CONFIDENCE, FEW_IMAGES, Estimate
from coin_ray.report.tables import TITLES, Column, columns, entry
from coin_ray.study.resolved import DataSpec, Published, ResolvedStudy

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

SETTINGS = {
    "transductive": "transductive: trained, without labels, on the images it is evaluated on",
    "inductive": "inductive: trained, without labels, on other images",
}
_BETTER: dict[str, Callable[[list[float]], float] | None] = {
    "fn": min,
    "fp": min,
    "n_true": None,
    "n_predicted": None,
}


@dataclass(frozen=True)
class ResultTable:
    """The table of one data set: ``rows`` level -> an estimate per column, None where missing.

    ``published`` holds level -> metric -> value where the paper measured the same thing.
    """

    title: str
    caption: str
    columns: tuple[Column, ...]
    rows: Mapping[str, tuple[Estimate | None, ...]]
    baseline: str
    published: Mapping[str, Mapping[str, float]]
    notes: tuple[str, ...]


def result_tables(study: ResolvedStudy, frame: pl.DataFrame) -> list[ResultTable]:
    """One table per data set of ``study``, from its tidy per-image values."""
    return [
        _table(study, spec, frame.filter(pl.col("dataset") == spec.name)) for spec in study.data
    ]


def _table(study: ResolvedStudy, spec: DataSpec, frame: pl.DataFrame) -> ResultTable:
    wanted = columns(frame, study.report)
    rows = {level: tuple(entry(frame, level, c) for c in wanted) for level in study.levels}
    found = [e for row in rows.values() for e in row if e is not None]
    images = frame["image"].n_unique()
    seeds = frame["seed"].n_unique()
    published, refused = _published(study.published, study.profile, spec.name)
    notes = [*_missing(study, spec, frame), *refused]
    if found:
        percent = f"{CONFIDENCE:.0%}"
        notes.append(
            f"Mean over images, {percent} bootstrap interval (images resampled, then their seeds)."
        )
    if 0 < images < FEW_IMAGES:
        notes.append(f"{images} images, fewer than {FEW_IMAGES}: intervals are approximate.")
    if skipped := max((e.skipped for e in found), default=0):
        notes.append(f"Skipped where truth and prediction are both empty: up to {skipped} images.")
    caption = (
        f"profile {study.profile} · data {spec.name} · {_count(images, 'labelled image')} · "
        f"{_count(seeds, 'random seed')} · {SETTINGS[spec.setting]}"
    )
    return ResultTable(
        study.title, caption, tuple(wanted), rows, study.baseline_level, published, tuple(notes)
    )


def _count(n: int, word: str) -> str:
    return f"{n} {word}" if n == 1 else f"{n} {word}s"


def _missing(study: ResolvedStudy, spec: DataSpec, frame: pl.DataFrame) -> list[str]:
    """Cells without a value: a mean over fewer seeds than asked for is said to be one."""
    if frame.is_empty():
        return ["No image has labels, or no cell has finished: there is nothing to measure."]
    have = set(frame.select("level", "seed").unique().iter_rows())
    out = []
    for level in study.levels:
        lacking = [seed for seed in study.seeds if (level, seed) not in have]
        if lacking:
            seeds = ", ".join(str(seed) for seed in lacking)
            out.append(f"Missing: {level}, random seed {seeds}.")
    return out


def _published(
    published: Published | None, profile: str, data: str
) -> tuple[dict[str, Mapping[str, float]], list[str]]:
    """Published values for a data set, and why there are none."""
    if published is None:
        return {}, []
    rows = {
        level: values
        for level, by_data in published.rows.items()
        for name, values in by_data.items()
        if _same(name, data)
    }
    note = f" ({published.note})" if published.note else ""
    if rows and profile in published.comparable:
        return rows, [f"Published: {published.source}{note}."]
    names = sorted({name for by_data in published.rows.values() for name in by_data})
    return {}, [
        f"Numbers of {published.source} are for profile {' or '.join(published.comparable)} on "
        f"{', '.join(names)}; they are not comparable with profile {profile} on {data}."
    ]


def _same(left: str, right: str) -> bool:
    """MoNuSeg-test, MoNuSeg_test and monuseg test are one data set."""
    bare = ["".join(c for c in name.lower() if c.isalnum()) for name in (left, right)]
    return bare[0] == bare[1]


def _best(table: ResultTable) -> list[float | None]:
    """The best mean of each column; None where more is neither better nor worse."""
    out: list[float | None] = []
    for column, values in zip(table.columns, zip(*table.rows.values(), strict=True), strict=True):
        means = [e.mean for e in values if e is not None]
        pick = _BETTER.get(column.metric, max)
        out.append(pick(means) if means and pick and len(table.rows) > 1 else None)
    return out


def _n(row: Sequence[Estimate | None]) -> str:
    """Images, and random seeds where there are several, behind the last value of a level."""
    last = next((e for e in reversed(row) if e is not None), None)
    if last is None:
        return "0"
    return str(last.images) if last.seeds == 1 else f"{last.images}×{last.seeds}"


def _paper_columns(table: ResultTable) -> list[tuple[str, int]]:
    """Metric and own column of the numbers that the paper has, too."""
    last = {c.metric: i for i, c in enumerate(table.columns)}
    held = {metric for values in table.published.values() for metric in values}
    return [(metric, i) for metric, i in last.items() if metric in held]


def markdown(tables: Sequence[ResultTable]) -> str:
    """All tables as Markdown, the best mean of a column in bold."""
    blocks = []
    for table in tables:
        best, paper = _best(table), _paper_columns(table)
        header = ["level", "n", *(c.title for c in table.columns)]
        header += [f"{TITLES.get(metric, metric)} published" for metric, _ in paper]
        lines = [_row(header), "|---|" + "---:|" * (len(header) - 1)]
        for level, row in table.rows.items():
            name = f"{level} (baseline)" if _is_baseline(table, level) else level
            cells = [_markdown_cell(e, top) for e, top in zip(row, best, strict=True)]
            numbers = [_paper(table, level, metric, row[i]) for metric, i in paper]
            lines.append(_row([name, _n(row), *cells, *numbers]))
        notes = [f"- {note}" for note in table.notes]
        blocks.append("\n".join([f"## {table.title}", "", table.caption, "", *lines, "", *notes]))
    return "\n\n".join(blocks) + "\n"


def _markdown_cell(value: Estimate | None, best: float | None) -> str:
    if value is None:
        return "missing"
    mean = f"**{value.mean:.3f}**" if value.mean == best else f"{value.mean:.3f}"
    if value.low is None or value.high is None:
        return mean
    return f"{mean} ({value.low:.3f}–{value.high:.3f})"


def _is_baseline(table: ResultTable, level: str) -> bool:
    return level == table.baseline and len(table.rows) > 1


def _paper(table: ResultTable, level: str, metric: str, own: Estimate | None) -> str:
    value = table.published.get(level, {}).get(metric)
    if value is None:
        return "–"
    return f"{value:.3f}" if own is None else f"{value:.3f} ({own.mean - value:+.3f})"


def _row(texts: Sequence[str]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"


def renderables(tables: Sequence[ResultTable], width: int) -> list[RenderableType]:
    """All tables for a rich console of ``width`` characters: the interval stands below its mean,
    and is left out where it does not fit."""
    out: list[RenderableType] = []
    for table in tables:
        names = max(len(level) for level in table.rows) + 2
        needed = names + 8 + 11 * len(table.columns) + 11 * len(_paper_columns(table))
        out += _drawn(table, intervals=width >= needed)
    return out


def _drawn(table: ResultTable, *, intervals: bool) -> list[RenderableType]:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    best, paper = _best(table), _paper_columns(table)
    drawn = Table(box=SIMPLE_HEAD, padding=(0, 1) if intervals else (0, 0, 0, 1))
    drawn.add_column("level", no_wrap=True)
    for title in ["n", *(c.title for c in table.columns)]:
        drawn.add_column(re.sub(r" (?!\d)", "\n", title), justify="right", no_wrap=True)
    for metric, _ in paper:
        drawn.add_column(f"{TITLES.get(metric, metric)}\npaper", justify="right", no_wrap=True)
    for level, row in table.rows.items():
        name = f"{level} *" if _is_baseline(table, level) else level
        cells = [_cell(e, top, intervals) for e, top in zip(row, best, strict=True)]
        numbers = [_paper(table, level, metric, None) for metric, _ in paper]
        drawn.add_row(Text(name), _n(row), *cells, *(Text(_short(n)) for n in numbers))
    star = ["* baseline"] if len(table.rows) > 1 else []
    notes = [Text(note, style="dim") for note in (*star, *table.notes)]
    return [Text(table.title, style="bold"), Text(table.caption), drawn, *notes]


def _cell(value: Estimate | None, best: float | None, intervals: bool) -> Text:
    from rich.text import Text

    if value is None:
        return Text("–", style="red")
    mean = Text(_short(f"{value.mean:.3f}"), style="bold green" if value.mean == best else "")
    if intervals and value.low is not None and value.high is not None:
        bounds = f"{_short(f'{value.low:.3f}')}–{_short(f'{value.high:.3f}')}"
        mean = Text.assemble(mean, (f"\n{bounds}", "dim"))
    return mean


def _short(number: str) -> str:
    return number.removeprefix("0") if number.startswith("0.") else number
