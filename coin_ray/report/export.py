"""What a user takes away of a finished cell: label maps, pictures, its configuration and rows."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coin_ray import bucket
from coin_ray.data.sample import Image, Sample
from coin_ray.files import read_object, write_text
from coin_ray.identity import digest
from coin_ray.pipeline import refs
from coin_ray.pipeline.cell import CellRun
from coin_ray.pipeline.chain import Chain
from coin_ray.pipeline.settings import Cell
from coin_ray.pipeline.stage import Ref
from coin_ray.pipeline.stages import STAGES
from coin_ray.pipeline.training import round_facts
from coin_ray.report.panels import write_panels
from coin_ray.store.keys import Key

TIMES = "times.json"
PICTURED = {"predictions": ".tif", "overlays": ".png"}
"""Folders with a file an image -> its suffix."""


def export(
    run: CellRun,
    samples: Sequence[Any],
    folder: Path,
    rows: list[dict[str, Any]],
    cell: Mapping[str, Any],
    config: Cell | None = None,
) -> None:
    """Write what a user takes away: label maps, overlays, the configuration, the per-image rows.

    ``folder``/predictions/<image>.tif, overlays/<image>.png, config.yaml, metrics.json and
    times.json (see ``seconds``); each file appears whole or not at all. ``config`` is the cell's
    own, where ``run`` ends before its last round.
    """
    import yaml

    from coin_ray.data.write import write_label_map

    last = refs.final_step(run.chain)
    elsewhere = refs.elsewhere(run.chain)
    if elsewhere:
        samples = [s for s in samples if run.chain.prediction(s.image)]
    made_of = digest([_made_of(run, s.image, last) for s in samples])
    whole = (config or run.config).model_dump(mode="json", by_alias=True)
    settings = yaml.safe_dump(whole, sort_keys=False)
    told = {"rounds": _round_facts(run), "agreement": _agreement(run), "made_of": made_of}
    facts = {"cell": dict(cell), **told}
    metrics = json.dumps({**facts, "rows": rows})
    written = {folder / "config.yaml": settings, folder / "metrics.json": metrics}
    if (
        read_object(folder / TIMES) is not None
        and all(path.is_file() and path.read_bytes() == t.encode() for path, t in written.items())
        and _pictured(folder, [sample.image.name for sample in samples])
    ):
        return
    written = {folder / TIMES: json.dumps(seconds(run, samples)), **written}
    for name in PICTURED:
        (folder / name).mkdir(parents=True, exist_ok=True)
    for sample in samples:
        image = sample.image
        final = run.labels_at(image, last)
        write_label_map(folder / "predictions" / f"{image.name}.tif", final)
        accepted = None
        if image in run.train and not elsewhere:
            accepted = run.labels(image, max(1, run.config.rounds.count)).arrays["label_map"]
        write_panels(
            folder / "overlays" / f"{image.name}.png",
            image.load(),
            coarse=None if elsewhere else run.labels_at(image, "ucis"),
            accepted=accepted,
            final=final,
            truth=sample.load_label_map() if sample.has_truth else None,
        )
    # Last the metrics: a reader takes this file as the sign that the others are there.
    for path, text in written.items():
        write_text(path, text)


def _pictured(folder: Path, images: Sequence[str]) -> bool:
    """Whether each image has its files, by their names alone."""
    for name, suffix in PICTURED.items():
        place = folder / name
        here = os.listdir(place) if place.is_dir() else ()
        if not {f"{image}{suffix}" for image in images} <= {*here, *bucket.names(place)}:
            return False
    return True


def seconds(run: CellRun, samples: Sequence[Sample]) -> dict[str, float]:
    """``train``: of all that was computed for what the cell trains, whichever cell computed it;
    ``infer``: of what came after that, an image. Left out where the store has not all of it."""
    chain, rounds = run.chain, run.config.rounds.count
    if refs.elsewhere(chain):
        return {}
    trained = [run.key("round", round_=rounds)] if rounds else []
    if run.config.ucis.trained is not None:
        trained.append(run.key("ucis_model"))
    last = refs.final_step(chain)
    shown = [chain.key(refs.behind(chain, sample.image, last)) for sample in samples]
    parts = {"train": _below(chain, trained), "infer": _below(chain, shown, trained=False)}
    found = {}
    for name, keys in parts.items():
        if keys and all(map(run.store.has, keys)):
            found[name] = sum(map(run.store.seconds, keys))
    if "infer" in found:
        found["infer"] /= len(samples)
    return found


def _below(chain: Chain, keys: Sequence[Key], *, trained: bool = True) -> list[Key]:
    """Keys and all that they are made of, but for what is ``trained``."""
    found: dict[str, Key] = {}
    left = list(keys)
    while left:
        key = left.pop()
        if key.digest not in found and (trained or not STAGES[key.stage].trains):
            found[key.digest] = key
            left += chain.memo.inputs(key)
    return list(found.values())


def _made_of(run: CellRun, image: Image, step: str) -> str:
    """The digest of the label map of a step."""
    made = run.chain.prediction(image) if refs.elsewhere(run.chain) else None
    return made.digest if made else run.chain.key(refs.behind(run.chain, image, step)).digest


def _agreement(run: CellRun) -> dict[str, float]:
    """Agreement by training image, as of the cell's facts: what a race compares without labels."""
    if refs.elsewhere(run.chain):
        return {}
    last = run.config.rounds.count + 1
    scores = {image.name: run.info(Ref("score", image, last)) for image in run.train}
    return {name: s["agreement_sum"] / max(s["instances"], 1) for name, s in scores.items()}


def _round_facts(run: CellRun) -> list[dict[str, float]]:
    """What the rounds that were trained said about their labels, and their loss."""
    rounds = range(1, run.config.rounds.count + 1)
    trained = (r for r in rounds if run.store.has(run.key("round", round_=r)))
    return [{"round": r, **round_facts(run, r)} for r in trained]
