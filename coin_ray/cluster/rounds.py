"""What a cell trains (coarse model, rounds): in a task, on several workers in a Ray Train run."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import ray.train
from ray.train.torch import TorchTrainer, get_device, prepare_model

from coin_ray.cluster.folders import storage
from coin_ray.cluster.leaving import noticed
from coin_ray.cluster.nodes import limit
from coin_ray.cluster.tasks import task
from coin_ray.execution.cell_spec import CellSpec, train_and_tell
from coin_ray.planning.machines import Request, round_request
from coin_ray.training.world import World
from coin_ray.workspace import Workspace

# Ray's own limits are none at all: a group of workers that cannot be placed is tried for ever.
# Our checkpoints are in the store: a restart continues after the last one.
_LIMITS = {"max_failures": 1, "controller_failure_limit": 2, "max_preemption_failures": 10}


def train_stage(spec: CellSpec, workers: int, stage: str) -> None:
    """Train the coarse model (``ucis_model``), on as many workers as its batch allows, or the
    missing rounds (``round``). Raises the first worker's error; finished rounds stay stored.

    One worker has nobody to be synchronised with, and is spared the start of Train's controller
    and its actors."""
    if stage == "ucis_model":
        assert spec.config.ucis.trained is not None
        workers = min(workers, spec.config.ucis.trained.most_workers)
    needs = round_request(spec.resources, workers, spec.device)
    if workers == 1:
        ray.get(task(train_alone, needs).remote(spec, stage, needs))
        return
    taken = {"CPU": needs.cpus, "GPU": needs.gpus, "memory": needs.memory}
    known = {field.name for field in fields(ray.train.FailureConfig)}
    trainer = TorchTrainer(
        _loop,
        train_loop_config={"spec": spec, "needs": needs, "stage": stage},
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers,
            use_gpu=needs.gpus > 0,
            resources_per_worker={name: amount for name, amount in taken.items() if amount},
        ),
        run_config=ray.train.RunConfig(
            name=f"{spec.who['cell']}-{time.time_ns()}",
            **storage(spec.folder or Workspace(spec.workspace).ray),
            failure_config=ray.train.FailureConfig(
                **{name: limit for name, limit in _LIMITS.items() if name in known}
            ),
        ),
    )
    trainer.fit()


def train_alone(spec: CellSpec, stage: str, needs: Request) -> None:
    """Train as the only worker, in whatever process this is."""
    limit(needs.cpus, needs.gpus)
    with noticed([_node()]) as leaving:
        train_and_tell(spec, stage, World(threads=needs.threads, leaving=leaving))


def _loop(config: Mapping[str, Any]) -> None:
    spec: CellSpec = config["spec"]
    needs: Request = config["needs"]
    # Workers of one node see each other's cards: NCCL has them talk to each other directly.
    limit(needs.cpus, needs.gpus, get_device() if needs.gpus else None)
    import torch.distributed as dist

    context = ray.train.get_context()
    nodes: list[str] = [""] * context.get_world_size()
    dist.all_gather_object(nodes, _node())

    def report(round_: int, metrics: Mapping[str, float]) -> None:
        ray.train.report({"round": round_, **metrics})

    with noticed(nodes) as leaving:
        world = World(
            context.get_world_rank(),
            context.get_world_size(),
            dist.barrier,
            shared,
            threads=needs.threads,
            leaving=leaving,
        )
        train_and_tell(spec, config["stage"], world, report)


def _node() -> str:
    return str(ray.get_runtime_context().get_node_id())


def shared(model: Any) -> Any:
    """A module whose gradients are averaged over all workers, and on GPUs its batch statistics,
    too: its step is then the one of a single worker. Off GPUs torch has no such statistics."""
    import torch
    import torch.distributed as dist

    if dist.get_backend() == "nccl":
        model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return prepare_model(model)
