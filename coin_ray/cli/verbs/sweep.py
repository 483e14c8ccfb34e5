"""``coin-ray sweep``: run a study and print its table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coin_ray import safe
from coin_ray.cli import options
from coin_ray.cli.screen.output import grouped, say, say_failed

if TYPE_CHECKING:
    from coin_ray.api.results import Results

Zip = Annotated[
    Path | None,
    typer.Option("--report-zip", hidden=True, help="the report as one file, for `submit`"),
]

MOST_NAMED = 5
"""Levels of those that were left out for one reason."""


@options.takes_study()
def sweep(
    asked: options.Asked,
    address: options.Address = None,
    workers: options.Workers = None,
    device: options.Device = "auto",
    wait: options.Wait = None,
    local: options.Here = False,
    no_tracking: options.NoTracking = False,
    report_zip: Zip = None,
) -> None:
    """Run a study: compute what is missing, then print the table.

    There is no resume: the same command, or the same study after an edit, continues.
    """
    from coin_ray.api import runs
    from coin_ray.api.studies import with_images
    from coin_ray.cli.screen import preamble
    from coin_ray.cli.screen.live import watch
    from coin_ray.cli.screen.output import command_line, console
    from coin_ray.cli.verbs.report import show_tables

    executor = options.executor(address, workers, device, local=local, wait=wait)
    resolved, screen = asked.resolve(), console()
    for text in (*preamble.opening(resolved), preamble.cells(resolved)):
        say(text)
    study, goal = with_images(resolved, asked.workspace), resolved.objective
    tracking, larger = not no_tracking, goal.mode == "max"
    with watch(screen, goal.metric, larger_is_better=larger, plain=local) as show:
        results = runs.run_and_report(
            study, executor, show, tracking=tracking, command=command_line()
        )
    show_tables(screen, results.values)
    _close(results, asked, tracking)
    if report_zip is not None:
        _zip(results.folder / "report", report_zip)
    if results.failed:
        raise typer.Exit(1)


def _zip(folder: Path, path: Path) -> None:
    import zipfile

    from coin_ray.files import whole

    files = sorted(file for file in folder.rglob("*") if file.is_file())
    with whole(path, shared=False) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as out:
        for file in (file for file in files if not file.name.startswith(".")):
            out.write(file, file.relative_to(folder))


def _close(results: Results, asked: options.Asked, tracked: bool) -> None:
    """Last lines: what was computed, what was left out or failed and why, where everything lies."""
    from coin_ray.cli.screen.live import clock

    outcome, runs, workspace = results.outcome, results.folder, asked.workspace
    assert outcome is not None
    say(f"{outcome.computed} stages computed, {outcome.reused} reused, in {clock(outcome.seconds)}")
    levels = {cell.key_label: cell.level for cell in results.values.study.cells}
    for reason, labels in grouped(outcome.left_out).items():
        names = list(dict.fromkeys(levels.get(label, label) for label in labels))
        more = len(names) - MOST_NAMED  # of a search all but the best trials
        named = ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
        say(f"left out: {safe.line(named)} ({reason})")
    say_failed(outcome.failed, outcome.traces)
    say(f"label maps and overlays: {runs}")
    say(f"tables, figures and per-image values: {runs / 'report' / 'report.html'}")
    if tracked:
        usual = workspace == options.WORKSPACE.resolve()
        option = "" if usual else f" --workspace {safe.shell(workspace)}"
        say(f"compare the runs: coin-ray ui{option}")
