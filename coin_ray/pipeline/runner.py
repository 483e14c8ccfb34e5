"""A cell from beginning to end, whatever runs its steps: this process or a cluster."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from coin_ray.pipeline.cell import CellRun
from coin_ray.pipeline.chain import CellKeys
from coin_ray.pipeline.keys import digest
from coin_ray.pipeline.plan import mask_digest
from coin_ray.pipeline.rounds import Report, World, run_rounds
from coin_ray.pipeline.segmenter import CachedSegmenter
from coin_ray.pipeline.settings import Cell
from coin_ray.pipeline.store import Done, Store

Step = Callable[[CellRun, Sequence[Any], int], Any]
Each = Callable[[str, int], list[Any]]
"""``each(step, n)``: the results of ``STEPS[step]`` for 0 .. n - 1, in order."""


def _centroids(run: CellRun, samples: Sequence[Any], index: int) -> None:
    run.centroids(run.train[index])


def _first_scores(run: CellRun, samples: Sequence[Any], index: int) -> None:
    run.score(run.train[index], 1)


def _first_labels(run: CellRun, samples: Sequence[Any], index: int) -> None:
    run.select(run.train[index], 1)


def _last_scores(run: CellRun, samples: Sequence[Any], index: int) -> dict[str, float]:
    """Agreement of the finished student with the segmenter: the objective that reads no label."""
    info = run.score(run.train[index], run.config.rounds.count + 1).info
    return {"instances": info["instances"], "agreement_sum": info["agreement_sum"]}


def _evaluate(run: CellRun, samples: Sequence[Any], index: int) -> dict[str, dict[str, float]]:
    sample = samples[index]
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

    store = Store(workspace / "store")
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
    return run_cell(run, samples, serial(run, samples), lambda: run_rounds(run, World(), tell))


def serial(run: CellRun, samples: Sequence[Any]) -> Each:
    """Run the steps one after another in this process."""
    return lambda step, n: [STEPS[step](run, samples, i) for i in range(n)]


def run_cell(
    run: CellRun, samples: Sequence[Any], each: Each, rounds: Callable[[], None]
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Everything a cell is asked for: rows (image, step, metric, value) and label-free facts.

    ``rounds()`` trains the missing rounds; it is not called when the store has them all.
    """
    n = len(run.train)
    last = run.config.rounds.count
    missing = [r for r in range(1, last + 1) if not run.store.has(run.keys.round(r))]
    scored = [image for image in run.train if not run.store.has(run.keys.score(image, last + 1))]
    if missing or (scored and not last):
        if run.config.uss.family != "none":
            each("centroids", n)
        each("first_scores", n)
        each("first_labels", n)
    if missing:
        rounds()
    agreed = each("last_scores", n)
    instances = sum(a["instances"] for a in agreed)
    facts = {
        "agreement": sum(a["agreement_sum"] for a in agreed) / max(instances, 1),
        "instances_per_image": instances / max(n, 1),
    }
    rows = [
        {"image": sample.image.name, "step": step, "metric": metric, "value": value}
        for sample, steps in zip(samples, each("evaluate", len(samples)), strict=True)
        for step, metrics in steps.items()
        for metric, value in metrics.items()
    ]
    return rows, facts


def export(
    run: CellRun,
    samples: Sequence[Any],
    folder: Path,
    rows: list[dict[str, Any]],
    cell: Mapping[str, Any],
) -> None:
    """Write what a user takes away: label maps, overlays, the configuration, the per-image rows.

    ``folder``/predictions/<image>.tif, overlays/<image>.png, config.yaml, metrics.json; each file
    appears whole or not at all.
    """
    import yaml

    from coin_ray.data.write import write_label_map
    from coin_ray.pipeline.panels import write_panels

    last = run.keys.final_step()
    made_of = digest([run.keys.evaluated(s.image, last).digest for s in samples])
    config = yaml.safe_dump(run.config.model_dump(mode="json", by_alias=True), sort_keys=False)
    metrics = json.dumps({"cell": dict(cell), "made_of": made_of, "rows": rows})
    written = folder / "metrics.json"
    if written.is_file() and written.read_text() == metrics:
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
    _replace(folder / "config.yaml", config)
    # Last: a reader takes this file as the sign that the others are there.
    _replace(written, metrics)


def _replace(path: Path, text: str) -> None:
    scratch = path.with_suffix(path.suffix + ".tmp")
    scratch.write_text(text)
    scratch.replace(path)
