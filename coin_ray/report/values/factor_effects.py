"""What each factor gives. An effect that cannot be computed is null with a ``reason``."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from coin_ray.report.values.ends import Ends, bounds, ends, few_notes
from coin_ray.statistics.effects import Effect, effects
from coin_ray.statistics.intervals import estimate
from coin_ray.statistics.paired import Values, aligned
from coin_ray.study.resolved import ResolvedStudy

EFFECTS_SCHEMA = {
    **dict.fromkeys(("dataset", "metric", "kind", "factor", "level", "other"), pl.String),
    **dict.fromkeys(("effect", "low", "high", "share"), pl.Float64),
    **dict.fromkeys(("images", "seeds"), pl.Int64),
    **dict.fromkeys(("reason", "caution"), pl.String),
}
"""Columns of ``factor_effects``.

* ``kind``: ``main`` (mean change when ``factor`` goes from its baseline to ``level``, over all
  combinations of the others), ``interaction`` (of ``factor`` and ``other``), ``shapley`` (the
  factor's part of the gain from all at baseline to all changed; ``share`` is the fraction),
  ``total`` (that gain), ``step`` (a rung of a ladder), ``difference`` (one factor changed, the
  others at baseline).
* ``effect``, ``low``, ``high``: formed on every image and random seed that all rows behind it
  have, then averaged, with the bootstrap interval.
* ``caution``: also the aliases of a fractional design, and that a ladder depends on its order.
"""


def factor_effects(
    frame: pl.DataFrame, study: ResolvedStudy, ended: Ends | None = None
) -> pl.DataFrame:
    """What each factor gives (``EFFECTS_SCHEMA``): one row per data set, metric of ``study.report``
    and effect that the design of the study can tell; no row for a search."""
    labels = {cell.level: cell.labels for cell in study.cells}
    base = labels[study.baseline_level]
    # Masks made elsewhere are no combination of the factors.
    rows_of = [level for level in study.levels if labels[level].keys() == base.keys()]
    terms = effects(study.design, [labels[level] for level in rows_of], base)
    found = ended or ends(frame, study)
    rows: list[dict[str, Any]] = []
    for spec, metric in itertools.product(study.data, study.report):
        values = {level: found[spec.name, level].values.get(metric, {}) for level in rows_of}
        block = [_effect(term, values, study.analysis.confidence) for term in terms]
        shapley = [r["effect"] for r in block if r["kind"] == "shapley" and "effect" in r]
        for row in block:
            if row["kind"] == "shapley" and shapley and sum(shapley):
                row["share"] = row["effect"] / sum(shapley)
        rows += [{"dataset": spec.name, "metric": metric} | row for row in block]
    return pl.DataFrame(rows, schema=EFFECTS_SCHEMA)


def _effect(term: Effect, values: Mapping[str, Values], confidence: float) -> dict[str, Any]:
    row: dict[str, Any] = {
        "kind": term.kind,
        "factor": term.factor,
        "level": term.level,
        "other": term.other,
    }
    own = {
        level: (weight, values[level])
        for level, weight in zip(values, term.weights, strict=True)
        if weight
    }
    lacking = [level for level, (_, found) in own.items() if not found]
    if lacking:
        return row | {"reason": f"missing: {', '.join(lacking)}"}
    tables = aligned(*(found for _, found in own.values()))
    each: NDArray[np.float64] = sum(
        (weight * table for (weight, _), table in zip(own.values(), tables, strict=True)),
        start=np.zeros_like(tables[0]),
    )
    shared = each[~np.isnan(each).all(axis=1)]
    if not len(shared):
        return row | {"reason": "no image and random seed that all have"}
    result = estimate(shared, confidence=confidence)
    seeds = {frozenset(seed for _, seed in found) for _, found in own.values()}
    cautions = [*([term.caution] if term.caution else []), *few_notes(result)]
    if len(seeds) > 1:
        cautions.append("the random seeds differ: over those that all have")
    caution = "; ".join(cautions) or None
    return row | {"effect": result.mean, **bounds(result), "caution": caution}
