"""What the finished cells of a study left: per-image values as one tidy table, and label-free
facts by cell and by round."""

from __future__ import annotations

import functools
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from coin_ray.files import read_object, seen
from coin_ray.pipeline.settings import Cell
from coin_ray.report.values.tidy import tidy
from coin_ray.study.cells import config_digest
from coin_ray.study.resolved import ResolvedStudy, StudyCell

ROUND_SCHEMA = {
    **dict.fromkeys(("cell", "level", "dataset"), pl.String),
    **dict.fromkeys(("seed", "round"), pl.Int64),
    "fact": pl.String,
    "value": pl.Float64,
}


@dataclass(frozen=True)
class Collected:
    """``frame``: the tidy table; ``facts``: cell -> label-free fact of the finished student ->
    value; ``agreement``: cell -> training image -> agreement; ``rounds``: one row
    (``ROUND_SCHEMA``) a fact of each round; ``outdated``: cells that have only results of other
    settings; ``seconds``: cell -> what training and inference took."""

    frame: pl.DataFrame
    facts: dict[str, dict[str, float]]
    rounds: pl.DataFrame
    outdated: tuple[str, ...]
    seconds: dict[str, dict[str, float]]
    agreement: dict[str, dict[str, float]]


def collect(study: ResolvedStudy, folder: Path) -> Collected:
    """Read ``folder``/<cell>/metrics.json of every cell of ``study`` that has one.

    A cell whose folder says of itself that it is of another configuration, data set or seed counts
    as missing, so that no number stands under a label that is not its own.
    """
    tables, facts, rounds, missing = [tidy([])], {}, [], []
    seconds: dict[str, dict[str, float]] = {}
    agreement: dict[str, dict[str, float]] = {}
    for cell in study.cells:
        found = _result(study, cell, folder)
        if found is None:
            missing.append(cell)
            continue
        who = {"study": study.name, **_who(cell)}
        # A table a cell: the rows of a thousand cells as Python objects would fill the memory.
        tables.append(tidy(found["rows"], **who))
        times = _read(folder / cell.key_label / "times.json")
        if times is not None:
            seconds[cell.key_label] = times
        agreement[cell.key_label] = found.get("agreement", {})
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
    old = _outdated(missing, folder, facts)
    return Collected(pl.concat(tables), facts, told, old, seconds, agreement)


def _who(cell: StudyCell) -> dict[str, Any]:
    return {
        "cell": cell.key_label,
        "level": cell.level,
        "dataset": cell.data.name,
        "seed": cell.seed,
    }


def _result(study: ResolvedStudy, cell: StudyCell, folder: Path) -> dict[str, Any] | None:
    """What a cell left, if that says of itself that it is of this cell and of the data there are
    now; else None."""
    found = _read(folder / cell.key_label / "metrics.json")
    if found is None:
        return None
    said = found.get("cell", {})
    told = said.get("cell"), said.get("content")
    asked = cell.key_label, study.contents.get(cell.data.name)
    return found if told == asked and _same_configuration(folder / cell.key_label, cell) else None


def _outdated(missing: Sequence[StudyCell], folder: Path, read: Container[str]) -> tuple[str, ...]:
    """Which of the missing cells have a result of other settings or of other data."""
    if not missing:
        return ()
    readable = {cell.key_label.rpartition("-")[0] for cell in missing}
    names = [path.parent.name for path in folder.glob("*/metrics.json")]
    others = [n for n in names if n not in read and n.rpartition("-")[0] in readable]
    told = [(_read(folder / name / "metrics.json") or {}).get("cell", {}) for name in others]
    whose = {(cell.get("level"), cell.get("data"), cell.get("seed")) for cell in told}
    return tuple(c.key_label for c in missing if (c.level, c.data.name, c.seed) in whose)


def _read(path: Path) -> dict[str, Any] | None:
    return read_object(path) if seen(path) else None


def _same_configuration(place: Path, cell: StudyCell) -> bool:
    config = place / "config.yaml"
    if not seen(config):
        return False
    return _digest_of(config.read_bytes()) == _digest_of(cell.config)


@functools.lru_cache(maxsize=16_384)  # the cells of a level have one configuration
def _digest_of(config: bytes | Cell) -> str | None:
    """None for a file of a version with other settings, or one that is empty or cut."""
    import yaml
    from pydantic import ValidationError

    try:
        found = Cell.model_validate(_read_yaml(config)) if isinstance(config, bytes) else config
    except (ValidationError, yaml.YAMLError):
        return None
    return config_digest(found)


def _read_yaml(text: bytes) -> Any:
    """Safely, and in C where PyYAML has it: a thousand files take seconds, not a minute."""
    import yaml

    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text).get_single_data()
