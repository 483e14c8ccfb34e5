"""Studies whose cells are said to have finished, with values made up by a formula: what tests of
the report read. No cell is computed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from coin_ray.data.dataset import DataSet
from coin_ray.data.sample import file_sample
from coin_ray.data.write import write_image, write_label_map
from coin_ray.report.values.study_results import Results, read_results
from coin_ray.study.command_line import Request
from coin_ray.study.resolved import ResolvedStudy, StudyCell
from coin_ray.study.study import resolve

HEAD = """
study: small
title: Small & <simple> study
question: Does 50 % of it_matter?
extends: mini
data: {generated: {train: 0, test: 4, size: 64}}
seeds: 2
"""
NUMBERS = """
factors:
  weight:
    baseline: "0.1"
    levels:
      "off": {ot.enabled: false}
      "0.1": {ot.lambda: 0.1}
      "1.0": {ot.lambda: 1.0}
      "3.0": {ot.lambda: 3.0}
"""
SWITCHES = """
factors:
  propagation: {baseline: "on", levels: {"on": {uss.family: mae}, "off": {uss.family: none}}}
  prior: {baseline: with, levels: {with: {ot.prior: 1.5}, without: {ot.prior: 0.0}}}
"""
DESIGNS = {
    "one_at_a_time": NUMBERS,
    "grid": SWITCHES,
    "factorial": SWITCHES,
    "leave_one_out": SWITCHES,
    "ladder": SWITCHES,
}
NUCLEUS = np.zeros((40, 40), np.int32)
NUCLEUS[10:20, 10:20] = 1
Value = Callable[[StudyCell, int, int], float]
"""AJI of a cell at a step (0, 1, ...) on an image."""


def plain_value(cell: StudyCell, step: int, image: int) -> float:
    """Something that differs by level, step, image and seed."""
    level = sum(map(ord, cell.level)) % 7
    return 0.3 + 0.02 * level + 0.03 * step + 0.05 * image + 0.004 * cell.seed * (level % 3)


def study(folder: Path, text: str, *settings: str) -> ResolvedStudy:
    """The study of a YAML text, written into ``folder``."""
    path = folder / "small.yaml"
    path.write_text(HEAD + text)
    return resolve(str(path), Request(settings=("rounds.count=2", *settings)))


def labels_of(given: ResolvedStudy, level: str) -> list[str]:
    """The names of the cells of a level, by random seed."""
    return [cell.key_label for cell in given.cells if cell.level == level]


def finish(
    given: ResolvedStudy,
    runs: Path,
    *,
    value: Value = plain_value,
    images: int = 3,
    without: Sequence[str] = (),
) -> None:
    """Leave what the finished cells of a study leave, but for the cells of ``without``."""
    for cell in given.cells:
        if cell.key_label not in without:
            _leave(cell, runs / cell.key_label, value, images)


def _leave(cell: StudyCell, place: Path, value: Value, images: int) -> None:
    steps = ("ucis", "step1", "pseudo_labels", "round_1", "round_2")
    rows = [
        {"image": f"tile_{image}", "step": step, "metric": metric, "value": number + shift}
        for i, step in enumerate(steps)
        for image in range(images)
        for number in [value(cell, i, image)]
        for metric, shift in (("aji", 0.0), ("pq", 0.01), ("dice", 0.2), ("miou", 0.15))
    ]
    end = value(cell, len(steps) - 1, 0)
    place.mkdir(parents=True)
    config = cell.config.model_dump(mode="json", by_alias=True)
    (place / "config.yaml").write_text(yaml.safe_dump(config))
    rounds = [
        {"round": r, "accepted_fraction": 0.8 + 0.05 * r, "score_std": 0.2 / r, "loss": 1.0 / r}
        for r in (1, 2)
    ]
    told = {"cell": cell.key_label, "agreement": end + 0.1}
    facts: dict[str, Any] = {"cell": told, "rounds": rounds, "rows": rows}
    (place / "metrics.json").write_text(json.dumps(facts))
    (place / "predictions").mkdir()
    for image in range(images):
        write_label_map(place / "predictions" / f"tile_{image}.tif", NUCLEUS)


def tiles(folder: Path, count: int) -> dict[str, DataSet]:
    """The images of such a study, with their truth."""
    for image in range(count):
        write_label_map(folder / f"tile_{image}.tif", NUCLEUS)
        write_image(folder / f"tile_{image}.png", np.full((40, 40, 3), 200, np.uint8))
    named = [folder / f"tile_{image}" for image in range(count)]
    samples = (file_sample(p.name, p.with_suffix(".png"), p.with_suffix(".tif")) for p in named)
    return {"generated": DataSet((), tuple(samples))}


def finished(folder: Path, text: str, without: Sequence[str] = (), **options: Any) -> Results:
    """The results of a study all of whose cells have finished, but for the levels ``without``."""
    given = study(folder, text)
    without = [name for level in without for name in labels_of(given, level)]
    finish(given, folder / "runs", without=without, **options)
    return read_results(given, folder / "runs", tiles(folder, options.get("images", 3)))
