"""The recursion: relabel with the last student, select, train, commit; R times.

One function for one process and for many. With several, images are relabelled in shards and the
batch is split; each finished round is one artifact, so a run that stopped goes on after it.
Labels are made anew every ``rounds.refresh`` rounds; where they hardly change any more
(``rounds.early_stop``), a round commits the weights of the last one as they are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from coin_ray.pipeline.cell import CellRun
from coin_ray.pipeline.needs import round_schedule
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
        key = run.keys.round(round_)
        missing = not run.store.has(key)
        # All ranks must have looked before rank 0 can write, or they would disagree.
        world.barrier()
        if missing:
            if run.keys.refresh(round_) == round_:
                relabel(run, world, round_)
            artifact = train(run, world, round_, progress)
            if world.rank == 0:
                seconds = artifact.info["seconds"]
                run.store.save(key, artifact, seconds)
                if run.done is not None:
                    run.done(key, seconds)
            world.barrier()
        report(round_, round_facts(run, round_), run.store.info(key)["seconds"])


def round_facts(run: CellRun, round_: int) -> dict[str, float]:
    """What a finished round says about its labels and its training."""
    log = run.store.info(run.keys.round(round_))
    training = {"loss": log["loss"], "stopped": float(log["stopped"])}
    return {**run.round_summary(round_), **training}


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
    """Student after ``round_`` as an artifact (EMA weights); equal on every rank.

    Labels that changed by less than ``rounds.early_stop`` since the last refresh stop the training:
    the artifact is then the last student, whose next labels are these again.
    """
    from coin_ray.distillation.targets import PseudoLabels
    from coin_ray.distillation.training import train_round

    if run.keys.previous_refresh(round_) is not None:
        churn = run.round_summary(round_)["churn"]
        if churn < run.config.rounds.early_stop:
            last = run.student(round_ - 1)
            nothing = {"iterations": 0, "stopped": True, "seconds": 0.0}
            return Artifact(last.arrays, last.info | nothing)
    student = run.config.student
    schedule = round_schedule(run.config, round_, len(run.train))
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
        **options(student, "iterations", "epochs", "later_iterations", "lr", "later_lr"),
    )
    loss = log["loss"][-max(1, len(log["loss"]) // 10) :]
    info = {
        "loss": sum(loss) / len(loss),
        "iterations": schedule["iterations"],
        "stopped": False,
        "seconds": round(time.perf_counter() - start, 3),
    }
    return Artifact(weights, info)
