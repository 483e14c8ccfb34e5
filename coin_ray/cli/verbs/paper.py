"""``coin-ray paper``: the tables and figures of the paper, and whether they were reproduced."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coin_ray.cli import options
from coin_ray.cli.screen.output import command_line, console, say, say_failed
from coin_ray.errors import UserError

if TYPE_CHECKING:
    from coin_ray.execution.executor import Executor
    from coin_ray.report.verdict_page import Part
    from coin_ray.study.paper_tables import Asked

Tables = Annotated[
    list[str] | None,
    typer.Argument(metavar="[TABLE]…", help="table_10, figure_11, …; all without any"),
]
Root = Annotated[
    Path | None,
    typer.Option(
        "--root",
        metavar="FOLDER",
        help="data sets in COIN's layout: FOLDER/MoNuSeg/{train,test}/{image,mask}",
    ),
]
Data = Annotated[
    list[str] | None,
    typer.Option("--data", metavar="NAME=PATH", help="where a data set lies; repeatable"),
]
Report = Annotated[bool, typer.Option("--report", help="run nothing: report what has run")]
Out = Annotated[
    Path | None,
    options.out_folder("where to; default: paper/ in the workspace"),
]


@options.takes_study(study=None, train=None, data=(Data, None))
def paper(
    asked: options.Asked,
    tables: Tables = None,
    root: Root = None,
    report: Report = False,
    address: options.Address = None,
    workers: options.Workers = None,
    device: options.Device = "auto",
    local: options.Here = False,
    no_tracking: options.NoTracking = False,
    out: Out = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Run what is missing of the paper's tables and figures, each on the data sets that it names,
    and write one page that says which of them were reproduced.

    Profile mini runs anywhere and is not comparable; --profile coin takes the paper's models.
    """
    from coin_ray.report.document.blocks import Table
    from coin_ray.report.formats.terminal import table
    from coin_ray.report.verdict_page import overview, write_paper
    from coin_ray.study.paper_tables import tables_asked

    executor = None if report else options.executor(address, workers, device, local=local)
    parts, failed = [], False
    for one in tables_asked(tables or (), asked.request, root):
        part, bad = _part(one, asked.workspace, executor, not no_tracking, plain=local)
        failed |= bad
        parts.append(part)
    shown = overview(parts).blocks[0]
    assert isinstance(shown, Table)
    screen = console()
    screen.print(table(shown, screen.width))
    folder = out or asked.workspace.paper
    files = write_paper(parts, folder, overwrite=overwrite or out is None)
    say(f"wrote {files[0]} and {files[1].name} beside it")
    if failed:
        raise typer.Exit(1)


def _part(
    one: Asked, workspace: Path, executor: Executor | None, tracking: bool, *, plain: bool
) -> tuple[Part, bool]:
    """A table on a data set, run unless there is no ``executor``, and whether anything failed. What
    refuses to run does not keep the others from it."""
    from coin_ray.api import runs
    from coin_ray.api.studies import with_images
    from coin_ray.cli.screen.live import watch
    from coin_ray.report.verdict_page import Part

    title = one.study.title
    if one.request is None:
        return Part(title, one.dataset, None, one.why), False
    try:
        study = with_images(one.resolve(), workspace)
        if executor is None:
            return Part(title, one.dataset, runs.results(workspace, study).values), False
        say(f"{title}: {one.dataset}")
        goal = study.resolved.objective
        larger, command = goal.mode == "max", command_line()
        with watch(console(), goal.metric, larger_is_better=larger, plain=plain) as show:
            found = runs.run_and_report(study, executor, show, tracking=tracking, command=command)
    except UserError as problem:
        if executor is not None:
            say(str(problem), err=True)
        return Part(title, one.dataset, None, problem.what), executor is not None
    if found.outcome is not None:
        say_failed(found.outcome.failed, found.outcome.traces)
    return Part(title, one.dataset, found.values), bool(found.failed)
