"""The recursion: relabel with the last student, select, train, commit; R times.

One function for one process and for many. With several, images are relabelled in shards and the
batch is split; each finished round is one artifact, so a run that stopped goes on after it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from coin_ray.pipeline.cell import CellRun
from coin_ray.pipeline.chain import round_schedule
from coin_ray.pipeline.stages import options
from coin_ray.pipeline.store import Artifact


@dataclass(frozen=True)
class World:
    """The processes that share a round: this one's ``rank`` of ``size``, how they wait for each
    other and how a network is made to train on all of them."""

    rank: int = 0
    size: int = 1
    barrier: Callable[[], None] = lambda: None
    wrap: Callable[[Any], Any] = lambda module: module


Report = Callable[[int, Mapping[str, float], float], None]


def run_rounds(run: CellRun, world: World, report: Report, progress: Any = None) -> None:
    """Compute the rounds that the store does not have.

    ``report(round, metrics, seconds)`` is called on every rank after each round, stored or new;
    ``progress(step, steps, loss)`` from the training loop of rank 0.
    """
    for round_ in range(1, run.config.rounds.count + 1):
        start = time.perf_counter()
        key = run.keys.round(round_)
        missing = not run.store.has(key)
        # All ranks must have looked before rank 0 can write, or they would disagree.
        world.barrier()
        if missing:
            relabel(run, world, round_)
            artifact = train(run, world, round_, progress)
            if world.rank == 0:
                run.store.save(key, artifact, time.perf_counter() - start)
                if run.done is not None:
                    run.done(key, time.perf_counter() - start)
            world.barrier()
        log = run.store.info(key)
        report(round_, {**run.round_summary(round_), "loss": log["loss"]}, log["seconds"])


def relabel(run: CellRun, world: World, round_: int) -> None:
    """Pseudo labels of ``round_`` for every training image, each made by one rank."""
    shard = list(run.train)[world.rank :: world.size]
    for image in shard:
        run.score(image, round_)
    world.barrier()
    for image in shard:
        run.select(image, round_)
    world.barrier()


def train(run: CellRun, world: World, round_: int, progress: Any = None) -> Artifact:
    """Student after ``round_`` as an artifact (EMA weights); equal on every rank."""
    from coin_ray.distillation.targets import PseudoLabels
    from coin_ray.distillation.training import train_round

    student = run.config.student
    schedule = round_schedule(run.config, round_)
    selected = [run.select(image, round_).arrays for image in run.train]
    start = time.perf_counter()
    weights, log = train_round(
        [image.load() for image in run.train],
        [PseudoLabels(s["label_map"], s["ignore"]) for s in selected],
        initial=None if round_ == 1 else run.student(round_ - 1).arrays,
        **schedule,
        seed=run.seed,
        round_index=round_,
        device=run.device,
        wrap=world.wrap,
        rank=world.rank,
        world=world.size,
        progress=progress if world.rank == 0 else None,
        **options(student, "iterations", "later_iterations", "lr", "later_lr"),
    )
    loss = log["loss"][-max(1, len(log["loss"]) // 10) :]
    info = {
        "loss": sum(loss) / len(loss),
        "iterations": schedule["iterations"],
        "seconds": round(time.perf_counter() - start, 3),
    }
    return Artifact(weights, info)
