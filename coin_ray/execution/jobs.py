"""A job: the cells that are run together, one after the other, perhaps round by round."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from coin_ray.events.events import (
    CellFailed,
    CellFinished,
    CellLeftOut,
    CellScored,
    CellStarted,
)
from coin_ray.execution.cell_spec import CellSpec, Withdrawn, ended_early, open_cell, run_to_end
from coin_ray.execution.failures import cause, first_error, lost, trace
from coin_ray.pipeline.cell import CellRun
from coin_ray.pipeline.runner import Each, Train
from coin_ray.study.resolved import StudyCell

ROUNDS = "rounds"
"""Under this name a job reports how many rounds its value is of."""
VALUE = "value"
"""Under this name a job reports the objective."""
FAILED = "failed"
"""Under this name a job reports why a cell of it failed. That is an ending as any other: what Ray
Tune itself takes for a failure of a trial, and tries again, is the loss of its process or node."""
REMOVED = "removed from the study while it ran"
"""Why a cell is left out that was withdrawn."""
Steps = Callable[[CellSpec, CellRun], tuple[Each, Train]]
"""How the steps and the trainings of a cell are run."""


@dataclass(frozen=True)
class Job:
    """``cells`` with so many ``rounds`` of each. ``group``: the jobs that can be compared with each
    other; the ``baseline`` is never stopped, it is what others are compared with."""

    name: str
    cells: tuple[StudyCell, ...]
    rounds: int
    group: str
    baseline: bool


@dataclass(frozen=True)
class JobSettings:
    """How the jobs of a batch run. ``study``: folder of the results; ``workers`` of a round;
    ``goal``: the metric that jobs are compared by. ``by_round``: report after every round, so that
    a scheduler can stop the job there. ``score``: compute only what comes before the rounds, and
    leave no results."""

    study: str
    workers: int
    goal: str
    by_round: bool = False
    score: bool = False


@dataclass(frozen=True)
class Halving:
    """Rounds as rungs, up to ``most``, among the ``jobs`` of each group (they may grow):
    ``stopped(job, rounds)`` is told at once."""

    most: int
    jobs: Mapping[str, Job]
    stopped: Callable[[Job, int], None]


def run_job(
    specs: Sequence[CellSpec],
    settings: JobSettings,
    steps: Steps,
    report: Callable[[dict[str, Any]], None],
    wait: Callable[[Any], Any],
) -> None:
    """Run a job's cells. Its value, which ``report`` is given, is the mean over them; ``wait`` for
    an event that has to arrive first. Raises what was lost, which is not the cell's failure. A job
    that is withdrawn ends after the stage that it is at.

    Nothing of a round is alive between two of them, and all that a job has computed is stored, so
    it can be stopped or killed at any time.
    """
    last = specs[0].rounds
    spent = dict.fromkeys(range(len(specs)), 0.0)
    for rounds in range(1, last + 1) if settings.by_round and last else [last]:
        values = []
        for index, spec in enumerate(specs):
            start = time.perf_counter()
            if not spent[index]:
                spec.emit(CellStarted)
            try:
                spec.go_on()
                metrics = _advance(spec, rounds, settings, steps)
            except Exception as error:
                if lost(error):
                    raise
                if isinstance(first_error(error), Withdrawn):
                    for one in specs:
                        wait(one.emit(CellLeftOut, reason=REMOVED))
                    report({ROUNDS: rounds, FAILED: REMOVED})
                    return
                wait(spec.emit(CellFailed, cause=cause(error), trace=trace(error)))
                of = f"{spec.who['cell']} of the same trial failed: " if len(specs) > 1 else ""
                report({ROUNDS: rounds, FAILED: of + cause(error)})
                return
            spent[index] += time.perf_counter() - start
            if settings.score:
                wait(spec.emit(CellScored, metrics=metrics))
            elif rounds == last:
                ended = {"seconds": spent[index], "rounds": ended_early(spec)}
                wait(spec.emit(CellFinished, metrics=metrics, **ended))
            values.append(metrics.get(settings.goal))
        known = [value for value in values if value is not None]
        # Not every study is compared by its objective: without labels an AJI is not there.
        mean = {VALUE: statistics.fmean(known)} if len(known) == len(values) else {}
        report({ROUNDS: rounds, **mean})


def _advance(spec: CellSpec, rounds: int, settings: JobSettings, steps: Steps) -> dict[str, float]:
    """The metrics of a cell after so many of its rounds; its results if these are all."""
    part = replace(spec, rounds=rounds)
    run = open_cell(part)
    study = settings.study if rounds == spec.rounds and not settings.score else None
    return run_to_end(part, run, *steps(part, run), study)
