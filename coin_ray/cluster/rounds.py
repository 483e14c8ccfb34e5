"""The rounds of a cell in one Ray Train run, on one worker or many."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import ray.train
from ray.train.torch import TorchTrainer, prepare_model

from coin_ray.cluster.tasks import CellSpec, limit_threads, open_cell
from coin_ray.pipeline.events import RoundFinished, StageStarted
from coin_ray.pipeline.rounds import World, run_rounds


def train_rounds(spec: CellSpec, workers: int) -> None:
    """Train the missing rounds. Raises the first worker's error; finished rounds stay stored."""
    gpu = spec.device.startswith("cuda")
    trainer = TorchTrainer(
        _loop,
        train_loop_config={"spec": spec},
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers,
            use_gpu=gpu,
            resources_per_worker={"CPU": spec.resources.get("train_cpu", 1.0)},
        ),
        run_config=ray.train.RunConfig(
            name=f"{spec.who['cell']}-{time.time_ns()}",
            storage_path=str(spec.workspace / "ray"),
            # Our own checkpoints are the rounds in the store: a restart continues after the last.
            failure_config=ray.train.FailureConfig(max_failures=1, controller_failure_limit=2),
        ),
    )
    trainer.fit()


def _loop(config: Mapping[str, Any]) -> None:
    spec: CellSpec = config["spec"]
    limit_threads(spec.resources.get("train_cpu", 1.0))
    import torch.distributed as dist

    context = ray.train.get_context()
    world = World(
        context.get_world_rank(),
        context.get_world_size(),
        dist.barrier if context.get_world_size() > 1 else World.barrier,
        prepare_model if context.get_world_size() > 1 else World.wrap,
    )

    def report(round_: int, metrics: Mapping[str, float], seconds: float) -> None:
        if world.rank == 0:
            spec.emit(RoundFinished, round=round_, metrics=dict(metrics), seconds=seconds)
        ray.train.report({"round": round_, **metrics})

    if world.rank == 0:
        spec.emit(StageStarted, stage="round")
    run_rounds(open_cell(spec), world, report)
