"""The coarse models of a study alone, trained on a cluster and nothing else computed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from coin_ray.cluster.executor import Cluster
from coin_ray.data.dataset import DataSet
from coin_ray.events.events import (
    CellFailed,
    CellFinished,
    CellStarted,
    StudyFinished,
    StudyStarted,
)
from coin_ray.execution.cell_spec import CellSpec, open_cell, who
from coin_ray.execution.failures import cause, trace
from coin_ray.execution.study_run import Outcome
from coin_ray.execution.tally import Listen, Tally
from coin_ray.pipeline.cell import CellRun
from coin_ray.pipeline.needs import coarse_weights
from coin_ray.study.resolved import ResolvedStudy, StudyCell
from coin_ray.weights import registry


def open_coarse(
    cell: StudyCell, data: Mapping[str, DataSet], workspace: Path, device: str = "cpu"
) -> CellRun:
    """A cell that can be asked for its coarse model and masks, and for nothing else."""
    return open_cell(_spec(cell, data, workspace, device))


def _spec(
    cell: StudyCell, data: Mapping[str, DataSet], workspace: Path, device: str = "cpu"
) -> CellSpec:
    found = data[cell.data.name]
    return CellSpec(
        config=cell.config,
        rounds=0,
        seed=cell.seed,
        train=found.train,
        samples=found.samples,
        weights={name: registry.identity(name) for name in coarse_weights(cell.config.ucis)},
        masks={},
        workspace=workspace,
        device=device,
        who=who(cell),
    )


def train_models(
    study: ResolvedStudy,
    data: Mapping[str, DataSet],
    *,
    workspace: Path,
    listen: Listen,
    cluster: Cluster,
    device: str,
    workers: int,
) -> Outcome:
    """Train the coarse model of every cell, unless the store has it; events as of ``run_study``.

    Raises UserError before anything starts if weights, GPU or cluster are missing.
    KeyboardInterrupt passes through; the same call continues from the last checkpoint.
    """
    workspace, start = workspace.resolve(), time.perf_counter()
    specs = [_spec(cell, data, workspace, device) for cell in study.cells]
    missing = [not spec.store.has(open_cell(spec).key("ucis_model")) for spec in specs]
    tally, left, interrupted = Tally(listen), sum(missing), True
    with cluster.runner(study, workspace, tally, device, workers) as runner:
        if left:
            runner.open()
        to_compute = {"ucis_model": left} if left else {}
        stored = len(specs) - left
        tally(StudyStarted(study.name, len(specs), to_compute, stored, workers))
        try:
            for spec, absent in zip(specs, missing, strict=True):
                tally(CellStarted(**spec.who))
                begun = time.perf_counter()
                try:
                    if absent:
                        runner.train(spec)
                except Exception as error:
                    tally(CellFailed(**spec.who, cause=cause(error), trace=trace(error)))
                else:
                    losses, seconds = open_cell(spec).ucis_losses(), time.perf_counter() - begun
                    tally(CellFinished(**spec.who, metrics=losses, seconds=seconds))
            interrupted = False
        finally:
            seconds, failed = time.perf_counter() - start, len(tally.failed)
            tally(StudyFinished(study.name, len(tally.made), stored, failed, seconds, interrupted))
    return Outcome(len(tally.made), stored, tally.failed, seconds, tally.traces)
