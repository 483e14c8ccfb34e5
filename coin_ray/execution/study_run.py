"""A study from its first cell to its last, on whatever executor."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from coin_ray.data.dataset import DataSet
from coin_ray.events.events import CellLeftOut, Note, StudyFinished
from coin_ray.execution.cell_runner import CellRunner
from coin_ray.execution.cell_spec import who
from coin_ray.execution.executor import Executor
from coin_ray.execution.order import by_seeds, part_of, screened, validity, verdicts_in
from coin_ray.execution.refusals import refuse_missing
from coin_ray.execution.tally import Listen, Tally
from coin_ray.execution.trial_log import TrialLog, runs_folder
from coin_ray.store.artifacts import Store
from coin_ray.study.datasets import with_data
from coin_ray.study.resolved import ResolvedStudy
from coin_ray.study.search import trial_seeds, with_trials
from coin_ray.workspace import Workspace


@dataclass(frozen=True)
class Outcome:
    """``failed``: cell -> one-line cause; ``traces``: cause -> one traceback, empty for a mistake
    that the cause explains; ``left_out``: cell -> why it was not run, or not to its end."""

    computed: int
    reused: int
    failed: Mapping[str, str]
    seconds: float
    traces: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)


def run_study(
    study: ResolvedStudy,
    data: Mapping[str, DataSet],
    *,
    workspace: Path,
    listen: Listen,
    executor: Executor,
    device: str = "cpu",
    workers: int = 1,
) -> Outcome:
    """Run every cell of ``study`` that is not finished; the event stream tells all that happens.
    ``device`` and ``workers`` as ``target`` has found them.

    A study that has ``first_seeds`` leaves out the further seeds of the levels that are decided by
    what has run.

    Raises UserError before anything starts if weights, labels, GPU or cluster are missing. A
    failing cell does not stop the others. KeyboardInterrupt passes through after the executor is
    closed; running the same study again continues.
    """
    workspace, start = workspace.resolve(), time.perf_counter()
    refuse_missing(study, data, workspace)
    study = with_data(study, data)
    log = TrialLog(study, runs_folder(study, workspace))
    if study.search is not None:
        study = with_trials(study, log.proposals)
    tally = Tally(listen)
    jobs = executor.runner(study, workspace, tally, device, workers)
    cells = CellRunner(study, data, workspace, tally, log, jobs, device)
    interrupted, store = True, Store(Workspace(workspace).store)
    damaged = len(store.damaged())
    try:
        with jobs:
            _in_order(study, cells, tally, runs_folder(study, workspace))
        interrupted = False
    finally:
        for line in store.damaged()[damaged:]:
            tally(Note(f"damaged, thrown away and made again where needed: {line}", "warning"))
        seconds = time.perf_counter() - start
        counts = (len(tally.made), cells.reused, len(tally.failed))
        if cells.started:
            tally(StudyFinished(study.name, *counts, seconds, interrupted))
    reasons = (tally.failed, seconds, tally.traces, tally.left_out)
    return Outcome(len(tally.made), cells.reused, *reasons)


def _in_order(study: ResolvedStudy, runner: CellRunner, tally: Tally, runs: Path) -> None:
    """Every level gets one seed before any gets two. What is screened out or decided is left out,
    unless the store has it anyway."""
    cells = study.cells
    if study.search is not None and study.search.repeats is not None:
        seeds, base = trial_seeds(study), study.baseline_level
        runner.finish("", [c for c in cells if c.seed in seeds or c.level == base])
        runner.search()
        for cell, why in runner.repeat():
            tally(CellLeftOut(**who(cell), reason=why))
        return
    dropped: dict[str, str] = {}
    before: dict[str, Mapping[str, float]] = {}
    if study.screen is not None:
        first = [cell for cell in cells if cell.seed == study.seeds[0]]
        levels = f"{len(study.levels)} levels by {study.screen.metric}"
        before = runner.score(f"screening {levels}, {study.screen.keep} go on", first)
        kept, reasons = screened(study, before)
        dropped = {c.key_label: reasons[c.level] for c in cells if c.level in reasons}
        cells = tuple(cell for cell in cells if cell.level in kept)
    open_ = by_seeds(part_of(study, cells, study.seeds), cells, runner.finish, verdicts_in(runs))
    left = [cell for cell in study.cells if cell.key_label in dropped | open_]
    there = [cell for cell in left if runner.is_stored(cell)]
    if there:
        runner.finish("", there)
    for cell in left:
        if cell in there:
            continue
        label = cell.key_label
        if label in dropped and label in before:
            runner.leave(cell, 0)
        tally(CellLeftOut(**who(cell), reason=(dropped | open_)[label]))
    if study.screen is not None:
        for line in validity(study, before, tally.finished):
            tally(Note(line))
    runner.search()
