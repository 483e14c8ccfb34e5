"""What a large study leaves, made without running it: images, results of cells, journals, a store.

Real files under real names, so that the commands of any version read them; the values are random.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import yaml
from PIL import Image

from coin_ray.events import events
from coin_ray.events.tracked import Table
from coin_ray.pipeline.stages import STAGES
from coin_ray.section import Values
from coin_ray.store.artifacts import Store, data_digest
from coin_ray.store.keys import Key, make_key
from coin_ray.store.manifest import DATA, FILE, seal
from coin_ray.study.command_line import Request
from coin_ray.study.datasets import read_data
from coin_ray.study.resolved import ResolvedStudy, StudyCell
from coin_ray.study.study import resolve
from coin_ray.tracking.describe import cell_event, describe_study, study_event
from coin_ray.tracking.journal import plain
from coin_ray.tracking.replay import journal_path, study_identity

IMAGES = 37
"""As MoNuSeg trains on."""
SEEDS = 5
STEPS = {
    "ucis": ("aji", "pq", "dice", "miou", "iou"),
    "step1": ("aji", "pq", "dice", "miou", "iou"),
    "pseudo_labels": ("aji", "pq", "dice", "miou", "iou"),
    "round_1": ("aji", "pq", "dice", "miou", "iou", "n_true", "n_predicted"),
}
"""22 values an image, 814 a cell."""
PER_IMAGE = ("ucis", "features", "centroids", "similarity", "transport", "refine", "instances",
             "embed", "masks", "score", "select", "predict", "redraw", "evaluate")  # fmt: skip


def write_images(folder: Path) -> None:
    """Tiles of noise with a label file each."""
    rng = np.random.default_rng(0)
    for part in ("image", "label"):
        (folder / part).mkdir(parents=True)
    for i in range(IMAGES):
        pixels = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "image" / f"tile_{i:02}.png")
        nuclei = np.zeros((64, 64), np.uint16)
        nuclei[8:24, 8 : 16 + i % 8] = 1
        Image.fromarray(nuclei).save(folder / "label" / f"tile_{i:02}.png")


def grid(cells: int) -> Values:
    """Three factors: of transport, of selection and of prediction; cells share most stages."""
    rest = cells // SEEDS // 20
    assert 20 * rest * SEEDS == cells, "a multiple of 100"
    weights = [round(0.05 * i, 4) for i in range(1, 11)]
    kept = [round(i / (rest + 1), 4) for i in range(1, rest + 1)]
    return {
        "weight": {f"{value:g}": {"ot.lambda": value} for value in weights},
        "kept": {f"{value:.4f}": {"select.value": value} for value in kept},
        "stain": {"off": {"infer.stain_weight": 0.0}, "on": {"infer.stain_weight": 2.0}},
    }


def trials(cells: int) -> Values:
    """Levels drawn at random, each unlike all others from the transport on, as of a search."""
    rng = np.random.default_rng(0)

    def between(low: float, high: float) -> float:
        return round(float(rng.uniform(low, high)), 6)

    drawn = {
        f"t{i}": {
            "ot.lambda": between(0.05, 1.0),
            "instances.sigma": between(1.0, 3.0),
            "infer.stain_weight": between(0.0, 4.0),
        }
        for i in range(cells)
    }
    return {"trial": drawn}


def write_study(path: Path, factors: Values, design: str, seeds: int) -> None:
    """A study of these factors, of one round, named after its file."""
    study = {
        "study": path.stem,
        "extends": "mini",
        "design": design,
        "seeds": seeds,
        "baseline": {"rounds.count": 1},
        "factors": {
            name: {"baseline": next(iter(levels)), "levels": levels}
            for name, levels in factors.items()
        },
        "report": ["aji", "pq", "dice", "miou"],
    }
    text = yaml.safe_dump(study, sort_keys=False, default_flow_style=None, width=1000)
    path.write_text(text, encoding="utf-8")


def read_study(path: Path, images: Path, workspace: Path) -> ResolvedStudy:
    """As ``--data tiles=IMAGES`` reads it."""
    return read_data(resolve(str(path), Request(data=(f"tiles={images}",))), workspace)[0]


@dataclass(frozen=True)
class Told:
    """What some version of the code calls a study's folder of results and its cells: of each its
    ``cell`` (label), ``level``, ``data``, ``seed`` and ``config``, the text of its settings."""

    run_name: str
    content: str
    cells: list[dict[str, Any]]


TELL = """
import json, sys
import yaml
from pathlib import Path
from coin_ray.study.command_line import Request
from coin_ray.study.datasets import read_data
from coin_ray.study.study import resolve

study, images, workspace = sys.argv[1:]
found, _ = read_data(resolve(study, Request(data=(f"tiles={images}",))), Path(workspace))
texts, cells = {}, []
for cell in found.cells:
    if cell.level not in texts:
        config = cell.config.model_dump(mode="json", by_alias=True)
        texts[cell.level] = yaml.dump(config, Dumper=yaml.CSafeDumper, sort_keys=False)
    who = {"cell": cell.key_label, "level": cell.level, "data": cell.data.name, "seed": cell.seed}
    cells.append({**who, "config": texts[cell.level]})
