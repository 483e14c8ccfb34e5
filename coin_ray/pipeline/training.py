"""What a cell trains: the network of its coarse model, and its rounds.

The coarse model is trained once for a set of training images, whatever the level and the random
seed, and without labels: its checkpoint rule is that of ``train_ssa`` and ``train_psm``, which read
none.
"""

from __future__ import annotations

import shutil
import time
from typing import Any

import numpy as np

from coin_ray.data.resolution import pixel_scale
from coin_ray.pipeline.cell import CellRun
from coin_ray.pipeline.rounds import Report, World, run_rounds
from coin_ray.pipeline.stages import options
from coin_ray.pipeline.store import Artifact

SAVE = 60.0
"""Seconds between two checkpoints."""
PARTS = 100
"""Values kept of a loss; each is the mean over as many steps."""


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
    The artifact's ``log`` has each loss by its name, over the ``steps`` that it was computed in.
    """
    from coin_ray.ucis.psm import train_psm
    from coin_ray.ucis.ssa import train_ssa

    key, ucis = run.keys.ucis_model(), run.config.ucis
    missing = not run.store.has(key)
    # All ranks must have looked before rank 0 can write, or they would disagree.
    world.barrier()
    if not missing:
        return
    assert ucis.trained is not None
    folder = run.store.checkpoints(key)
    resumed, start = folder.exists(), time.perf_counter()
    train: Any = train_ssa if ucis.model == "ssa" else train_psm
    weights, log = train(
        [image.load() for image in run.train],
        scales=[pixel_scale(image.mpp) for image in run.train],
        weights=ucis.weights,
        seed=ucis.seed,
        device=run.device,
        wrap=world.wrap,
        rank=world.rank,
        world=world.size,
        progress=progress if world.rank == 0 else None,
        checkpoint=folder / "state",
        every=SAVE,
        **options(ucis.trained),
    )
    if world.rank == 0:
        seconds = time.perf_counter() - start
        info = {
            "log": {term: _means(values) for term, values in log.items()},
            "steps": {term: len(values) for term, values in log.items()},
        }
        # The end of a training says nothing of how long one takes.
        run.store.save(key, Artifact(weights, info), 0.0 if resumed else seconds)
        shutil.rmtree(folder)
        if run.done is not None:
            run.done(key, seconds)
    world.barrier()


def _means(values: list[float]) -> list[float]:
    parts = np.array_split(np.array(values), min(PARTS, len(values)))
    return [float(part.mean()) for part in parts]
