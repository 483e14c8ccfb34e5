"""What one Ray Tune trial runs: the cells of a job, one after the other, perhaps round by round."""

from __future__ import annotations

import statistics
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayError, RayTaskError

from coin_ray.cluster.rounds import train_stage
from coin_ray.cluster.searching import VALUE
from coin_ray.cluster.tasks import CellSpec, distributed, open_cell
from coin_ray.errors import UserError, of_system
from coin_ray.events.events import CellFailed, CellFinished, CellScored, CellStarted
from coin_ray.pipeline import refs
from coin_ray.pipeline.cell import CellRun
from coin_ray.pipeline.runner import Each, Train, run_cell
from coin_ray.report.export import export

ROUNDS = "rounds"
"""Under this name a trial reports how many rounds its value is of."""
FAILED = "failed"
"""Under this name a trial reports why a cell of it failed. That is an ending as any other: what
Tune itself takes for a failure of a trial, and tries again, is the loss of its process or node."""


@dataclass(frozen=True)
class Errand:
    """How the trials of a batch run. ``study``: folder of the results; ``workers`` of a round;
    ``goal``: the metric that trials are compared by. ``by_round``: say it after every round, so
    that a scheduler can stop the trial there. ``score``: compute only what comes before the rounds,
    and leave no results."""

    study: str
    workers: int
    goal: str
    by_round: bool = False
    score: bool = False


def run_trial(config: Mapping[str, str], hub: Any, errand: Errand) -> None:
    """Run the job that ``config`` names. The value of a job is the mean over its cells.

    Nothing of a round is alive between two of them, and all that a trial has computed is stored, so
    it can be stopped or killed at any time.
    """
    specs = _cells(hub, config["job"])
    last = specs[0].rounds
    spent = dict.fromkeys(range(len(specs)), 0.0)
    for rounds in range(1, last + 1) if errand.by_round and last else [last]:
        values = []
        for index, spec in enumerate(specs):
            start = time.perf_counter()
            if not spent[index]:
                spec.emit(CellStarted)
            try:
                metrics = _advance(spec, rounds, errand)
            except Exception as error:
                if lost(error):
                    raise
                ray.get(spec.emit(CellFailed, cause=cause(error), trace=trace(error)))
                of = f"{spec.who['cell']} of the same trial failed: " if len(specs) > 1 else ""
                tune.report({ROUNDS: rounds, FAILED: of + cause(error)})
                return
            spent[index] += time.perf_counter() - start
            if errand.score:
                ray.get(spec.emit(CellScored, metrics=metrics))
            elif rounds == last:
                ended = {"seconds": spent[index], "rounds": ended_early(spec)}
                ray.get(spec.emit(CellFinished, metrics=metrics, **ended))
            values.append(metrics.get(errand.goal))
        found = [value for value in values if value is not None]
        # Not every study is compared by its objective: without labels an AJI is not there.
        mean = {VALUE: statistics.fmean(found)} if len(found) == len(values) else {}
        tune.report({ROUNDS: rounds, **mean})


def _cells(hub: Any, job: str) -> tuple[CellSpec, ...]:
    while (specs := ray.get(hub.take.remote(job))) is None:
        time.sleep(0.1)
    return specs


def _advance(spec: CellSpec, rounds: int, errand: Errand) -> dict[str, float]:
    """The metrics of a cell after so many of its rounds; its results if these are all."""
    part = replace(spec, rounds=rounds)
    run, each = open_cell(part), distributed(part)
    study = errand.study if rounds == spec.rounds and not errand.score else None
    return run_to_end(part, run, each, partial(train_stage, part, errand.workers), study)


def run_to_end(
    spec: CellSpec, run: CellRun, each: Each, train: Train, study: str | None
) -> dict[str, float]:
    """Run a cell and give its means over images; with ``study``, write what the user takes away
    into that folder of results."""
    rows, facts = run_cell(run, spec.samples, each, train)
    if study is not None:
        folder = spec.workspace / "runs" / study / spec.who["cell"]
        whose = {**spec.who, "content": spec.content}
        export(run, spec.samples, folder, rows, {**whose, **facts}, spec.config)
    last = refs.final_step(run.chain)
    return {**facts, **mean_metrics([r for r in rows if r["step"] == last])}


def ended_early(spec: CellSpec) -> int | None:
    """After how many rounds, if not after all."""
    return spec.rounds if spec.rounds < spec.config.rounds.count else None


def mean_metrics(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Mean of each metric over images; NaN (nothing to compare) is left out."""
    values: dict[str, list[float]] = {}
    for row in rows:
        if row["value"] == row["value"]:
            values.setdefault(row["metric"], []).append(row["value"])
    return {metric: statistics.fmean(v) for metric, v in values.items()}


def cause(error: BaseException) -> str:
    """The innermost error in one line: Ray wraps it, and Train once more, by worker."""
    error = told(error)
    lines = [line.strip() for line in str(error).strip().splitlines()]
    if isinstance(error, UserError):
        return "; ".join(lines)
    return f"{type(error).__name__}: {lines[-1] if lines else ''}"


def trace(error: BaseException) -> str:
    """The traceback; none of a mistake that its message explains, nor of Ray's own for what was
    lost."""
    if isinstance(told(error), UserError) or lost(error):
        return ""
    return "".join(traceback.format_exception(error))


def told(error: BaseException) -> BaseException:
    """The error that was raised first, or the message that it stands for."""
    found = innermost(error)
    return of_system(found) or found


def innermost(error: BaseException) -> BaseException:
    """The error that was raised first; of one that has been put into words, the words; of several
    workers' a loss, which the others suffer from."""
    while not isinstance(error, UserError) and (inner := _within(error)):
        error = max(inner, key=lost)
    return error


def lost(error: BaseException) -> bool:
    """True if what failed was a process or a node, not the cell: Ray's own errors. Of several
    workers one such is enough, for the others then miss it."""
    if isinstance(error, RayError) and not isinstance(error, RayTaskError):
        # An actor that could not begin had an error of its own.
        return not getattr(error, "actor_init_failed", False)
    return not isinstance(error, UserError) and any(map(lost, _within(error)))


def _within(error: BaseException) -> list[BaseException]:
    """What an error says of where it comes from."""
    workers = getattr(error, "worker_failures", None) or {}
    named = getattr(error, "controller_failure", None) or getattr(error, "cause", None)
    inner = [*workers.values()] or [named or error.__cause__]
    return [e for e in inner if isinstance(e, BaseException)]
