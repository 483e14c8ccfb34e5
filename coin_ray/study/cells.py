"""Levels times data sets times random seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from coin_ray.data.dataset import DataSpec
from coin_ray.identity import digest
from coin_ray.pipeline.settings import Cell
from coin_ray.section import without_younger
from coin_ray.study.names import cell_name
from coin_ray.study.resolved import StudyCell


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
    settings = [config_digest(level.config) for level in levels]
    return tuple(
        StudyCell(
            level=level.label,
            labels=level.labels,
            data=spec,
            seed=seed,
            config=level.config,
            key_label=cell_name(level.label, spec.name, seed, own),
        )
        for seed in seeds
        for spec in data
        for level, own in zip(levels, settings, strict=True)
    )


def config_digest(config: Cell) -> str:
    """Digest of all settings of a configuration that identify a result; settings that a version
    adds, at their defaults, do not change it."""
    return digest(without_younger(config))
