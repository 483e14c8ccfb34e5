"""What one Ray Tune trial does: it asks the hub for its job, and runs it with tasks."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import ray
from ray import tune

from coin_ray.cluster.rounds import train_stage
from coin_ray.cluster.tasks import distributed
from coin_ray.execution.cell_spec import CellSpec
from coin_ray.execution.jobs import JobSettings, run_job
from coin_ray.pipeline.cell import CellRun
from coin_ray.pipeline.runner import Each, Train


def run_trial(config: Mapping[str, str], hub: Any, settings: JobSettings) -> None:
    """Run the job that ``config`` names."""

    def steps(spec: CellSpec, run: CellRun) -> tuple[Each, Train]:
        return distributed(spec, run), partial(train_stage, spec, settings.workers)

    specs = _cells(hub, config["job"])
    run_job(specs, settings, steps, tune.report, ray.get)


def _cells(hub: Any, job: str) -> tuple[CellSpec, ...]:
    while (specs := ray.get(hub.take.remote(job))) is None:
        time.sleep(0.1)
    return specs
