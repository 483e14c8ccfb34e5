"""The tables of a report for a rich console."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from coin_ray import safe
from coin_ray.report.document import sections
from coin_ray.report.document.blocks import Notes, Table, Value
from coin_ray.report.document.numbers import DASH, MISSING
from coin_ray.report.document.published import published_section
from coin_ray.report.document.verdicts import verdicts_section
from coin_ray.report.values.study_results import Results

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table as Drawn
    from rich.text import Text

MOST = 44
"""Characters of a word in a line: the names of a search's levels are long."""
STYLES = {DASH: "red", "worse": "red"}


def renderables(results: Results, width: int) -> list[RenderableType]:
    """The result tables, those against a paper's numbers and the comparison with the baseline (its
    first metric) for a rich console of ``width`` characters."""
    against = sections.baseline_section(results)
    tables = [b for b in against.blocks if isinstance(b, Table)] if against else []
    paper = published_section(results)
    out: list[RenderableType] = [safe.styled(results.study.title, "bold")]
    claims = verdicts_section(results)
    for block in (
        *(claims.blocks[:1] if claims else ()),
        *sections.results_section(results).blocks,
        *(paper.blocks if paper else ()),
        *tables,
    ):
        match block:
            case Table():
                shown = _first_group(block)
                out += [safe.styled(shown.title), table(shown, width)]
                out += [safe.styled(note, "dim") for note in shown.notes]
            case Notes(lines):
                out += [safe.styled(line, "dim") for line in lines]
    return out


def _first_group(given: Table) -> Table:
    """The rows of the first group; what they have in common stands in the title."""
    rows = given.rows[: given.starts[0]] if given.starts else given.rows
    if given.words > 1 and len(rows) and not any(row[0].text for row in rows[1:]):
        title, columns = f"{given.title}: {rows[0][0].text}", given.columns[1:]
        rows = tuple(row[1:] for row in rows)
        return replace(given, title=title, columns=columns, rows=rows, words=given.words - 1)
    return replace(given, rows=rows)


def table(given: Table, width: int) -> Drawn:
    """One table: an interval stands below its number; those that ``width`` characters do not hold
    are left out, the ones of the leftmost columns first."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as Drawn

    titles = [re.sub(r" (?!\d)", "\n", title) for title in given.columns]
    rows = [[_short(value) if j >= given.words else value for j, value in enumerate(row)]
            for row in given.rows]  # fmt: skip
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(titles)
    details = [j for j, column in enumerate(columns) if any(value.detail for value in column)]

    def needed() -> int:
        parts = [
            [*title.split("\n"), *(v.text for v in own), *(v.detail for v in own if j in details)]
            for j, (title, own) in enumerate(zip(titles, columns, strict=True))
        ]
        most = [max(map(len, texts)) for texts in parts]
        return sum(min(MOST, n) if j < given.words else n for j, n in enumerate(most))

    gap = 2 if needed() + 2 * len(titles) < width else 1
    while details and needed() + gap * len(titles) >= width:
        details.pop(0)
    drawn = Drawn(box=SIMPLE_HEAD, padding=(0, 0, 0, gap - 1))
    for j, title in enumerate(titles):
        if j < given.words:
            drawn.add_column(title, max_width=MOST)  # wraps, numbers do not
        else:
            drawn.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        words, numbers = row[: given.words], row[given.words :]
        cells = [_cell(v, j in details) for j, v in enumerate(numbers, start=given.words)]
        drawn.add_row(*(safe.styled(value.text) for value in words), *cells)
    return drawn


def _short(value: Value) -> Value:
    """Numbers without the zero before the point; a dash where one is missing."""
    if value.text == MISSING:
        return Value(DASH)
    text, detail = (re.sub(r"(?<!\d)0\.", ".", part) for part in (value.text, value.detail))
    return replace(value, text=text, detail=detail)


def _cell(value: Value, detailed: bool) -> Text:
    from rich.text import Text

    style = STYLES.get(value.text, "bold green" if value.strong else "")
    detail = ((f"\n{value.detail}", "dim"),) if detailed and value.detail else ()
    return Text.assemble((safe.printable(value.text), style), *detail)
