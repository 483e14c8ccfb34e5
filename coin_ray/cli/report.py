"""``coin-ray report``: the tables, figures and pages of a study that ran."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from coin_ray.cli import options
from coin_ray.cli.options import WORKSPACE
from coin_ray.cli.output import say
from coin_ray.errors import UserError, of_system

Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="FOLDER", help="where to; default: report/ beside the cells"),
]


def report(
    study: options.Study,
    profile: options.Profile = None,
    data: options.Data = None,
    train: options.Train = None,
    mpp: options.Mpp = None,
    binary: options.Binary = None,
    settings: options.Set = None,
    seeds: options.Seeds = None,
    workspace: options.Workspace = WORKSPACE,
    out: Out = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Report a study from what its finished cells left; give the options it ran with.

    Prints the tables and writes everything into a folder: one page that needs nothing else, the
    same as Markdown and LaTeX, the numbers and the figures. No cell is computed. Cells that have
    not finished, or whose settings have changed since, are missing and named.
    """
    from coin_ray.cli.output import console
    from coin_ray.cli.results import results_of, runs_folder, show_tables
    from coin_ray.report.write import write_report
    from coin_ray.study.datasets import read_data

    asked = options.resolved(study, profile, data, train, mpp, settings, seeds, binary)
    resolved, _ = read_data(asked, workspace)
    runs = runs_folder(workspace, resolved)
    if not any(runs.glob("*/metrics.json")):
        raise UserError(
            "this study has not run with these options",
            where=str(runs),
            do="run `coin-ray sweep` with the same options, or name its --workspace",
        )
    results = results_of(resolved, runs)
    show_tables(console(), results)
    folder = out or runs / "report"
    try:
        files = write_report(results, folder, overwrite=overwrite or out is None)
    except (OSError, UserError) as error:
        refused = error if isinstance(error, UserError) else of_system(error)
        if refused is None or (out is not None and refused is error):
            raise
        do = "write it elsewhere: --out FOLDER" if out is None else refused.do
        raise UserError(refused.what, where=refused.where, do=do) from error
    say(f"wrote {files[0]} and the files beside it")
