"""What the finished cells of a study left: per-image values as one tidy table, and label-free
facts by cell and by round."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from coin_ray.pipeline.settings import Cell, identity
from coin_ray.report.tables import tidy
from coin_ray.study.resolved import ResolvedStudy, StudyCell

ROUND_SCHEMA = {
    "cell": pl.String,
    "level": pl.String,
    "dataset": pl.String,
    "seed": pl.Int64,
    "round": pl.Int64,
    "fact": pl.String,
    "value": pl.Float64,
}


@dataclass(frozen=True)
class Collected:
    """``frame``: the tidy table; ``facts``: cell -> label-free fact of the finished student ->
    value; ``rounds``: one row (``ROUND_SCHEMA``) a fact of each round; ``outdated``: cells whose
    result is of other settings."""

    frame: pl.DataFrame
    facts: dict[str, dict[str, float]]
    rounds: pl.DataFrame
    outdated: tuple[str, ...]


def collect(study: ResolvedStudy, folder: Path) -> Collected:
    """Read ``folder``/<cell>/metrics.json of every cell of ``study`` that has one.

    A folder that holds the result of another configuration (the study was edited and has not run
    again) counts as missing, so that no old number stands under a new label.
    """
    tables, facts, rounds, outdated = [tidy([])], {}, [], []
    for cell in study.cells:
        place = folder / cell.key_label
        if not (place / "metrics.json").is_file():
            continue
        if not _same_configuration(place, cell):
            outdated.append(cell.key_label)
            continue
        found = json.loads((place / "metrics.json").read_text(encoding="utf-8"))
        who = {"study": study.name, **_who(cell)}
        # A table a cell: the rows of a thousand cells as Python objects would fill the memory.
        tables.append(tidy([who | row for row in found["rows"]]))
        facts[cell.key_label] = {
            name: value for name, value in found["cell"].items() if isinstance(value, float)
        }
        rounds += [
            {**_who(cell), "round": summary["round"], "fact": fact, "value": value}
            for summary in found.get("rounds", ())
            for fact, value in summary.items()
            if fact != "round"
        ]
    told = pl.DataFrame(rounds, schema=ROUND_SCHEMA)
    return Collected(pl.concat(tables), facts, told, tuple(outdated))


def _who(cell: StudyCell) -> dict[str, Any]:
    return {
        "cell": cell.key_label,
        "level": cell.level,
        "dataset": cell.data.name,
        "seed": cell.seed,
    }


def _same_configuration(place: Path, cell: StudyCell) -> bool:
    from pydantic import ValidationError

    config = place / "config.yaml"
    if not config.is_file():
        return False
    try:
        stored = Cell.model_validate(_read_yaml(config.read_text(encoding="utf-8")))
    except ValidationError:
        return False  # of a version with other settings
    return all(
        identity(getattr(stored, name)) == identity(getattr(cell.config, name))
        for name in Cell.model_fields
    )


def _read_yaml(text: str) -> Any:
    """Safely, and in C where PyYAML has it: a thousand files take seconds, not a minute."""
    import yaml

    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text).get_single_data()
