"""How well an objective that reads no labels ranks the cells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from coin_ray.report.values.tidy import at_end
from coin_ray.statistics.objective import spearman

CORRELATION_SCHEMA = {
    "dataset": pl.String,
    "metric": pl.String,
    "cells": pl.Int64,
    "rho": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "reason": pl.String,
}
"""Columns of ``rank_correlation``: Spearman's rho over cells with its bootstrap interval."""


def rank_correlation(
    objective: Mapping[str, float], frame: pl.DataFrame, metric: str = "aji"
) -> pl.DataFrame:
    """How well an objective without labels ranks cells: Spearman's rho per data set
    (``CORRELATION_SCHEMA``) between ``objective`` (cell label -> value) and the cell's mean of
    ``metric`` over images at the end of its chain. Data sets are not mixed: one is harder than
    another, which is no merit of the objective."""
    valid = at_end(frame).filter(
        (pl.col("metric") == metric) & pl.col("value").is_not_nan() & pl.col("value").is_not_null()
    )
    rows = []
    for (dataset,), part in valid.group_by("dataset", maintain_order=True):
        means = part.group_by("cell", maintain_order=True).agg(pl.col("value").mean())
        pairs = [
            (objective[cell], mean)
            for cell, mean in means.iter_rows()
            if not np.isnan(objective.get(cell, np.nan))
        ]
        row: dict[str, Any] = {"dataset": dataset, "metric": metric, "cells": len(pairs)}
        found = spearman([x for x, _ in pairs], [y for _, y in pairs])
        if found is not None:
            row |= {"rho": found.rho, "low": found.low, "high": found.high}
        elif len(pairs) < 3:
            row["reason"] = "fewer than three cells"
        else:
            row["reason"] = "all cells have the same value"
        rows.append(row)
    return pl.DataFrame(rows, schema=CORRELATION_SCHEMA)
