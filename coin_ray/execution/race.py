"""A race: after each random seed the levels that are surely worse than another one stop."""

from __future__ import annotations

from pathlib import Path

from coin_ray.execution.order import Decide
from coin_ray.report.values.by_image import values_by_image
from coin_ray.statistics.paired import aligned
from coin_ray.statistics.race import losers
from coin_ray.study.resolved import ResolvedStudy


def race(study: ResolvedStudy, runs: Path) -> Decide:
    """Leave out the losers by the study's objective, data set by data set; the baseline, which all
    are compared with in the end, stays. Looks are planned after each seed but the last."""
    first, metric = study.least_seeds, study.objective.metric
    looks = len(study.seeds) - first

    def decide(part: ResolvedStudy) -> dict[tuple[str, str], str]:
        count = len(part.seeds)
        values = values_by_image(part, runs, metric)
        found: dict[tuple[str, str], str] = {}
        for spec in study.data:
            own = {level: values.get((spec.name, level), {}) for level in part.levels}
            racing = {
                level: told for level, told in own.items() if {s for _, s in told} >= {*part.seeds}
            }
            tables = dict(zip(racing, aligned(*racing.values()), strict=True))
            lost = losers(
                tables,
                levels=len(study.levels),
                look_number=count - first + 1,
                looks=looks,
                alpha=study.stopping.alpha,
                mode=study.objective.mode,
            )
            lost.pop(study.baseline_level, None)
            found |= {
                (spec.name, level): (
                    f"lost the race after {count} random seeds: {metric} {loss.difference:+.3f} "
                    f"against {loss.rival}, p {loss.p:.2g} (limit {loss.limit:.2g})"
                )
                for level, loss in lost.items()
            }
        return found

    return decide
