"""A cell from beginning to end, whatever runs its steps: this process or a cluster."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from coin_ray.files import write_text
from coin_ray.pipeline import lease
from coin_ray.pipeline.cell import CellRun
from coin_ray.pipeline.chain import CellKeys
from coin_ray.pipeline.keys import Key, digest
from coin_ray.pipeline.plan import mask_digest
from coin_ray.pipeline.rounds import Report, World, round_facts
from coin_ray.pipeline.segmenter import CachedSegmenter
from coin_ray.pipeline.settings import Cell
from coin_ray.pipeline.store import CorruptArtifact, Done, Store
from coin_ray.pipeline.training import train_stage

Step = Callable[[CellRun, Sequence[Any], int], Any]
Each = Callable[[str, int], list[Any]]
"""``each(step, n)``: the results of ``STEPS[step]`` for 0 .. n - 1, in order."""
Train = Callable[[str], None]
"""``train("ucis_model")`` trains the coarse model, ``train("round")`` the missing rounds."""


def _centroids(run: CellRun, samples: Sequence[Any], index: int) -> None:
    run.centroids(run.train[index])


def _first_scores(run: CellRun, samples: Sequence[Any], index: int) -> None:
    run.score(run.train[index], 1)


def _first_labels(run: CellRun, samples: Sequence[Any], index: int) -> None:
    run.select(run.train[index], 1)


def _last_scores(run: CellRun, samples: Sequence[Any], index: int) -> dict[str, float]:
    """Agreement of the finished student with the segmenter, the objective that reads no label, and
    the number of instances in its result. It is the student's own instances that are scored, also
    where the segmenter redraws them: it would agree with its own masks whatever the student saw."""
    image, last = run.train[index], run.config.rounds.count
    info = run.score(image, last + 1).info
    found = run.labels_at(image, run.keys.final_step()).max(initial=0)
    return {
        "scored": info["instances"],
        "agreement_sum": info["agreement_sum"],
        "instances": int(found),
    }


def _evaluate(run: CellRun, samples: Sequence[Any], index: int) -> dict[str, dict[str, float]]:
    sample = samples[index]
    for step in ("ucis", run.keys.final_step()):  # what ``export`` shows is made here, in parallel
        if not run.store.has(run.keys.evaluated(sample.image, step)):
            run.labels_at(sample.image, step)
    if not sample.has_truth:
        return {}
    return {step: run.evaluate(sample, step) for step in run.keys.steps(sample.image)}


STEPS: Mapping[str, Step] = {
    "centroids": _centroids,
    "first_scores": _first_scores,
    "first_labels": _first_labels,
    "last_scores": _last_scores,
    "evaluate": _evaluate,
}


def open_local(
    config: Cell,
    seed: int,
    train: Sequence[Any],
    workspace: Path,
    *,
    device: str = "cpu",
    done: Done | None = None,
) -> CellRun:
    """A cell in this process, with a segmenter of its own and the workspace's store."""
    from coin_ray.weights import registry

    store = Store(workspace / "store", device)
    return CellRun(
        config,
        seed,
        train,
        store,
        CellKeys(config, seed, train, registry.identity, mask_digest),
        CachedSegmenter(config.sam.model, store, device=device, batch=config.sam.batch),
        device,
        done,
    )


