"""``coin-ray models``: which weights there are, getting them, checking them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

app = typer.Typer(no_args_is_help=True, help="Weights: list, fetch, add, verify.")

Name = Annotated[str, typer.Argument(help="a name of `coin-ray models list`")]
Names = Annotated[list[str], typer.Argument(help="names of `coin-ray models list`")]


@app.command("list")
def list_() -> None:
    """Every registered weight file, its licence, and whether it is here."""
    from rich.console import Console
    from rich.table import Table

    from coin_ray.weights.registry import entry, names, path_of

    table = Table("name", "MB", "licence", "here", "file")
    for name in names():
        weights = entry(name)
        path = path_of(weights)
        here = "package" if weights.packaged else "yes"
        row = (name, f"{weights.size_mb:g}", weights.licence)
        table.add_row(*row, here if path.is_file() else "no", weights.file)
    Console().print(table)


@app.command()
def fetch(names: Names) -> None:
    """Download weight files (going on where they stopped) and check them."""
    from rich.progress import DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    from coin_ray.weights.fetch import fetch as fetch_file
    from coin_ray.weights.registry import entry

    entries = [entry(name) for name in names]  # a wrong name stops before the first download
    columns = (TextColumn("{task.description}"), DownloadColumn(), TransferSpeedColumn())
    for weights in entries:
        typer.echo(f"{weights.name}: licence {weights.licence}")
        with Progress(*columns) as bar:
            task = bar.add_task(weights.name, total=None)
            path = fetch_file(weights.name, progress=partial(_show, bar, task))
        typer.echo(f"{weights.name}: {path}")


def _show(bar: Progress, task: TaskID, done: int, total: int | None) -> None:
    bar.update(task, completed=done, total=total)


@app.command()
def add(name: Name, file: Annotated[Path, typer.Argument(help="the local weight file")]) -> None:
    """Take a local file as these weights (for a machine without network)."""
    from coin_ray.weights.fetch import add as add_file

    typer.echo(f"{name}: {add_file(name, file)}")


@app.command()
def verify(
    names: Annotated[list[str] | None, typer.Argument(help="default: all here")] = None,
) -> None:
    """Check the sha256 of the files that are here, and that they can be read."""
    from coin_ray.weights import registry
    from coin_ray.weights.files import read_state

    present = [n for n in registry.names() if registry.path_of(registry.entry(n)).is_file()]
    for name in names or present:
        weights = registry.entry(name)
        found = registry.digest(name)
        read_state(registry.locate(name))
        known = "official" if weights.sha256 or weights.sha256_prefix else "no published digest"
        typer.echo(f"{name}: sha256 {found} ({known})")
