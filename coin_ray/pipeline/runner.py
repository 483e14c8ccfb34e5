"""A cell from beginning to end, whatever runs its steps: this process or a cluster."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from coin_ray.data.sample import Image, Sample
from coin_ray.files import POLL
from coin_ray.pipeline import refs
from coin_ray.pipeline.cell import CellRun
from coin_ray.pipeline.chain import Chain
from coin_ray.pipeline.needs import mask_digest
from coin_ray.pipeline.segmenter import CachedSegmenter
from coin_ray.pipeline.settings import Cell
from coin_ray.pipeline.steps import STEPS
from coin_ray.pipeline.training import Report, train_stage
from coin_ray.section import Values
from coin_ray.store import lease
from coin_ray.store.artifacts import CorruptArtifact, Done, Store
from coin_ray.store.keys import Key
from coin_ray.training.world import HERE, Progress
from coin_ray.workspace import Workspace

Each = Callable[[str, int], list[Any]]
"""``each(step, n)``: the results of ``STEPS[step]`` for its items 0 .. n - 1, in order."""
Train = Callable[[str], None]
"""``train("ucis_model")`` trains the coarse model, ``train("round")`` the missing rounds."""


def open_local(
    config: Cell,
    seed: int,
    train: Sequence[Image],
    workspace: Path,
    *,
    device: str = "cpu",
    trained: str | None = None,
    done: Done | None = None,
) -> CellRun:
    """A cell in this process, with a segmenter of its own and the workspace's store; ``trained``
    as of ``Chain``."""
    from coin_ray.weights import registry

    store = Store(Workspace(workspace).store, device)
    return CellRun(
        config,
        Chain(config, seed, train, registry.identity, mask_digest, device=device, trained=trained),
        store,
        CachedSegmenter(config.sam.model, store, device=device, batch=config.sam.batch),
        device,
        done,
    )


def run_local(
    run: CellRun,
    samples: Sequence[Sample],
    report: Report | None = None,
    until: str | None = None,
    progress: Progress | None = None,
) -> tuple[list[Values], dict[str, float]]:
    """``run_cell`` without a cluster; ``progress`` is told the steps of its trainings."""
    tell = report or (lambda round_, metrics, seconds: None)
    train = partial(train_stage, run, HERE, tell, progress=progress)
    return run_cell(run, samples, serial(run, samples), train, until)


def serial(run: CellRun, samples: Sequence[Sample]) -> Each:
    """Run the steps one after another in this process."""
    return lambda step, n: [step_at(run, samples, step, i) for i in range(n)]


def step_at(run: CellRun, samples: Sequence[Sample], step: str, index: int) -> Any:
    """A step for the image, or the sample, at ``index``."""
    items = samples if STEPS[step].samples else run.train
    return STEPS[step].run(run, items[index])


def run_cell(
    run: CellRun,
    samples: Sequence[Sample],
    each: Each,
    train: Train,
    until: str | None = None,
) -> tuple[list[Values], dict[str, float]]:
    """Everything a cell is asked for, up to a stage or its end: rows (image, step, metric, value)
    and label-free facts.

    ``train`` is not called for what the store has, or has by the time that another trial which was
    at it has finished. What was trained and turns out to be damaged is trained again.
    """
    for _ in range(run.config.rounds.count + 1):  # every round, and the coarse model
        try:
            return _run_once(run, samples, each, train, until)
        except CorruptArtifact:
            continue  # it has been thrown away
    return _run_once(run, samples, each, train, until)


def _run_once(
    run: CellRun, samples: Sequence[Sample], each: Each, train: Train, until: str | None
) -> tuple[list[Values], dict[str, float]]:
    if refs.elsewhere(run.chain):
        return [] if until else _rows(samples, each), {}
    if run.config.ucis.trained is not None:
        with ExitStack() as stack:
            if reserve(run.store, run.key("ucis_model"), stack):
                train("ucis_model")
    if until == "ucis_model":
        return [], run.ucis_losses()
    n = len(run.train)
    last = run.config.rounds.count
    rounds_of = [run.key("round", round_=r) for r in range(1, last + 1)]
    # Without rounds the first labels are the last ones.
    first = [run.key(stage, image, 1) for stage in ("score", "select") for image in run.train]
    if not all(map(run.store.has, rounds_of or first)):
        if run.config.uss.family != "none":
            each("centroids", n)
        each("first_scores", n)
        each("first_labels", n)
    with ExitStack() as stack:
        missing = [key for key in rounds_of if reserve(run.store, key, stack)]
        if missing:
            train("round")
    agreed = each("last_scores", n)
    scores = sum(a["scored"] for a in agreed)
    labels = [run.label_facts(image, max(1, last)) for image in run.train]
    instances = sum(found["instances"] for found in labels)
    facts = {
        "agreement": sum(a["agreement_sum"] for a in agreed) / max(scores, 1),
        "instances_per_image": sum(a["instances"] for a in agreed) / max(n, 1),
        "accepted_fraction": sum(found["accepted"] for found in labels) / max(instances, 1),
        "score_mean": sum(found["score_mean"] for found in labels) / max(n, 1),
        "score_std": sum(found["score_std"] for found in labels) / max(n, 1),
        **run.ucis_losses(),
    }
    return _rows(samples, each), facts


def _rows(samples: Sequence[Sample], each: Each) -> list[Values]:
    return [
        {"image": sample.image.name, "step": step, "metric": metric, "value": value}
        for sample, steps in zip(samples, each("evaluate", len(samples)), strict=True)
        for step, metrics in steps.items()
        for metric, value in metrics.items()
    ]


def reserve(store: Store, key: Key, stack: ExitStack) -> bool:
    """Take the lease of a missing artifact until ``stack`` closes; False once the store has it.

    Who needs several takes them in the chain's order: then nobody waits for one who waits for him.
    """
    while not store.has(key):
        token = store.reserve(key)
        if token is not None:
            stack.enter_context(lease.held(store.claim(key), token))
            return not store.holds(key)
        time.sleep(POLL)
    return False