def run_local(
    run: CellRun, samples: Sequence[Any], report: Report | None = None
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """``run_cell`` without a cluster."""
    tell = report or (lambda round_, metrics, seconds: None)
    train = partial(train_stage, run, World(), tell)
    return run_cell(run, samples, serial(run, samples), train)


def serial(run: CellRun, samples: Sequence[Any]) -> Each:
    """Run the steps one after another in this process."""
    return lambda step, n: [STEPS[step](run, samples, i) for i in range(n)]


def run_cell(
    run: CellRun, samples: Sequence[Any], each: Each, train: Train
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Everything a cell is asked for: rows (image, step, metric, value) and label-free facts.

    ``train`` is not called for what the store has, or has by the time that another trial which was
    at it has finished. What was trained and turns out to be damaged is trained again.
    """
    for _ in range(run.config.rounds.count + 1):  # every round, and the coarse model
        try:
            return _run_once(run, samples, each, train)
        except CorruptArtifact:
            continue  # it has been thrown away
    return _run_once(run, samples, each, train)


def _run_once(
    run: CellRun, samples: Sequence[Any], each: Each, train: Train
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    if run.config.ucis.trained is not None:
        train_once(run, train)
    n = len(run.train)
    last = run.config.rounds.count
    rounds_of = [run.keys.round(r) for r in range(1, last + 1)]
    labels_of = [run.keys.select(image, max(1, last)) for image in run.train]
    first = [run.keys.score(image, 1) for image in run.train]
    # Without rounds the first labels are the last ones.
    if not all(map(run.store.has, rounds_of or [*first, *labels_of])):
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
    rows = [
        {"image": sample.image.name, "step": step, "metric": metric, "value": value}
        for sample, steps in zip(samples, each("evaluate", len(samples)), strict=True)
        for step, metrics in steps.items()
        for metric, value in metrics.items()
    ]
    return rows, facts


def train_once(run: CellRun, train: Train) -> None:
    """The coarse model of a cell: from the store, from another trial that is at it, or trained."""
    with ExitStack() as stack:
        if reserve(run.store, run.keys.ucis_model(), stack):
            train("ucis_model")


def reserve(store: Store, key: Key, stack: ExitStack) -> bool:
    """Take the lease of a missing artifact until ``stack`` closes; False once the store has it.

    Who needs several takes them in the chain's order: then nobody waits for one who waits for him.
    """
    while not store.has(key):
        token = store.reserve(key)
        if token is not None:
            stack.enter_context(lease.held(store.claim(key), token))
            return not store.has(key)
        time.sleep(lease.POLL)
    return False


def export(
    run: CellRun,
    samples: Sequence[Any],
    folder: Path,
    rows: list[dict[str, Any]],
    cell: Mapping[str, Any],
    config: Cell | None = None,
) -> None:
    """Write what a user takes away: label maps, overlays, the configuration, the per-image rows.

    ``folder``/predictions/<image>.tif, overlays/<image>.png, config.yaml, metrics.json; each file
    appears whole or not at all. ``config`` is the cell's own, where ``run`` ends before its last
    round.
    """
    import yaml

    from coin_ray.data.write import write_label_map
    from coin_ray.pipeline.panels import write_panels

    last = run.keys.final_step()
    made_of = digest([run.keys.evaluated(s.image, last).digest for s in samples])
    whole = (config or run.config).model_dump(mode="json", by_alias=True)
    settings = yaml.safe_dump(whole, sort_keys=False)
    facts = {"cell": dict(cell), "rounds": _round_facts(run), "made_of": made_of}
    metrics = json.dumps({**facts, "rows": rows})
    written = {folder / "config.yaml": settings, folder / "metrics.json": metrics}
    if all(
        path.is_file() and path.read_text(encoding="utf-8") == text
        for path, text in written.items()
    ):
        return
    for name in ("predictions", "overlays"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for sample in samples:
        image = sample.image
        final = run.labels_at(image, last)
        write_label_map(folder / "predictions" / f"{image.name}.tif", final)
        accepted = None
        if image in run.train:
            accepted = run.select(image, max(1, run.config.rounds.count)).arrays["label_map"]
        write_panels(
            folder / "overlays" / f"{image.name}.png",
            image.load(),
            coarse=run.instances(image, coarse=True),
            accepted=accepted,
            final=final,
            truth=sample.load_label_map() if sample.has_truth else None,
        )
    # Last the metrics: a reader takes this file as the sign that the others are there.
    for path, text in written.items():
        write_text(path, text)


def _round_facts(run: CellRun) -> list[dict[str, float]]:
    """What the rounds that were trained said about their labels, and their loss."""
    trained = (r for r in range(1, run.config.rounds.count + 1) if run.store.has(run.keys.round(r)))
    return [{"round": r, **round_facts(run, r)} for r in trained]
