"""A study from its first cell to its last, on whatever executor."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from coin_ray.data.dataset import DataSet
from coin_ray.errors import UserError
from coin_ray.events.events import CellLeftOut, Note, StudyEdited, StudyFinished
from coin_ray.execution.cell_runner import CellRunner
from coin_ray.execution.cell_spec import who
from coin_ray.execution.edits import Edited, watched
from coin_ray.execution.executor import Executor
from coin_ray.execution.failures import cause
from coin_ray.execution.gates import Registry
from coin_ray.execution.order import (
    Decide,
    by_seeds,
    decided,
    part_of,
    screened,
    together,
    validity,
    verdicts_in,
)
from coin_ray.execution.race import race
from coin_ray.execution.refusals import refuse_missing, target
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
    that the cause explains; ``left_out``: cell -> why it was not run, or not to its end; ``study``:
    what was run in the end, which may have been edited meanwhile."""

    computed: int
    reused: int
    failed: Mapping[str, str]
    seconds: float
    study: ResolvedStudy
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
    edited: Callable[[ResolvedStudy], None] = lambda study: None,
) -> Outcome:
    """Run every cell of ``study`` that is not finished; the event stream tells all that happens.
    ``device`` and ``workers`` as ``target`` has found them.

    A study that has ``first_seeds`` leaves out the further seeds of the levels that are decided by
    what has run. A study that another run hands in under the same name (``edits``) takes the place
    of this one: ``edited`` is told it, what is finished or failed is not run again, and what it
    does not ask for ends after the stage that it is at.

    Raises UserError before anything starts if weights, labels, GPU or cluster are missing. A
    failing cell does not stop the others. KeyboardInterrupt passes through after the executor is
    closed; running the same study again continues.
    """
    workspace, start = workspace.resolve(), time.perf_counter()
    refuse_missing(study, data, workspace)
    study = with_data(study, data)
    runs = runs_folder(study, workspace)
    log = TrialLog(study, runs)
    if study.search is not None:
        study = with_trials(study, log.proposals)
    tally = Tally(listen)
    jobs = executor.runner(study, workspace, tally, device, workers)
    cells = CellRunner(study, data, workspace, tally, log, jobs, device)

    def take(new: ResolvedStudy, by: str) -> str:
        try:
            new = with_data(new, data)
            if new.run_name != runs.name:
                raise UserError("its images are not those of the study that runs")
            target(new, executor)
            refuse_missing(new, data, workspace)
        except UserError as error:
            said = f"an edit by {by} was refused, the study goes on as it is: {cause(error)}"
            tally(Note(said, "warning"))
            return said
        found = cells.take(new)
        edited(new)
        tally(StudyEdited(len(new.cells), found.words, by))
        return f"process {os.getpid()} goes on with this study: {found.words}"

    interrupted, store = True, Store(Workspace(workspace).store)
    damaged = len(store.damaged())
    try:
        with jobs:
            following: ResolvedStudy | None = study
            while following is not None:
                study = following
                with watched(runs, take), suppress(Edited):
                    in_order(study, cells, tally, runs)
                following = cells.turn(lambda study: TrialLog(study, runs))
        interrupted = False
    finally:
        for line in store.damaged()[damaged:]:
            tally(Note(f"damaged, thrown away and made again where needed: {line}", "warning"))
        seconds = time.perf_counter() - start
        counts = (len(tally.made), cells.reused, len(tally.failed))
        if cells.started:
            tally(StudyFinished(study.name, *counts, seconds, interrupted))
    made = (len(tally.made), cells.reused, tally.failed, seconds, study)
    return Outcome(*made, tally.traces, tally.left_out)


def in_order(study: ResolvedStudy, runner: CellRunner, tally: Tally, runs: Path) -> None:
    """Every level gets one seed before any gets two. What is screened out or decided is left out,
    unless the store has it anyway; a sealed split comes last."""
    registry = Registry(study, runs, tally) if study.gates else None
    if registry is not None:
        registry.register(runner.is_stored)
    sealed = study.gates.sealed if study.gates else None
    cells = tuple(cell for cell in study.cells if cell.data.name != sealed)
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
    rules = _rules(study, runs, registry)
    open_ = by_seeds(part_of(study, cells, study.seeds), cells, runner.finish, together(rules))
    _leave(study, runner, tally, dropped, open_, before)
    if study.screen is not None:
        for line in validity(study, before, tally.finished):
            tally(Note(line))
    if registry is not None and sealed is not None:
        _unseal(study, runner, tally, registry)
    runner.search()


def _rules(study: ResolvedStudy, runs: Path, registry: Registry | None) -> list[Decide]:
    """What may leave a level out of further random seeds."""
    rules = []
    if study.stopping.rule == "race":
        rules.append(race(study, runs))
    if registry is not None:
        rules.append(registry.decide)
    if study.first_seeds:
        rules.append(decided(study.first_seeds, verdicts_in(runs)))
    return rules


def _leave(
    study: ResolvedStudy,
    runner: CellRunner,
    tally: Tally,
    dropped: Mapping[str, str],
    undecided: Mapping[str, str],
    before: Mapping[str, Mapping[str, float]],
) -> None:
    """End the cells that are left out: those that the store has as any other."""
    reasons = {**dropped, **undecided}
    left = [cell for cell in study.cells if cell.key_label in reasons]
    there = [cell for cell in left if runner.is_stored(cell)]
    if there:
        runner.finish("", there)
    for cell in left:
        if cell in there:
            continue
        label = cell.key_label
        if label in dropped and label in before:
            runner.leave(cell, 0)
        tally(CellLeftOut(**who(cell), reason=reasons[label]))


def _unseal(study: ResolvedStudy, runner: CellRunner, tally: Tally, registry: Registry) -> None:
    assert study.gates is not None
    sealed, cells = study.gates.sealed, registry.open()
    if cells:
        runner.finish(f"the sealed split {sealed}", cells)
    else:
        tally(Note(f"{sealed} stays sealed: no claim is left for it"))
    for cell in study.cells:
        if cell.data.name == sealed and cell not in cells:
            tally(CellLeftOut(**who(cell), reason="sealed: no claim that is left asks for it"))
