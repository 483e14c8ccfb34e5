"""Which trials of a search are run again with further random seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from coin_ray.study.resolved import ResolvedStudy, StudyCell
from coin_ray.study.search import trial_seeds


@dataclass(frozen=True)
class Repeats:
    """``chosen``: cells of the best trials with the further random seeds, ``left``: those of the
    others; ``what`` that is and ``why`` they are left, in words."""

    chosen: Sequence[StudyCell]
    left: Sequence[StudyCell]
    what: str
    why: str


def best_trials(
    study: ResolvedStudy, value: Callable[[Sequence[StudyCell]], float | None]
) -> Repeats:
    """By the ``value`` of their cells with the seeds that every trial has; a trial that failed has
    none and is not among them. ``study`` has its trials as levels."""
    assert study.search is not None and study.search.repeats is not None
    first = trial_seeds(study)
    cells = [cell for cell in study.cells if cell.level != study.baseline_level]
    values = {
        level: value([c for c in cells if c.level == level and c.seed in first])
        for level in dict.fromkeys(cell.level for cell in cells)
    }
    known = {level: found for level, found in values.items() if found is not None}
    sign = -1 if study.objective.mode == "max" else 1
    best = sorted(known, key=lambda level: sign * known[level])[: study.search.repeats]
    further = [cell for cell in cells if cell.seed not in first]
    more = len(study.seeds) - len(first)
    return Repeats(
        [cell for cell in further if cell.level in best],
        [cell for cell in further if cell.level not in best],
        f"the best {len(best)} of {len(values)} trials with {more} further random seeds",
        f"not among the best {len(best)} trials with the first random seed",
    )
