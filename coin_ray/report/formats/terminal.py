"""The result tables and the comparison with the baseline for a rich console."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import polars as pl

from coin_ray import safe
from coin_ray.report.values.result_tables import ResultTable, seeds_and_images
from coin_ray.report.values.tidy import metric_title
from coin_ray.statistics.intervals import Estimate

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text


MOST = 44
"""Characters of a level's name in a line: those of a search are long."""


def renderables(
    tables: Sequence[ResultTable], compared: pl.DataFrame, width: int
) -> list[RenderableType]:
    """All tables for a rich console of ``width`` characters: the interval stands below its mean,
    and is left out where it does not fit. ``compared``: see ``comparisons``; of its metrics the
    first is shown."""
    out: list[RenderableType] = []
    for table in tables:
        names = min(MOST, max(len(level) for level in table.rows) + 2)
        needed = names + 10 + 12 * (len(table.columns) + len(_paper_columns(table)))
        out += _drawn(table, intervals=width >= needed)
        own = compared.filter(pl.col("dataset") == table.dataset)
        if not own["delta"].drop_nulls().is_empty():
            out.append(_against_baseline(own.filter(pl.col("metric") == own["metric"][0])))
    return out


def _drawn(table: ResultTable, *, intervals: bool) -> list[RenderableType]:

    best, metrics = table.best(), _paper_columns(table)
    drawn = _plain(padding=(0, 1) if intervals else (0, 0, 0, 1))
    drawn.add_column("level", max_width=MOST)  # wraps, numbers do not
    for title in ["n", *(c.title for c in table.columns)]:
        drawn.add_column(re.sub(r" (?!\d)", "\n", title), justify="right", no_wrap=True)
    for metric in metrics:
        drawn.add_column(f"{metric_title(metric)}\npaper", justify="right", no_wrap=True)
    for level, row in table.rows.items():
        name = f"{level} *" if table.is_baseline(level) else level
        cells = [_cell(e, top, intervals) for e, top in zip(row, best, strict=True)]
        drawn.add_row(
            safe.styled(name),
            seeds_and_images(row),
            *cells,
            *(_paper(table, level, m) for m in metrics),
        )
    star = ["* baseline"] if len(table.rows) > 1 else []
    paper = [table.published.note] if table.published is not None else []
    notes = [safe.styled(note, "dim") for note in (*star, *table.notes, *paper)]
    return [safe.styled(table.title, "bold"), safe.styled(table.caption), drawn, *notes]


def _against_baseline(rows: pl.DataFrame) -> Table:
    from rich.text import Text

    drawn = _plain(padding=(0, 0, 0, 1))
    drawn.add_column("against the\nbaseline", max_width=MOST)
    change = f"Δ {metric_title(rows['metric'][0])}"
    for title in (change, "p\nimages", "p\nseeds", "effect", "P\nbetter"):
        drawn.add_column(title, justify="right", no_wrap=True)
    drawn.add_column("verdict", no_wrap=True)
    styles = {"better": "bold green", "worse": "red"}
    for row in rows.iter_rows(named=True):
        delta = Text("–" if row["delta"] is None else _short(f"{row['delta']:+.3f}"))
        if row["low"] is not None:
            bounds = _short(f"{row['low']:+.3f} to {row['high']:+.3f}")
            delta.append(f"\n{bounds}", style="dim")
        numbers = [
            "–" if row[name] is None else _short(f"{row[name]:{form}}")
            for name, form in (
                ("p_image_adjusted", ".3f"),
                ("p_seed_adjusted", ".3f"),
                ("effect_size", "+.2f"),
                ("improvement", ".2f"),
            )
        ]
        said = row["verdict"] or "–"
        drawn.add_row(
            safe.styled(row["level"]), delta, *numbers, Text(said, style=styles.get(said, ""))
        )
    return drawn


def _plain(padding: tuple[int, ...]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    return Table(box=SIMPLE_HEAD, padding=padding)  # type: ignore[arg-type]


def _paper_columns(table: ResultTable) -> list[str]:
    """The metrics of the table that a paper measured in the same way."""
    if table.published is None or not table.published.comparable:
        return []
    held = {metric for values in table.published.rows.values() for metric in values}
    return [m for m in dict.fromkeys(c.metric for c in table.columns) if m in held]


def _paper(table: ResultTable, level: str, metric: str) -> str:
    assert table.published is not None
    value = table.published.rows.get(level, {}).get(metric)
    return "–" if value is None else _short(f"{value:.3f}")


def _cell(value: Estimate | None, best: float | None, intervals: bool) -> Text:
    from rich.text import Text

    if value is None:
        return Text("–", style="red")
    mean = Text(_short(f"{value.mean:.3f}"), style="bold green" if value.mean == best else "")
    if intervals and value.low is not None and value.high is not None:
        bounds = _short(f"{value.low:.3f}–{value.high:.3f}")
        mean = Text.assemble(mean, (f"\n{bounds}", "dim"))
    return mean


def _short(numbers: str) -> str:
    """Without the zero before the point."""
    return re.sub(r"(?<!\d)0\.", ".", numbers)
