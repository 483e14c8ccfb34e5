"""``coin-ray status``: what runs, has finished, has failed or is missing, without starting Ray."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from coin_ray import bucket
from coin_ray.cli import options
from coin_ray.cli.screen.live import STYLES
from coin_ray.cli.screen.output import say
from coin_ray.errors import UserError
from coin_ray.events.state import StudyState
from coin_ray.events.tracked import FOR_RUNS, StudyDescribed
from coin_ray.workspace import Workspace

if TYPE_CHECKING:
    from rich.table import Table

    from coin_ray.data.dataset import DataSet
    from coin_ray.events.state import CellState
    from coin_ray.planning.states import CellStages
    from coin_ray.store.upkeep import AtWork
    from coin_ray.study.resolved import ResolvedStudy, StudyCell
    from coin_ray.tracking.lines import Line

MOST_ROWS = 40
QUIET = 60.0
"""Seconds after its last word for which a study without a stage at work counts as running."""
STATES = ("running", "failed", "missing", "left out", "finished")
"""Those of ``events.state`` that outlive a run, and what the store lacks; most urgent first."""

Study = Annotated[
    str | None, typer.Argument(metavar="[STUDY]", help="a study; default: all of the workspace")
]


@options.takes_study(study=(Study, None))
def status(asked: options.Asked) -> None:
    """Say what runs, has finished, has failed or is missing; give the options it ran with.

    Read from the store, the journals and the folders of runs: nothing is started or changed.
    """
    workspace = asked.workspace
    if not workspace.is_dir():
        raise UserError(
            "there is no workspace", where=str(workspace), do="name it with --workspace DIR"
        )
    if asked.study:
        from coin_ray.study.datasets import read_data

        _study(*read_data(asked.resolve(), workspace), workspace)
    else:
        _studies(workspace)


def _studies(workspace: Workspace) -> None:
    from coin_ray.cli.screen.output import console
    from coin_ray.store.artifacts import Store
    from coin_ray.store.upkeep import leases

    told = histories(workspace)
    written = Counter(path.parts[-3] for path in workspace.runs.glob("*/*/metrics.json"))
    working = [work for work in leases(Store(workspace.store)) if work.holder.alive]
    table = _table("study", "cells", "finished", "failed", "last heard of", "")
    for name in sorted({*told, *written}):
        one = told.get(name, StudyState())
        row = [name, str(one.total or "?"), str(written[name]), str(len(one.of("failed")) or "")]
        table.add_row(*row, _ago(one.time), _driver(one, bool(working)))
    screen = console()
    if table.row_count:
        screen.print(table)
    else:
        say(f"no study has run in {workspace}")
    _show_work(working)


def histories(workspace: Workspace) -> dict[str, StudyState]:
    """Name of the folder of runs -> what the youngest journal of that study says."""
    from coin_ray.tracking.journal import journals
    from coin_ray.tracking.lines import read_checked

    journalled = journals(workspace.journal)
    found = [history(read_checked(path, skip=FOR_RUNS).good) for path in journalled]
    return {name: state for name, state in sorted(found, key=lambda one: one[1].time) if name}


def history(lines: Iterable[Line]) -> tuple[str, StudyState]:
    """The name of a study's folder of runs and its state (times in ms since 1970), from the lines
    of its journal."""
    name, state = "", StudyState()
    for line in lines:
        if line.event is not None:
            state.update(line.event, line.time)
        if isinstance(line.event, StudyDescribed):
            name = _folder_of(line.event.tags)
    return name, state


def _folder_of(tags: Mapping[str, Any]) -> str:
    study, profile, data = (str(tags.get(part, "")) for part in ("study", "profile", "dataset"))
    return str(tags.get("runs") or f"{study}-{profile}-{data.replace(', ', '+')}")


def _driver(one: StudyState, working: bool) -> str:
    if not one.open:
        return "ended" if one.time else "not tracked"
    heard = time.time() - one.time / 1000 < QUIET  # between two stages nobody holds a lease
    return "running" if working or heard else "stopped; the same command goes on"


def _study(study: ResolvedStudy, data: Mapping[str, DataSet], workspace: Workspace) -> None:
    from coin_ray.cli.screen import preamble
    from coin_ray.cli.screen.output import console
    from coin_ray.execution.trial_log import runs_folder, with_proposals
    from coin_ray.planning.states import stages_by_cell
    from coin_ray.store.artifacts import Store
    from coin_ray.store.upkeep import leases

    runs = runs_folder(study, workspace)
    study = with_proposals(study, runs)
    stages = stages_by_cell(study.cells, data, workspace)
    working = {work.path: work for work in leases(Store(workspace.store)) if work.holder.alive}
    told = histories(workspace).get(study.run_name, StudyState())
    rows = [
        _row(cell, own, told.about(cell.level, cell.data.name, cell.seed), working)
        for cell, own in zip(study.cells, stages, strict=True)
    ]
    rows.sort(key=lambda row: STATES.index(row[3]))
    table = _table("level", "data", "seed", "state", "stages", "")
    for level, data_name, seed, state, count, note in rows[:MOST_ROWS]:
        table.add_row(level, data_name, seed, state, count, note, style=STYLES.get(state))
    say(preamble.cells(study))
    console().print(table)
    if len(rows) > MOST_ROWS:
        say(f"… and {len(rows) - MOST_ROWS} more")
    counts = Counter(row[3] for row in rows)
    say(", ".join(f"{counts[state]} {state}" for state in STATES if counts[state]))
    _show_work(
        [working[key.path] for own in stages for key in own.missing.values() if key.path in working]
    )
    say(f"results: {bucket.shown(runs)}")


def _row(
    cell: StudyCell, own: CellStages, told: CellState | None, working: Mapping[str, AtWork]
) -> tuple[str, ...]:
    """Level, data set, seed, state, stages that are there, and what there is to say."""
    state, note = "missing", ""
    held = [key for key in own.missing.values() if key.path in working]
    if not own.missing:
        state = "finished"
    elif held:
        state, note = "running", f"at {held[0].stage} {held[0].name}"
    elif told is not None and told.state in ("failed", "left out", "finished"):
        # One that a search or a screening ended before its last round lacks the others.
        early = told.rounds is not None and told.cell == cell.key_label
        if early or told.state != "finished":
            state, note = told.state, told.step
        else:
            note = "its settings, images or code have changed since it ran"
    count = f"{len(own.stages) - len(own.missing)} of {len(own.stages)}"
    return cell.level, cell.data.name, str(cell.seed), state, count, note


def _show_work(working: Sequence[AtWork]) -> None:
    for work in dict.fromkeys(working):
        place = f"{work.holder.host}, process {work.holder.pid}"
        beat = f"heartbeat {work.holder.silent:.0f} s ago"
        say(f"at work: {work.path.rpartition('-')[0].replace('/', ' ')} ({place}, {beat})")


def _table(*titles: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, padding=(0, 1))
    for title in titles:
        number = title in ("cells", "finished", "failed", "seed", "stages")
        justify: Literal["left", "right"] = "right" if number else "left"
        # The name of a study is its folder's, to be copied.
        table.add_column(title, justify=justify, overflow="fold", no_wrap=title == "study")
    return table


def _ago(milliseconds: float) -> str:
    """``3 min ago``."""
    from coin_ray.cli.screen.output import duration

    if not milliseconds:
        return ""
    return f"{duration(max(0.0, time.time() - milliseconds / 1000) / 3600)} ago"
