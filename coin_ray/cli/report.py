"""``coin-ray report``: the table of a study that ran."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from coin_ray.cli import options
from coin_ray.cli.options import WORKSPACE
from coin_ray.errors import UserError

Out = Annotated[
    Path | None, typer.Option("--out", metavar="FILE", help="write the table as Markdown")
]


def report(
    study: options.Study,
    profile: options.Profile = None,
    data: options.Data = None,
    train: options.Train = None,
    settings: options.Set = None,
    seeds: options.Seeds = None,
    workspace: options.Workspace = WORKSPACE,
    out: Out = None,
) -> None:
    """Print the table of a study from what its finished cells left; give the options it ran with.

    Nothing is computed. Cells that have not finished, or whose settings have changed since, are
    missing from the table and named below it.
    """
    from coin_ray.cli.results import console, frame_of, runs_folder, show_tables
    from coin_ray.report.layout import markdown, result_tables

    resolved = options.resolved(study, profile, data, train, None, settings, seeds)
    runs = runs_folder(workspace, resolved)
    frame = frame_of(resolved, runs)
    if frame.is_empty() and not any((runs / cell.key_label).is_dir() for cell in resolved.cells):
        raise UserError(
            "this study has not run with these options",
            where=str(runs),
            do="run `coin-ray sweep` with the same options, or name its --workspace",
        )
    tables = result_tables(resolved, frame)
    if out is None:
        show_tables(console(), tables)
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(markdown(tables))
    typer.echo(f"wrote {out}")
