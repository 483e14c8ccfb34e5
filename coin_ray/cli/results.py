"""Where a study's results lie and how its table is printed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from coin_ray.study.resolved import ResolvedStudy

if TYPE_CHECKING:
    import polars as pl
    from rich.console import Console

    from coin_ray.report.layout import ResultTable

PLAIN_WIDTH = 120
"""Characters of a line where there is no terminal that says how wide it is."""


def runs_folder(workspace: Path, study: ResolvedStudy) -> Path:
    """The folder of the study's cells."""
    return workspace / "runs" / study.run_name


def console() -> Console:
    """The terminal, or a plain one wide enough for a table."""
    from rich.console import Console

    screen = Console()
    return screen if screen.is_terminal else Console(width=PLAIN_WIDTH)


def frame_of(study: ResolvedStudy, runs: Path) -> pl.DataFrame:
    """The study's tidy per-image values, also written beside the cells as parquet and CSV."""
    from coin_ray.report.collect import collect

    frame = collect(study, runs)
    if not frame.is_empty():
        for suffix in ("parquet", "csv"):
            # A reader of the old file must never meet half of the new one.
            scratch = runs / f"per_image.{suffix}.tmp"
            frame.write_parquet(scratch) if suffix == "parquet" else frame.write_csv(scratch)
            scratch.replace(runs / f"per_image.{suffix}")
    return frame


def show_tables(screen: Console, tables: Sequence[ResultTable]) -> None:
    """Print the result tables."""
    from coin_ray.report.layout import renderables

    for item in renderables(tables, screen.width):
        screen.print(item)
