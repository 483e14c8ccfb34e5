"""One page about ceilings: how much of the gap to the truth each stage holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from coin_ray import safe
from coin_ray.outputs import claim
from coin_ray.report.document.blocks import Block, Document, Notes, Plot, Section, Table, Value
from coin_ray.report.document.numbers import DASH, estimated, interval
from coin_ray.report.figures.levels import Interval, Row, draw_dots
from coin_ray.report.figures.style import plot
from coin_ray.report.formats.html import page
from coin_ray.report.formats.markdown import markdown
from coin_ray.report.values.ceilings import (
    PIPELINE,
    USES_LABELS,
    Ceilings,
    Line,
    check_metric,
    lines,
    rows,
)
from coin_ray.report.values.tidy import Column, metric_title

HTML, MARKDOWN, CSV = "headroom.html", "headroom.md", "headroom.csv"
NOTES = (
    "Each row replaces one stage by its oracle, made from the ground truth, and computes what "
    "follows from it, training included.",
    "Share of the gap: the gain over what the pipeline lacks to 1, with its interval over images "
    "and random seeds. Shares need not add up: a later stage may lose what an earlier one gains, "
    "and two stages may hold the same nuclei.",
    "All rows but the first use the labels: none is a result, and none may be compared with one.",
)


def write_headroom(found: Ceilings, folder: Path, *, overwrite: bool = False) -> list[Path]:
    """Write the page (HTML, Markdown with its figures) and the values (CSV) into ``folder``.

    Raises:
        UserError: files of these names that are not ours, unless ``overwrite``.
    """
    document = headroom_document(found)
    drawn = [b for section in document.sections for b in section.blocks if isinstance(b, Plot)]
    figures = {f"figures/{one.name}.svg": one.svg for one in drawn}
    told = [{**row, "dataset": safe.cell(row["dataset"])} for row in rows(found)]
    table = pl.DataFrame(told, infer_schema_length=None)
    files = {
        HTML: page(document).encode(),
        MARKDOWN: markdown(document).encode(),
        CSV: table.write_csv().encode(),
        **figures,
    }
    output = claim(folder, files, overwrite=overwrite)
    for name, content in files.items():
        with output.file(name) as part:
            part.write_bytes(content)
    return [folder / name for name in files]


def headroom_document(found: Ceilings) -> Document:
    """The page as data."""
    check_metric(found.metric)
    study = found.study
    facts = (
        ("uses labels", "yes: ceilings, never results"),
        ("level", found.level),
        ("profile", study.profile),
        ("random seeds", ", ".join(map(str, study.seeds))),
    )
    sections = tuple(
        Section(spec.name, tuple(_blocks(found, spec.name)))
        for spec in study.data
        if lines(found, spec.name)
    )
    title = f"Headroom of {study.title}"
    question = f"How much of what {found.level} lacks does each stage hold? It {USES_LABELS}."
    return Document(title, question, facts, sections)


def _blocks(found: Ceilings, dataset: str) -> Iterator[Block]:
    yield headroom_table(found, dataset)
    if found.failed:
        yield Notes(tuple(f"{name}: {why}" for name, why in found.failed.items()))
    yield _figure(found, dataset)


def headroom_table(found: Ceilings, dataset: str) -> Table:
    """The table of a data set."""
    own, steps = lines(found, dataset), found.steps
    best = max((line.headroom.gain.delta.mean for line in own if line.headroom), default=0.0)
    titles = [Column(step, found.metric).title for step in steps]
    return Table(
        f"{metric_title(found.metric)} on {dataset}; every row but the first {USES_LABELS}",
        ("stage known", *titles, "end", "gain", "share of gap"),
        tuple(_row(line, steps, best) for line in own),
        notes=NOTES,
    )


def _row(line: Line, steps: list[str], best: float) -> tuple[Value, ...]:
    means = (line.by_step.get(step) for step in steps)
    way = [Value(DASH if mean is None else f"{mean:.3f}") for mean in means]
    end, room = estimated(line.end), line.headroom
    if room is None:
        return (Value(line.title), *way, end, Value(DASH), Value(DASH))
    gain = room.gain.delta
    strong = gain.mean == best and best > 0
    return (
        Value(line.title),
        *way,
        end,
        interval(gain.mean, gain.low, gain.high, "+.3f", strong=strong),
        interval(room.share, room.low, room.high, "+.0%", strong=strong),
    )


def _share(line: Line) -> Interval | None:
    room = line.headroom
    if room is None:
        return 0.0, None, None
    return None if room.share is None else (room.share, room.low, room.high)


def _figure(found: Ceilings, dataset: str) -> Plot:
    own = lines(found, dataset)
    drawn = [
        Row(
            line.title,
            (
                (line.end.mean, line.end.low, line.end.high),
                _share(line),
            ),
            strong=line.name == PIPELINE,
        )
        for line in own
    ]
    title = metric_title(found.metric)
    return plot(
        "headroom",
        dataset,
        f"{title} at the end with each stage known, and its share of the gap to 1; dashed: the "
        f"pipeline. {USES_LABELS.capitalize()}.",
        lambda: draw_dots((f"{title} at the end", "share of the gap"), drawn, reference=PIPELINE),
    )
