"""Where each level's chain ended, as values by image and random seed, and what is missing."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from coin_ray.report.values.tidy import at_end, by_metric
from coin_ray.statistics.intervals import FEW_IMAGES, Estimate
from coin_ray.statistics.paired import Values, aligned
from coin_ray.study.resolved import ResolvedStudy, StudyCell

DECIDED = ("decided after", "lost the race after", "futile after")
"""How reasons begin for which a level gets no further random seeds: something is known of it."""


@dataclass(frozen=True)
class End:
    """One level on one data set. ``values``: metric -> (image, seed) -> value at the ``step`` at
    which its cells ended, NaN left out. ``names``: the labelled images. ``missing`` names
    the random seeds without a finished cell; ``decided``: it has so few of them because it was
    decided (``DECIDED``) by those that it has; ``early`` says that the chain is shorter than asked
    for."""

    step: str | None
    values: Mapping[str, Values]
    names: frozenset[str]
    missing: tuple[int, ...]
    decided: bool
    early: str | None

    @property
    def images(self) -> int:
        return len(self.names)

    def seeds(self, metric: str) -> set[int]:
        """The random seeds with a value."""
        return {seed for _, seed in self.values.get(metric, {})}


Ends = Mapping[tuple[str, str], End]
"""(data set, level) -> its end."""


def ends(
    frame: pl.DataFrame, study: ResolvedStudy, causes: Mapping[str, str] | None = None
) -> Ends:
    """The ends of all of a study, from its tidy table; ``causes`` says of a cell (its label) why
    the last sweep left it out, or that it failed.

    A cell that is meant to be distilled and was not counts as missing.
    """
    cells: dict[tuple[str, str], list[StudyCell]] = {}
    for cell in study.cells:
        cells.setdefault((cell.data.name, cell.level), []).append(cell)
    distilled = [cell.key_label for cell in study.cells if cell.config.rounds.count]
    undone = (pl.col("step") == "step1") & pl.col("cell").is_in(distilled)
    parts = at_end(frame).filter(~undone).partition_by("dataset", "level", as_dict=True)
    nothing = frame.clear()
    return {
        who: _end(parts.get(who, nothing), cells.get(who, []), study.seeds, causes or {})
        for who in itertools.product((spec.name for spec in study.data), study.levels)
    }


def _end(
    part: pl.DataFrame,
    cells: Sequence[StudyCell],
    seeds: Sequence[int],
    causes: Mapping[str, str],
) -> End:
    done = set(part["seed"])
    lacking = [c for c in cells if c.seed not in done]
    missing = tuple(sorted(c.seed for c in lacking))
    if part.is_empty():
        return End(None, {}, frozenset(), missing, False, None)
    # A study that is still run holds no cell of the seeds that a level gets no more.
    fewer = not done.issuperset(seeds)
    decided = fewer and all(causes.get(c.key_label, "").startswith(DECIDED) for c in lacking)
    step = ", ".join(sorted(set(part["step"])))
    rounds = max(c.config.rounds.count for c in cells)
    short = rounds > 0 and step not in (f"round_{rounds}", "final")
    early = f"ended at {step} of {rounds}" if short else None
    return End(step, by_metric(part), frozenset(part["image"]), missing, decided, early)


def performance_profile(values: Values) -> tuple[list[float], list[float]]:
    """Thresholds and the share of images above each, from the means over random seeds: a step down
    at each image's value, from 1 at threshold 0."""
    by_image = np.nanmean(aligned(values)[0], axis=1)
    thresholds = np.unique([0.0, *by_image])
    return thresholds.tolist(), (by_image > thresholds[:, None]).mean(axis=1).tolist()


def bounds(found: Estimate, *more: str) -> dict[str, Any]:
    """The columns of an interval, and ``more`` of its fields."""
    return {name: getattr(found, name) for name in ("low", "high", "images", "seeds", *more)}


def few_notes(found: Estimate) -> list[str]:
    """What to know when reading an interval."""
    out = []
    if found.images < FEW_IMAGES:
        out.append(f"{found.images} images, fewer than {FEW_IMAGES}: intervals are approximate")
    if found.seeds == 1:
        out.append("one random seed: nothing is known of another training")
    return out
