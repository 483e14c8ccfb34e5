"""``coin-ray report``: the tables, figures and pages of a study that ran."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from coin_ray.cli import options
from coin_ray.cli.screen.output import say
from coin_ray.errors import UserError, of_system

if TYPE_CHECKING:
    from rich.console import Console

    from coin_ray.report.values.study_results import Results

Out = Annotated[
    Path | None,
    options.out_folder("where to; default: report/ beside the cells"),
]


@options.takes_study()
def report(
    asked: options.Asked,
    out: Out = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Report a study from what its finished cells left; give the options it ran with.

    Prints the tables and writes everything into a folder: one page that needs nothing else, the
    same as Markdown and LaTeX, the numbers and the figures. No cell is computed. Cells that have
    not finished, or whose settings have changed since, are missing and named.
    """
    from coin_ray.api import runs
    from coin_ray.api.studies import with_images
    from coin_ray.cli.screen.output import console
    from coin_ray.report.write import write_report

    results = runs.results(asked.workspace, with_images(asked.resolve(), asked.workspace))
    show_tables(console(), results.values)
    folder = out or results.folder / "report"
    try:
        files = write_report(results.values, folder, overwrite=overwrite or out is None)
    except (OSError, UserError) as error:
        refused = error if isinstance(error, UserError) else of_system(error)
        if refused is None or (out is not None and refused is error):
            raise
        do = "write it elsewhere: --out FOLDER" if out is None else refused.do
        raise UserError(refused.what, where=refused.where, do=do) from error
    say(f"wrote {files[0]} and the files beside it")


def show_tables(screen: Console, results: Results) -> None:
    """Print the result tables and the comparison with the baseline."""
    from coin_ray.report.formats.terminal import renderables

    for item in renderables(results, screen.width):
        screen.print(item)
