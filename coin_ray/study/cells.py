"""Levels times data sets times random seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from coin_ray.pipeline.settings import Cell
from coin_ray.study.names import unique_slugs
from coin_ray.study.resolved import DataSpec, StudyCell


@dataclass(frozen=True)
class Level:
    """A row of the result table: its label, the level of every factor, its configuration."""

    label: str
    labels: Mapping[str, str]
    config: Cell


def make_cells(
    levels: Sequence[Level], data: Sequence[DataSpec], seeds: Sequence[int]
) -> tuple[StudyCell, ...]:
    """Seeds outermost: every level gets its first seed before any gets a second."""
    slugs = unique_slugs([level.label for level in levels])
    data_slugs = unique_slugs([spec.name for spec in data])
    return tuple(
        StudyCell(
            level=level.label,
            labels=level.labels,
            data=spec,
            seed=seed,
            config=level.config,
            key_label=f"{slug}--{data_slug}--s{seed}",
        )
        for seed in seeds
        for spec, data_slug in zip(data, data_slugs, strict=True)
        for level, slug in zip(levels, slugs, strict=True)
    )
