"""What a cell trains: the network of its coarse model, and its rounds.

One way for one process and for many. With several, images are relabelled in shards and the batch is
split. Each finished training is one artifact; one that stopped goes on from its last checkpoint.

The coarse model is trained once for a set of training images, whatever the level and the random
seed, and without labels: its checkpoint rule is that of ``train_ssa`` and ``train_psm``, which read
none. A round relabels with the last student, selects and trains; labels are made anew every
``rounds.refresh`` rounds, and where they hardly change any more (``rounds.early_stop``), a round
commits the weights of the last one as they are.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

from coin_ray import bucket
from coin_ray.data.sample import Image
from coin_ray.distillation.memory import refuse_large
from coin_ray.errors import UserError
from coin_ray.files import seen
from coin_ray.identity import code_identity
from coin_ray.pipeline import refs
from coin_ray.pipeline.cell import CellRun
from coin_ray.pipeline.stage import Ref
from coin_ray.pipeline.stages import STAGES
from coin_ray.store.artifacts import Artifact
from coin_ray.training.checkpoint import Checkpoint
from coin_ray.training.world import Progress, World

log = logging.getLogger(__name__)
Report = Callable[[int, Mapping[str, float], float], None]
"""``report(round, metrics, seconds)``, on every process after each round, stored or new."""


def train_stage(
    run: CellRun, world: World, report: Report, stage: str, progress: Progress | None = None
) -> None:
    """Compute what the store lacks of ``ucis_model`` or ``round``, on every process of ``world``;
    ``progress`` is told on rank 0."""
    if stage == "ucis_model":
        _complete(run, Ref(stage), world, progress)
        return
    for round_ in range(1, run.config.rounds.count + 1):
        ref = Ref(stage, round=round_)
        _complete(run, ref, world, progress)
        report(round_, round_facts(run, round_), run.store.info(run.chain.key(ref))["seconds"])


def _complete(run: CellRun, ref: Ref, world: World, progress: Progress | None) -> None:
    """Train one artifact and store it, unless it is there.

    What was interrupted goes on from its last checkpoint, kept in the store under the artifact's
    key; one that other code or another computation has written is begun anew.
    """
    import torch

    key = run.chain.key(ref)
    missing = not run.store.holds(key)
    # All ranks must have looked before rank 0 can write, or they would disagree.
    world.barrier()
    if not missing:
        return
    if ref.stage == "round" and refs.refresh(run.chain, ref.round) == ref.round:
        relabel(run, world, ref.round)
    folder, every = run.store.checkpoints(key), run.config.rounds.checkpoint
    resumed, start = seen(folder / "state"), time.perf_counter()
    checkpoint = Checkpoint(
        folder / "state", f"{key.digest} {code_identity()}", every, last=False, anew=True
    )
    if ref.stage == "round" and run.device.startswith("cuda"):
        room = torch.cuda.get_device_properties(run.device).total_memory
        refuse_large(run.config.student, sum(map(run.chain.memo.area, run.train)), 0, room)
    artifact = _fitting(
        ref.stage, partial(STAGES[ref.stage].compute, run.given(ref)), world, progress, checkpoint
    )
    if world.rank == 0:
        # The end of a training says nothing of how long one takes; a round has added it up.
        seconds = artifact.info.get("seconds", 0.0 if resumed else time.perf_counter() - start)
        run.store.save(key, artifact, seconds)
        bucket.remove_all(folder)
        shutil.rmtree(folder, ignore_errors=True)  # `store gc` may be at it too, and takes the rest
        if run.done is not None:
            run.done(key, seconds)
    world.barrier()


def _fitting(
    stage: str,
    compute: Callable[..., Artifact],
    world: World,
    progress: Progress | None,
    checkpoint: Checkpoint,
) -> Artifact:
    """A training that runs out of a GPU's memory goes on from its checkpoint, once, and keeps what
    a step saves in the memory of the CPU: the same step, batch norm over the whole batch included,
    where smaller parts of a batch would each have statistics of their own. Of several processes the
    others wait for the one that failed, so there it is an error."""
    import torch

    try:
        return compute(world, progress, checkpoint)
    except torch.OutOfMemoryError as error:
        if world.size > 1:
            raise _too_small(stage, error) from error
        log.warning("out of memory on the GPU: the training goes on, slower, beside the CPU's")
    torch.cuda.empty_cache()  # and what the failed step held has gone with its error
    try:
        found = compute(replace(world, spills=True), progress, checkpoint)
    except torch.OutOfMemoryError as error:
        raise _too_small(stage, error) from error
    return Artifact(found.arrays, found.info | {"spilled": True})


def _too_small(stage: str, error: Exception) -> UserError:
    return UserError(
        f"the training of {stage} does not fit the GPU",
        found=str(error).partition("\n")[0],
        do="write precision: bf16, lower its batch or crop, or take a larger GPU; `plan` says what "
        "a student takes",
    )


def round_facts(run: CellRun, round_: int) -> dict[str, float]:
    """What a finished round says about its labels and its training."""
    log = run.store.info(run.key("round", round_=round_))
    training = {"loss": log["loss"], "stopped": float(log["stopped"])}
    return {**run.round_summary(round_), **training}


def relabel(run: CellRun, world: World, round_: int) -> None:
    """Pseudo labels of ``round_`` for every training image, each made by one rank.

    The student predicts one image after the other, and threads make instances, masks, scores and
    labels of them meanwhile.
    """
    shard = list(run.train)[world.rank :: world.size]
    drawn = [refs.current(run.chain, Ref("score", image, round_)) for image in shard]

    def score(image: Image, instances: Ref, *ahead: Any) -> None:
        if ahead:
            run.get(instances, *ahead)
        run.artifact("score", image, round_)

    with ThreadPoolExecutor(world.threads) as pool:
        waiting: deque[Future[None]] = deque()
        for image, instances, ahead in zip(shard, drawn, run.ahead(drawn), strict=True):
            waiting.append(pool.submit(score, image, instances, *ahead))
            while len(waiting) > 2 * world.threads:  # predictions are held until they are drawn
                waiting.popleft().result()
        for left in waiting:
            left.result()
        world.barrier()
        list(pool.map(lambda image: run.artifact("select", image, round_), shard))
    world.barrier()
