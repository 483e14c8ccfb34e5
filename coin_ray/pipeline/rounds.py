"""The recursion: relabel with the last student, select, train, commit; R times.

One function for one process and for many. With several, images are relabelled in shards and the
batch is split; each finished round is one artifact, so a run that stopped goes on after it.
Labels are made anew every ``rounds.refresh`` rounds; where they hardly change any more
(``rounds.early_stop``), a round commits the weights of the last one as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from coin_ray.pipeline import refs
from coin_ray.pipeline.cell import CellRun
from coin_ray.pipeline.stage import Ref
from coin_ray.pipeline.stages import STAGES


@dataclass(frozen=True)
class World:
    """The processes that share a training: this one's ``rank`` of ``size``, how they wait for each
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
        ref = Ref("round", round=round_)
        key = run.chain.key(ref)
        missing = not run.store.has(key)
        # All ranks must have looked before rank 0 can write, or they would disagree.
        world.barrier()
        if missing:
            if refs.refresh(run.chain, round_) == round_:
                relabel(run, world, round_)
            artifact = STAGES["round"].compute(run.given(ref), world, progress, None)
            if world.rank == 0:
                seconds = artifact.info["seconds"]
                run.store.save(key, artifact, seconds)
                if run.done is not None:
                    run.done(key, seconds)
            world.barrier()
        report(round_, round_facts(run, round_), run.store.info(key)["seconds"])


def round_facts(run: CellRun, round_: int) -> dict[str, float]:
    """What a finished round says about its labels and its training."""
    log = run.store.info(run.key("round", round_=round_))
    training = {"loss": log["loss"], "stopped": float(log["stopped"])}
    return {**run.round_summary(round_), **training}


def relabel(run: CellRun, world: World, round_: int) -> None:
    """Pseudo labels of ``round_`` for every training image, each made by one rank."""
    shard = list(run.train)[world.rank :: world.size]
    for stage in ("score", "select"):
        for image in shard:
            run.artifact(stage, image, round_)
        world.barrier()
