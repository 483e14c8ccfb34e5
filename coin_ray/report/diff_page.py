"""One page about two cells, two levels or two studies: in what they differ."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl

from coin_ray import safe
from coin_ray.outputs import claim
from coin_ray.report.document.blocks import Block, Document, Notes, Plot, Section, Table, Value
from coin_ray.report.document.numbers import DASH, interval, p_value, signed
from coin_ray.report.figures.of_differences import draw_differences
from coin_ray.report.figures.style import plot
from coin_ray.report.formats.html import page
from coin_ray.report.formats.markdown import markdown
from coin_ray.report.values.differences import (
    Difference,
    ImageDifference,
    Pair,
    Side,
    images,
    label_maps,
    metrics,
    settings,
    stages,
)
from coin_ray.report.values.tidy import metric_title

HTML, MARKDOWN, CSV = "diff.html", "diff.md", "diff_images.csv"
DELTA = "B\u00a0−\u00a0A"
"""Its spaces are no place to break a line."""
MOST_IMAGES, MOST_DRAWN, MOST_PAIRS = 10, 3, 6
"""Images listed and drawn of a pair; pairs that are drawn."""


def write_diff(found: Difference, document: Document, folder: Path, *, overwrite: bool) -> Path:
    """Write the page (HTML, Markdown with its figures) and every image's values (CSV); gives the
    page. UserError for files of these names that are not ours, unless ``overwrite``."""
    drawn = [b for section in document.sections for b in section.blocks if isinstance(b, Plot)]
    rows = [
        {"level": safe.cell(pair.title), "dataset": safe.cell(pair.dataset), **_plain(one)}
        for pair in found.pairs
        for one in images(found, pair)
    ]
    files = {
        HTML: page(document).encode(),
        MARKDOWN: markdown(document).encode(),
        CSV: pl.DataFrame(rows, infer_schema_length=None).write_csv().encode(),
        **{f"figures/{one.name}.svg": one.svg for one in drawn},
    }
    output = claim(folder, files, overwrite=overwrite)
    for name, content in files.items():
        with output.file(name) as part:
            part.write_bytes(content)
    return folder / HTML


def _plain(one: ImageDifference) -> dict[str, object]:
    return {**vars(one), "image": safe.cell(one.image)}


def diff_document(found: Difference) -> Document:
    """The page as data."""
    facts = tuple((f"{n} is", f"{s.name} ({s.results.study.profile})") for n, s in _sides(found))
    sections = [Section("Settings and keys", tuple(_of_settings(found)))]
    sections.append(Section("Metrics", tuple(_of_metrics(found))))
    for number, pair in enumerate(found.pairs):
        drawn = tuple(_of_images(found, pair, drawn=number < MOST_PAIRS))
        sections.append(Section(f"Images: {_title(found, pair)}", drawn))
    title = f"{found.a.name} against {found.b.name}"
    return Document(title, "", facts, tuple(sections))


def _sides(found: Difference) -> Iterator[tuple[str, Side]]:
    yield from (("A", found.a), ("B", found.b))


def _title(found: Difference, pair: Pair) -> str:
    return f"{pair.title}, {pair.dataset}" if pair.title else pair.dataset


def _of_settings(found: Difference) -> Iterator[Block]:
    a, b = found.a.results.study, found.b.results.study
    about = [
        ("profile", a.profile, b.profile),
        ("random seeds", _listed(a.seeds), _listed(b.seeds)),
        *(
            (f"--set {k}", a.overrides.get(k), b.overrides.get(k))
            for k in {**a.overrides, **b.overrides}
        ),
        *(
            (f"contents of {n}", a.contents.get(n), b.contents.get(n))
            for n in {**a.contents, **b.contents}
        ),
    ]
    rows = [(Value(""), *map(_shown, row)) for row in about if row[1] != row[2]]
    alike: dict[tuple[tuple[str, str, str], ...], list[str]] = {}
    for pair in found.pairs:
        own = tuple((k, _said(x), _said(y)) for k, x, y in settings(pair))
        alike.setdefault(own, []).append(pair.title)
    for changed, levels in alike.items():
        whose = ", ".join(dict.fromkeys(levels))
        rows += [(Value(whose), *map(_shown, row)) for row in changed]
    if rows:
        yield Table("What differs", ("level", "setting", "A", "B"), tuple(rows), 4)
    else:
        yield "No setting differs."
    for study, other, name in ((a, b, "A"), (b, a, "B")):
        alone = [level for level in study.levels if level not in other.levels]
        if found.what == "studies" and alone:
            yield Notes((f"levels that only {name} has: {', '.join(alone)}",))
    yield from _of_keys(found)


def _said(value: object) -> str:
    """As it would be written in a study."""
    return value if isinstance(value, str) else json.dumps(value)


def _shown(value: object) -> Value:
    return Value("nothing" if value is None else _said(value))


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))


def _of_keys(found: Difference) -> Iterator[Block]:
    rows: list[tuple[Value, ...]] = []
    starts, firsts = [], []
    for pair in found.pairs:
        counts = stages(found, pair)
        starts.append(len(rows))
        title = _title(found, pair)
        for n, one in enumerate(counts):
            numbers = (str(one.both), str(one.only_a), str(one.only_b))
            rows.append((Value("" if n else title), Value(one.stage), *map(Value, numbers)))
        first = next((one.stage for one in counts if one.only_a or one.only_b), None)
        said = "they share every key" if first is None else f"they part at {first}"
        firsts.append(f"{title}: {said}")
    columns = ("cells", "stage", "both", "only A", "only B")
    notes = (*firsts, "Artifacts by their keys: what both have is computed once for the two.")
    yield Table("Keys", columns, tuple(rows), 2, tuple(starts[1:]), notes)


def _of_metrics(found: Difference) -> Iterator[Block]:
    rows: list[tuple[Value, ...]] = []
    for pair in found.pairs:
        for n, (metric, (one, said)) in enumerate(metrics(found, pair).items()):
            delta = one.delta
            rows.append(
                (
                    Value("" if n else _title(found, pair)),
                    Value(metric_title(metric)),
                    Value(f"{one.baseline_mean:.3f}"),
                    Value(f"{one.level_mean:.3f}"),
                    interval(delta.mean, delta.low, delta.high, "+.3f"),
                    Value(p_value(one.p_image)),
                    Value(p_value(one.p_seed)),
                    Value(f"{delta.images} × {delta.seeds}"),
                    Value(said or DASH),
                )
            )
    if not rows:
        yield "No metric that both have been measured by on the same images."
        return
    columns = (
        "cells",
        "metric",
        "A",
        "B",
        DELTA,
        "p images",
        "p seeds",
        "images × seeds",
        "B is",
    )
    notes = (
        "Over the images and random seeds that both have, in pairs; p of one comparison each, not "
        "corrected for their number.",
    )
    yield Table("Metrics at the end of the chain", columns, tuple(rows), 2, notes=notes)


def _of_images(found: Difference, pair: Pair, *, drawn: bool) -> Iterator[Block]:
    own = images(found, pair)
    metric = metric_title(found.a.results.study.report[0])
    if not own:
        yield "No image that both have."
        return
    rows = tuple(_image_row(one) for one in own[:MOST_IMAGES])
    columns = ("image", f"{metric} A", f"{metric} B", DELTA, "nuclei only in A", "only in B")
    notes = ("Nuclei: of the first random seed; an IoU above 0.5 makes two of them one.",)
    title = "Where they differ most"
    if len(own) > MOST_IMAGES:
        title += f": {MOST_IMAGES} of {len(own)} images"
    yield Table(title, columns, rows, 1, notes=notes)
    samples = {s.name: s for s in found.a.results.data[pair.dataset].samples}
    shown = [
        (samples[one.image], maps, (one.a, one.b))
        for one in own[:MOST_DRAWN]
        if drawn and (maps := label_maps(found, pair, samples[one.image])) is not None
    ]
    if shown:
        names = (found.a.name, found.b.name)
        yield plot(
            f"diff {pair.title}",
            pair.dataset,
            "The images that differ most, where most of the nuclei lie that only one of the two "
            "has (in boxes).",
            lambda: draw_differences(shown, names, metric),
        )


def _image_row(one: ImageDifference) -> tuple[Value, ...]:
    numbers = (Value(DASH if x is None else f"{x:.3f}") for x in (one.a, one.b))
    measured = one.a is not None and one.b is not None
    delta = signed(one.b - one.a) if measured else DASH  # type: ignore[operator]
    counts = (Value(DASH if n is None else str(n)) for n in (one.only_a, one.only_b))
    return Value(one.image), *numbers, Value(delta), *counts
