"""``coin-ray models``: which weights there are, getting them, checking them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from coin_ray.cli.screen.output import downloads, say
from coin_ray.errors import UserError, raise_all

app = typer.Typer(no_args_is_help=True, help="Weights: list, fetch, add, verify.")

Name = Annotated[str, typer.Argument(help="a name of `coin-ray models list`")]
Names = Annotated[list[str], typer.Argument(help="names of `coin-ray models list`")]


@app.command("list")
def list_() -> None:
    """Every registered weight file, its licence, and whether it is here."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from coin_ray.cli.screen.output import console
    from coin_ray.weights.registry import entry, home, names, own_names, path_of

    table = Table(box=SIMPLE_HEAD, padding=(0, 1))
    table.add_column("name", no_wrap=True)
    table.add_column("MB", justify="right")
    for title in ("licence", "here"):
        table.add_column(title)
    own = own_names()
    for name in names():
        weights = entry(name)
        where = "package" if weights.packaged else "your own" if name in own else "yes"
        here = where if path_of(weights).is_file() else "no"
        table.add_row(name, f"{weights.size_mb:g}", weights.licence, here)
    console().print(table)
    say(f"downloaded files: {home() / 'weights'}")


@app.command()
def fetch(names: Names) -> None:
    """Download weight files (going on where they stopped) and check them."""
    from coin_ray.weights.fetch import fetch as fetch_file
    from coin_ray.weights.registry import entry

    entries = [entry(name) for name in names]  # a wrong name stops before the first download
    for weights in entries:
        say(f"{weights.name}: licence {weights.licence}")
        with downloads() as show:
            path = fetch_file(weights.name, progress=partial(show, weights.name))
        say(f"{weights.name}: {path}")


@app.command()
def add(
    name: Name,
    file: Annotated[Path, typer.Argument(help="the local weight file")],
    licence: Annotated[
        str | None, typer.Option("--licence", help="take the file as weights of your own")
    ] = None,
    like: Annotated[
        str | None,
        typer.Option("--like", metavar="NAME", help="and build them as these weights are"),
    ] = None,
) -> None:
    """Take a local file as these weights (for a machine without network).

    With --licence the file is one of your own: it is entered in the registry of your home folder
    under NAME, which replaces an official entry of that name.
    """
    from coin_ray.weights import fetch as files

    if licence is None and like is not None:
        raise UserError("--like is for weights of your own", do="say their --licence too")
    if not file.is_file():
        what = "this is a folder" if file.is_dir() else "no such file"
        raise UserError(what, where=str(file), expected=f"the weights of {name}")
    if licence is None:
        path = files.add(name, file)
    else:
        path = files.register(name, file, licence=licence, like=like)
    say(f"{name}: {path}")


@app.command()
def verify(
    names: Annotated[list[str] | None, typer.Argument(help="default: all here")] = None,
) -> None:
    """Check the sha256 of the files that are here, and that they can be read."""
    from coin_ray.weights import registry
    from coin_ray.weights.state_files import read_state

    present = [n for n in registry.names() if registry.path_of(registry.entry(n)).is_file()]
    problems: list[UserError] = []
    for name in names or present:
        weights = registry.entry(name)
        try:
            found = registry.digest(name)
            tensors = len(read_state(registry.locate(name)))
        except UserError as problem:
            problems.append(problem)
            say(f"fail {name}: {problem.what}")
            continue
        known = "your own" if name in registry.own_names() else "official"
        said = known if weights.sha256 or weights.sha256_prefix else "no published digest"
        say(f"ok   {name}: sha256 {found[:16]}… ({said}), {tensors} tensors")
    raise_all(problems)
