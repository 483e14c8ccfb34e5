"""The values behind a table of ceilings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from coin_ray.errors import UserError
from coin_ray.pipeline.oracles import TITLES
from coin_ray.report.values.tidy import FINAL, at_end, by_metric, columns, measured
from coin_ray.statistics.headroom import Headroom, headroom
from coin_ray.statistics.intervals import Estimate, estimate
from coin_ray.statistics.paired import aligned
from coin_ray.study.errors import nearest
from coin_ray.study.metrics import METRICS, mode
from coin_ray.study.resolved import ResolvedStudy

PIPELINE = "pipeline"
USES_LABELS = "uses the labels: a ceiling, never a result"


@dataclass(frozen=True)
class Ceilings:
    """``frame``: per-image values of the pipeline and of every oracle (``level``: "pipeline" or the
    oracle's name); ``failed``: oracle -> why it has none."""

    study: ResolvedStudy
    level: str
    metric: str
    frame: pl.DataFrame
    failed: Mapping[str, str]

    @property
    def steps(self) -> list[str]:
        """The steps on the way that were measured, in the chain's order."""
        found = columns(self.frame, ())
        return [column.step for column in found if column.step != FINAL]


@dataclass(frozen=True)
class Line:
    """A row: an oracle (or the pipeline), the mean at each step and the end, and its headroom (None
    for the pipeline)."""

    name: str
    by_step: Mapping[str, float]
    end: Estimate
    headroom: Headroom | None

    @property
    def title(self) -> str:
        """What the oracle knows."""
        return TITLES.get(self.name, self.name)


def lines(found: Ceilings, dataset: str) -> list[Line]:
    """The pipeline, then the oracles in the chain's order."""
    own = found.frame.filter(dataset=dataset, metric=found.metric)
    ends = at_end(own)
    level = by_metric(ends.filter(level=PIPELINE)).get(found.metric, {})
    confidence, out = found.study.analysis.confidence, []
    for name in (PIPELINE, *TITLES):
        values = by_metric(ends.filter(level=name)).get(found.metric, {})
        if not values:
            continue
        ceiling, base = aligned(values, level)
        room = None if name == PIPELINE else headroom(ceiling, base, confidence=confidence)
        means = measured(own.filter(level=name)).group_by("step").agg(pl.col("value").mean())
        end = estimate(aligned(values)[0], confidence=confidence)
        out.append(Line(name, dict(means.iter_rows()), end, room))
    return out


def rows(found: Ceilings) -> list[dict[str, Any]]:
    """The table as plain values, a row an oracle and data set; the first column says what it is."""
    out = []
    for spec in found.study.data:
        for line in lines(found, spec.name):
            room = line.headroom
            gain = None if room is None else room.gain.delta
            out.append(
                {
                    "uses_labels": line.name != PIPELINE,
                    "dataset": spec.name,
                    "level": found.level,
                    "oracle": line.name,
                    "metric": found.metric,
                    **{f"at_{step}": line.by_step.get(step) for step in found.steps},
                    "mean": line.end.mean,
                    "low": line.end.low,
                    "high": line.end.high,
                    "images": line.end.images,
                    "seeds": line.end.seeds,
                    "gain": None if gain is None else gain.mean,
                    "gain_low": None if gain is None else gain.low,
                    "gain_high": None if gain is None else gain.high,
                    "share": None if room is None else room.share,
                    "share_low": None if room is None else room.low,
                    "share_high": None if room is None else room.high,
                }
            )
    return out


def check_metric(metric: str) -> None:
    """UserError for a word that is no metric, and for one that has no best value of 1."""
    if metric not in METRICS:
        guess = nearest(metric, METRICS)
        raise UserError(
            f"{metric!r} is no metric of label maps",
            expected=", ".join(name for name in METRICS if mode(name) == "max"),
            do=f"did you mean {guess}?" if guess else "take one of these with --metric",
        )
    if mode(metric) != "max":
        raise UserError(
            f"{metric} is not 1 at best, so that there is no gap to share",
            expected="aji, pq, dice, …",
            do="take another with --metric",
        )
