"""The per-image values of a study's finished cells, as one tidy table."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl

from coin_ray.pipeline.settings import Cell, identity
from coin_ray.report.tables import tidy
from coin_ray.study.resolved import ResolvedStudy, StudyCell


def collect(study: ResolvedStudy, folder: Path) -> pl.DataFrame:
    """Read ``folder``/<cell>/metrics.json of every cell of ``study`` that has one.

    A folder that holds the result of another configuration (the study was edited and has not run
    again) counts as missing, so that no old number stands under a new label.
    """
    rows = []
    for cell in study.cells:
        place = folder / cell.key_label
        if not (place / "metrics.json").is_file() or not _same_configuration(place, cell):
            continue
        found = json.loads((place / "metrics.json").read_text())
        who = {
            "study": study.name,
            "cell": cell.key_label,
            "level": cell.level,
            "dataset": cell.data.name,
            "seed": cell.seed,
        }
        rows += [who | row for row in found["rows"]]
    return tidy(rows)


def _same_configuration(place: Path, cell: StudyCell) -> bool:
    import yaml

    config = place / "config.yaml"
    if not config.is_file():
        return False
    stored = Cell.model_validate(yaml.safe_load(config.read_text()))
    return all(
        identity(getattr(stored, name)) == identity(getattr(cell.config, name))
        for name in Cell.model_fields
    )
