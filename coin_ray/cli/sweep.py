"""``coin-ray sweep``: run a study and print its table."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coin_ray import safe
from coin_ray.cli import options
from coin_ray.cli.options import WORKSPACE
from coin_ray.cli.output import say

if TYPE_CHECKING:
    from coin_ray.cluster.sweep import Outcome
    from coin_ray.events.events import Event
    from coin_ray.study.datasets import Resolved
    from coin_ray.study.resolved import ResolvedStudy


def _address(ctx: typer.Context, param: typer.CallbackParam, value: str | None) -> str | None:
    """``local`` is a cluster of our own. The environment's is that of the job that we are in; a
    dashboard's URL in it is for those who submit jobs."""
    if not value or value == "local":
        return None
    source = ctx.get_parameter_source(str(param.name))
    if source is not None and source.name == "ENVIRONMENT":
        if value.startswith(("http://", "https://")):
            return None
        where = f"Ray cluster: {value} (RAY_ADDRESS; --address local starts one of our own)"
        say(where, err=True)
    return value


Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="RAY",
        envvar="RAY_ADDRESS",
        callback=_address,
        help="an existing Ray cluster; default: RAY_ADDRESS (as in a Ray job), else our own",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=1, max=4096, help="processes that train one round together"),
]
NoTracking = Annotated[bool, typer.Option("--no-tracking", help="keep nothing in MLflow")]


def sweep(
    study: options.Study,
    profile: options.Profile = None,
    data: options.Data = None,
    train: options.Train = None,
    mpp: options.Mpp = None,
    binary: options.Binary = None,
    settings: options.Set = None,
    seeds: options.Seeds = None,
    workspace: options.Workspace = WORKSPACE,
    address: Address = None,
    workers: Workers = None,
    device: options.Device = "auto",
    no_tracking: NoTracking = False,
) -> None:
    """Run a study: compute what is missing, then print the table.

    There is no resume: the same command, or the same study after an edit, continues.
    """
    from coin_ray.cli import costs, preamble
    from coin_ray.study.datasets import check_images, resolve_data, with_data

    resolved = options.resolved(study, profile, data, train, mpp, settings, seeds, binary)
    for text in (*preamble.opening(resolved), preamble.cells(resolved)):
        say(text)
    found = {spec.name: resolve_data(spec, workspace) for spec in resolved.data}
    check_images(found)
    resolved = with_data(resolved, found)
    where = costs.target(resolved, address, device, workers)
    costs.admit(resolved, found, workspace, where)
    outcome = _run(
        resolved,
        found,
        workspace,
        address=address,
        workers=where.workers,
        device=where.device,
        tracked=not no_tracking,
    )
    if outcome.failed:
        raise typer.Exit(1)


def _run(
    study: ResolvedStudy,
    data: Mapping[str, Resolved],
    workspace: Path,
    *,
    address: str | None,
    workers: int,
    device: str,
    tracked: bool,
) -> Outcome:
    from coin_ray.cli.live import watch
    from coin_ray.cli.output import console
    from coin_ray.cli.recording import recorder
    from coin_ray.cli.results import (
        results_of,
        runs_folder,
        show_tables,
        sweep_facts,
        verdicts_in,
    )
    from coin_ray.cluster.sweep import Resources, run_study
    from coin_ray.events.events import StudyStarted
    from coin_ray.report.values.result_tables import summary
    from coin_ray.report.values.study_results import keep_sweep
    from coin_ray.report.write import write_report

    screen, runs, goal = console(), runs_folder(workspace, study), study.objective
    facts = sweep_facts(data, device)
    with recorder(study, workspace, runs, device=device, tracked=tracked) as record:
        with watch(screen, goal.metric, larger_is_better=goal.mode == "max") as show:

            def listen(event: Event) -> None:
                if isinstance(event, StudyStarted):  # what is refused leaves nothing behind
                    keep_sweep(runs, facts)
                show(event)
                record(event)

            outcome = run_study(
                study,
                data,
                workspace=workspace,
                listen=listen,
                address=address,
                device=device,
                resources=Resources(workers=workers),
                verdicts=verdicts_in(runs),
            )
        keep_sweep(runs, {**facts, "missing": {**outcome.left_out, **outcome.failed}})
        results = results_of(study, runs)
        files = write_report(results, runs / "report", overwrite=True)
        record.report(files, summary(results.tables).to_dicts())
        record.comparisons(results.compared.to_dicts())
    show_tables(screen, results)
    _close(study, outcome, runs, workspace, tracked)
    return outcome


def _close(
    study: ResolvedStudy, outcome: Outcome, runs: Path, workspace: Path, tracked: bool
) -> None:
    """Last lines: what was computed, what was left out or failed and why, where everything lies."""
    from coin_ray.cli.live import clock

    say(f"{outcome.computed} stages computed, {outcome.reused} reused, in {clock(outcome.seconds)}")
    levels = {cell.key_label: cell.level for cell in study.cells}
    for reason, labels in _grouped(outcome.left_out).items():
        named = ", ".join(dict.fromkeys(levels[label] for label in labels))
        say(f"left out: {safe.line(named)} ({reason})")
    causes = _grouped(outcome.failed)
    for cause, labels in causes.items():
        say(f"failed: {', '.join(labels)}: {cause}", err=True)
        if trace := outcome.traces.get(cause):
            say(textwrap.indent(trace, "  "), err=True)
    if causes:
        say("the same command tries the failed cells again", err=True)
    say(f"label maps and overlays: {runs}")
    say(f"tables, figures and per-image values: {runs / 'report' / 'report.html'}")
    if tracked:
        option = "" if workspace == WORKSPACE.resolve() else f" --workspace {safe.shell(workspace)}"
        say(f"compare the runs: coin-ray ui{option}")


def _grouped(reasons: Mapping[str, str]) -> dict[str, list[str]]:
    """Reason -> the cells that it is given for."""
    out: dict[str, list[str]] = {}
    for label, reason in reasons.items():
        out.setdefault(reason, []).append(label)
    return out