told = {"run_name": found.run_name, "content": found.contents["tiles"], "cells": cells}
print(json.dumps(told))
"""


def told_by(code: Path, study: Path, images: Path, workspace: Path) -> Told:
    """What the code in a folder calls them: no version takes another's settings for its own."""
    command = [sys.executable, "-W", "ignore", "-c", TELL, *map(str, (study, images, workspace))]
    environment = {**os.environ, "PYTHONPATH": str(code)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, cwd=images)
    return Told(**json.loads(done.stdout))


def write_results(told: Told, workspace: Path) -> None:
    """Configuration and per-image values of every cell, all of them finished."""
    rng = np.random.default_rng(0)
    for cell in told.cells:
        place = workspace / "runs" / told.run_name / cell["cell"]
        place.mkdir(parents=True)
        who = dict(cell)
        (place / "config.yaml").write_text(who.pop("config"), encoding="utf-8")
        facts = {"agreement": float(rng.random()), "accepted_fraction": 0.8}
        found = {
            "cell": {**who, "content": told.content, **facts},
            "rounds": [{"round": 1, **facts}],
            "made_of": "",
            "rows": [],
        }
        (place / "metrics.json").write_text(_with_rows(found, rng), encoding="utf-8")


def _with_rows(found: dict[str, Any], rng: np.random.Generator) -> str:
    """What has no ``rows`` as JSON, with random values of every image for them."""
    text = json.dumps(found, ensure_ascii=False)
    assert text.count('"rows": []') == 1
    values = rng.random(IMAGES * sum(map(len, STEPS.values()))).round(6).tolist()
    return text.replace('"rows": []', f'"rows": [{_rows() % tuple(values)}]')


@functools.cache
def _rows() -> str:
    """The rows of a cell, with a place for each value."""
    names = ((step, metric) for step, metrics in STEPS.items() for metric in metrics)
    rows = (
        {"image": f"tile_{i:02}", "step": step, "metric": metric}
        for step, metric in list(names)
        for i in range(IMAGES)
    )
    return ", ".join(json.dumps(row)[:-1] + ', "value": %r}' for row in rows)


def write_journal(study: ResolvedStudy, workspace: Path) -> None:
    """The journal of a run that computed every cell."""
    info = describe_study(study, data_digest=study.data_digest, runs=study.run_name)
    path = journal_path(workspace, study_identity(info))
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    with path.open("w", encoding="utf-8") as file:
        for number, row in enumerate(_lines(study, info, rng)):
            line = {"time": 1_700_000_000_000 + number, **plain(row)}
            whole = _with_rows(line, rng) if "rows" in line else json.dumps(line)
            file.write(whole + "\n")


def _lines(
    study: ResolvedStudy, info: Values, rng: np.random.Generator
) -> Iterator[dict[str, Any]]:
    yield study_event(info).to_json()
    yield events.StudyStarted(study.name, len(study.cells), {"round": len(study.cells)}).to_json()
    stages = {
        stage: {"key": f"{'0' * 24} (37 keys)", "computed": IMAGES, "reused": 0, "seconds": 1.0}
        for stage in STAGES
    }
    for cell, told in zip(study.cells, info["cells"], strict=True):
        run = {"run": told["digest"]}
        yield cell_event(info, told).to_json() | run
        yield events.CellStarted(**_who(cell)).to_json() | run
        metrics = dict(zip(("aji", "pq", "dice", "miou", "loss"), rng.random(5), strict=True))
        yield events.RoundFinished(**_who(cell), round=1, metrics=metrics).to_json() | run
        yield {"event": "Stages", "stages": stages} | run
        yield events.CellFinished(**_who(cell), metrics=metrics, seconds=9.0).to_json() | run
        yield Table("per_image", [], cell.key_label).to_json() | run
    yield events.StudyFinished(study.name, len(study.cells), 0).to_json()


def _who(cell: StudyCell) -> dict[str, Any]:
    return {
        "cell": cell.key_label,
        "level": cell.level,
        "data": cell.data.name,
        "seed": cell.seed,
    }


def write_store(store: Store, artifacts: int) -> None:
    """Artifacts of every stage that an image has, small, each with the manifest that ``save``
    writes; nothing waits for a disk."""
    stages = len(PER_IMAGE)
    for stage in PER_IMAGE:
        (store.root / stage).mkdir(parents=True, exist_ok=True)
    for i in range(artifacts):
        _write(store, _key(PER_IMAGE[i % stages], i // stages))


def _key(stage: str, number: int) -> Key:
    made = {"image": f"{number % IMAGES:064x}"}
    return make_key(stage, 1, f"tile_{number % IMAGES:02}", {"number": number}, made)


def _write(store: Store, key: Key) -> None:
    raw = _raw()
    folder = f"{store.root}/{key.path}"
    os.mkdir(folder)
    manifest = {
        "fields": key.fields,
        "info": {},
        "data": data_digest(raw),
        "bytes": len(raw),
        "seconds": 0.5,
        "kind": key.kind,
        "amount": key.amount,
        "device": "cpu",
        "code": "generated",
    }
    for name, content in ((DATA, raw), (FILE, seal(manifest))):
        with open(f"{folder}/{name}", "wb") as file:
            file.write(content)


@functools.cache
def _raw() -> bytes:
    """The data of a small artifact."""
    return safetensors.numpy.save({"array": np.zeros((4, 4), np.uint8)})
