"""The result table of a study, by level, from per-image values.

Everything is computed from one tidy table (``SCHEMA``): a row is one metric of one image at one
step of one cell. Nothing is averaged before it gets here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from coin_ray.report.intervals import Estimate, estimate

SCHEMA = {
    "study": pl.String,
    "cell": pl.String,
    "level": pl.String,
    "dataset": pl.String,
    "image": pl.String,
    "seed": pl.Int64,
    "step": pl.String,
    "metric": pl.String,
    "value": pl.Float64,
}
"""Columns of the tidy table; ``step`` is ucis, step1, pseudo_labels, round_1 .. round_R, final."""

TITLES = {
    "aji": "AJI", "aji_plus": "AJI+", "pq": "PQ", "sq": "SQ", "dq": "DQ", "dice": "Dice",
    "iou": "IoU (fg)", "miou": "mIoU", "fn": "FN", "fp": "FP", "n_true": "nuclei",
    "n_predicted": "found",
}  # fmt: skip
_STEP_TITLES = {"ucis": "coarse", "step1": "step 1", "pseudo_labels": "pseudo labels"}
FINAL = "final"


@dataclass(frozen=True)
class Column:
    """One column: ``step`` is a step of the tidy table or ``final``, the last one of each level."""

    step: str
    metric: str

    @property
    def title(self) -> str:
        """Such as ``AJI round 2``, or the bare metric for the end of the chain."""
        metric = TITLES.get(self.metric, self.metric)
        if self.step == FINAL:
            return metric
        return f"{metric} {_STEP_TITLES.get(self.step, self.step.replace('_', ' '))}"


def tidy(rows: Sequence[Mapping[str, object]]) -> pl.DataFrame:
    """Rows as a tidy table with the columns and types of ``SCHEMA``; KeyError for a missing one."""
    return pl.DataFrame([{name: row[name] for name in SCHEMA} for row in rows], schema=SCHEMA)


def final_step(steps: Sequence[str]) -> str:
    """The end of a chain among the steps that were evaluated: final, else the last round, else the
    instances of step 1 (no round was trained)."""
    if FINAL in steps:
        return FINAL
    rounds = [step for step in steps if _round(step)]
    return max(rounds, key=_round) if rounds else "step1"


def columns(frame: pl.DataFrame, metrics: Sequence[str]) -> list[Column]:
    """The AJI of every step, then ``metrics`` at the end.

    The AJI at the end stands on its own only where it is not the same column for every level.
    """
    steps = frame["step"].unique().to_list()
    known = [step for step in (*_STEP_TITLES,) if step in steps]
    found = [Column(s, "aji") for s in [*known, *sorted(filter(_round, steps), key=_round)]]
    ends = {final_step(part["step"].unique().to_list()) for _, part in frame.group_by("level")}
    one_end = len(ends) == 1 and FINAL not in ends
    final = [Column(FINAL, m) for m in metrics if not (m == "aji" and one_end)]
    return found + final


def _round(step: str) -> int:
    match = re.fullmatch(r"round_(\d+)", step)
    return int(match.group(1)) if match else 0


def entry(frame: pl.DataFrame, level: str, column: Column) -> Estimate | None:
    """Mean and interval of a column for one level of a table of one data set; None where no image
    has a value. An image that is empty in truth and prediction (NaN) is skipped and counted."""
    own = frame.filter(pl.col("level") == level)
    step = column.step
    if step == FINAL:
        step = final_step(own["step"].unique().to_list())
    cells = own.filter((pl.col("step") == step) & (pl.col("metric") == column.metric))
    valid = cells.filter(pl.col("value").is_not_nan() & pl.col("value").is_not_null())
    if valid.is_empty():
        return None
    by_image = valid.sort("image", "seed").group_by("image", maintain_order=True)
    values = by_image.agg("value")["value"].to_list()
    skipped = cells["image"].n_unique() - len(values)
    return estimate(values, skipped=skipped)


def summary(
    frame: pl.DataFrame,
    levels: Sequence[str],
    metrics: Sequence[str] = ("aji", "pq", "dice", "miou"),
) -> pl.DataFrame:
    """Long table: dataset, level, step, metric, mean, low, high, images, seeds, skipped.

    Every level appears in every column; values that do not exist are null, never left out.
    """
    rows = []
    for dataset in frame["dataset"].unique(maintain_order=True).to_list():
        part = frame.filter(pl.col("dataset") == dataset)
        for level in levels:
            for column in columns(part, metrics):
                found = entry(part, level, column)
                values = found.as_dict() if found else {}
                rows.append(
                    {"dataset": dataset, "level": level, "step": column.step}
                    | {"metric": column.metric, **values}
                )
    numbers = dict.fromkeys(("mean", "low", "high"), pl.Float64)
    counts = dict.fromkeys(("images", "seeds", "skipped"), pl.Int64)
    names = dict.fromkeys(("dataset", "level", "step", "metric"), pl.String)
    return pl.DataFrame(rows, schema={**names, **numbers, **counts})
