"""What a cell trains: the network of its coarse model, and its rounds.

The coarse model is trained once for a set of training images, whatever the level and the random
seed, and without labels: its checkpoint rule is that of ``train_ssa`` and ``train_psm``, which read
none.
"""

from __future__ import annotations

import shutil
import time
from typing import Any

from coin_ray.pipeline.cell import CellRun
from coin_ray.pipeline.rounds import Report, World, run_rounds
from coin_ray.pipeline.stage import Ref
from coin_ray.pipeline.stages import STAGES


def train_stage(
    run: CellRun, world: World, report: Report, stage: str, progress: Any = None
) -> None:
    """Compute what the store lacks of ``ucis_model`` or ``round``, on every process of ``world``;
    ``report`` and ``progress`` as of ``run_rounds``."""
    if stage == "ucis_model":
        train_coarse(run, world, progress)
    else:
        run_rounds(run, world, report, progress)


def train_coarse(run: CellRun, world: World, progress: Any = None) -> None:
    """Train the coarse model and store it, unless it is there.

    What was interrupted goes on from its last checkpoint, kept in the store under the model's key.
    """
    ref = Ref("ucis_model")
    key = run.chain.key(ref)
    missing = not run.store.has(key)
    # All ranks must have looked before rank 0 can write, or they would disagree.
    world.barrier()
    if not missing:
        return
    folder = run.store.checkpoints(key)
    resumed, start = folder.exists(), time.perf_counter()
    given = run.given(ref)
    artifact = STAGES["ucis_model"].compute(given, world, progress, folder / "state")
    if world.rank == 0:
        seconds = time.perf_counter() - start
        # The end of a training says nothing of how long one takes.
        run.store.save(key, artifact, 0.0 if resumed else seconds)
        shutil.rmtree(folder)
        if run.done is not None:
            run.done(key, seconds)
    world.barrier()
