"""Performance profiles: the share of images above every value."""

from __future__ import annotations

import itertools

import numpy as np
import polars as pl

from coin_ray.report.values.ends import ends
from coin_ray.statistics.paired import aligned
from coin_ray.study.resolved import ResolvedStudy

PROFILE_SCHEMA = {
    "dataset": pl.String,
    "level": pl.String,
    "metric": pl.String,
    "threshold": pl.Float64,
    "share": pl.Float64,
}
"""Columns of ``performance_profile``: ``share`` of the images lies above ``threshold``."""


def performance_profile(frame: pl.DataFrame, study: ResolvedStudy) -> pl.DataFrame:
    """Share of images above every value (``PROFILE_SCHEMA``), from the means over seeds at the end
    of the chain: a step down at each image's value, from 1 at threshold 0."""
    found = ends(frame, study)
    rows = []
    for spec, level, metric in itertools.product(study.data, study.levels, study.report):
        values = found[spec.name, level].values.get(metric)
        if not values:
            continue
        by_image = np.nanmean(aligned(values)[0], axis=1)
        thresholds = np.unique([0.0, *by_image])
        shares = (by_image > thresholds[:, None]).mean(axis=1)
        rows += [
            {"dataset": spec.name, "level": level, "metric": metric, "threshold": x, "share": y}
            for x, y in zip(thresholds.tolist(), shares.tolist(), strict=True)
        ]
    return pl.DataFrame(rows, schema=PROFILE_SCHEMA)
