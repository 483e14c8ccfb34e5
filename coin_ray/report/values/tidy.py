"""The per-image values of a study, and how metrics and steps are called and ordered.

Everything is computed from one tidy table (``SCHEMA``): a row is one metric of one image at one
step of one cell. Nothing is averaged before it gets here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from coin_ray.pipeline.refs import STEPS

SCHEMA = {
    **dict.fromkeys(("study", "cell", "level", "dataset", "image"), pl.String),
    "seed": pl.Int64,
    **dict.fromkeys(("step", "metric"), pl.String),
    "value": pl.Float64,
}
"""Columns of the tidy table; ``step`` is ucis, step1, pseudo_labels, round_1 .. round_R, final."""

TITLES = {
    "aji": "AJI", "aji_plus": "AJI+", "pq": "PQ", "sq": "SQ", "dq": "DQ", "dice": "Dice",
    "iou": "IoU (fg)", "miou": "mIoU", "fn": "FN", "fp": "FP", "n_true": "nuclei",
    "n_predicted": "found",
}  # fmt: skip
_PARTS = {"adj": "adjacent", "nonadj": "non-adjacent", "official": "official"}
_STEP_TITLES = {step: words for words, step in STEPS.items()}
FINAL = "final"


@dataclass(frozen=True)
class Column:
    """One column: ``step`` is a step of the tidy table or ``final``, the last one of each level."""

    step: str
    metric: str

    @property
    def title(self) -> str:
        """Such as ``AJI round 2``, or the bare metric for the end of the chain."""
        metric = metric_title(self.metric)
        if self.step == FINAL:
            return metric
        return f"{metric} {_STEP_TITLES.get(self.step, self.step.replace('_', ' '))}"


def metric_title(metric: str) -> str:
    """Such as ``AJI``, ``AJI (adjacent)`` or ``AJI (official)``."""
    part, _, rest = metric.partition("_")
    if metric not in TITLES and part in _PARTS:
        return f"{TITLES.get(rest, rest)} ({_PARTS[part]})"
    return TITLES.get(metric, metric.replace("_", " "))


def tidy(rows: Sequence[Mapping[str, object]], **same: object) -> pl.DataFrame:
    """Rows as a tidy table with the columns and types of ``SCHEMA``, and what is the ``same`` for
    all of them; KeyError for a missing one."""
    each = {name: [row[name] for row in rows] for name in SCHEMA if name not in same}
    found = pl.DataFrame(each, schema={name: SCHEMA[name] for name in each})
    alike = [pl.lit(value, dtype=SCHEMA[name]).alias(name) for name, value in same.items()]
    return found.with_columns(alike).select(*SCHEMA)


def final_step(steps: Sequence[str]) -> str:
    """The end of a chain among the steps that were evaluated: final, else the last round, else the
    instances of step 1 (no round was trained)."""
    if FINAL in steps:
        return FINAL
    last = max(steps, key=round_of, default="step1")
    return last if round_of(last) > 0 else "step1"


def at_end(frame: pl.DataFrame) -> pl.DataFrame:
    """The rows of every cell at the end of its chain."""
    steps = frame.group_by("cell", maintain_order=True).agg(pl.col("step").unique())
    ends = [(cell, final_step(own)) for cell, own in steps.iter_rows()]
    names = {"cell": pl.String, "step": pl.String}
    return frame.join(pl.DataFrame(ends, schema=names, orient="row"), on=list(names), how="semi")


def columns(
    frame: pl.DataFrame, metrics: Sequence[str], wanted: Sequence[str] = ()
) -> list[Column]:
    """Each of ``metrics`` at the ``wanted`` steps and at the end; where none is named, the AJI of
    every step, then ``metrics`` at the end.

    The AJI at the end stands on its own where the last step is not the end of every level: the
    last column of a metric is always its end.
    """
    if wanted:
        steps = [*(step for step in wanted if step != FINAL), FINAL]
        return [Column(step, metric) for metric in metrics for step in steps]
    steps = frame["step"].unique().to_list()
    known = [step for step in (*_STEP_TITLES,) if step in steps]
    rounds = sorted((step for step in steps if round_of(step) > 0), key=round_of)
    found = [Column(step, "aji") for step in [*known, *rounds]]
    own = frame.group_by("level").agg(pl.col("step").unique())["step"]
    ends = {final_step(steps) for steps in own.to_list()}
    last = {column.step for column in found[-1:]}  # pseudo labels come after step 1, without rounds
    return found + [Column(FINAL, m) for m in metrics if m != "aji" or ends != last]


def round_of(step: str) -> int:
    """The round behind a step of the chain, 0 before the first; -1 for what is none's."""
    if step == "step1":
        return 0
    match = re.fullmatch(r"round_(\d+)", step)
    return int(match.group(1)) if match else -1


def measured(frame: pl.DataFrame) -> pl.DataFrame:
    """The rows that have a value: an image that is empty in truth and prediction has none."""
    return frame.filter(pl.col("value").is_not_nan() & pl.col("value").is_not_null())


def by_metric(frame: pl.DataFrame) -> dict[str, dict[tuple[str, int], float]]:
    """Metric -> (image, random seed) -> value, of one level on one data set at one step."""
    parts = measured(frame).partition_by("metric", as_dict=True)
    return {
        metric: dict(zip(zip(own["image"], own["seed"], strict=True), own["value"], strict=True))
        for (metric,), own in parts.items()
    }
