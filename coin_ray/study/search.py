"""Configurations that a search proposes, as levels and cells of its study. Pure: no sampler here.

A sampler asks for the dimensions in order, skipping those that are not ``wanted``, and hands over
what it drew, dotted key -> value. Numbers are rounded to what a label shows, so that a label says
all there is to a configuration and two proposals that round to the same are one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from coin_ray.pipeline.settings import Cell, flatten, nest
from coin_ray.study.cells import Level, make_cells
from coin_ray.study.resolved import Dimension, ResolvedStudy, Search, StudyCell

DIGITS = 4
"""Significant digits of a proposed number."""
MOST_LISTED = 10_000
"""Configurations of a space that are counted one by one: a few seconds."""


def proposal(
    study: ResolvedStudy, values: Mapping[str, Any], *, repeated: bool = False
) -> tuple[StudyCell, ...]:
    """The cells of one proposed configuration, by seed and data set; the baseline's if it comes to
    that. ``values`` has every dimension that is wanted; others are left alone. ``repeated``: also
    those that only the best trials come to."""
    seeds = study.seeds if repeated else trial_seeds(study)
    return make_cells([_level(study, values)], study.data, seeds)


def trial_seeds(study: ResolvedStudy) -> tuple[int, ...]:
    """The random seeds that every trial is run with."""
    repeats = study.search is not None and study.search.repeats is not None
    return study.seeds[:1] if repeats else study.seeds


def with_trials(study: ResolvedStudy, assignments: Sequence[Mapping[str, Any]]) -> ResolvedStudy:
    """The study with the levels and cells of proposed configurations behind those it has (the
    baseline first); configurations that come to the same are one."""
    levels = {cell.config: Level(cell.level, cell.labels, cell.config) for cell in study.cells}
    patches = dict(study.patches)
    for values in assignments:
        level = _level(study, values)
        if levels.setdefault(level.config, level) is level:
            patches[level.label] = active(study, values)
    return replace(
        study,
        levels=tuple(level.label for level in levels.values()),
        cells=make_cells(list(levels.values()), study.data, study.seeds),
        patches=patches,
    )


def active(study: ResolvedStudy, values: Mapping[str, Any]) -> dict[str, Any]:
    """What counts of ``values``: dimensions whose ``when`` holds and that ``--set`` does not fix,
    numbers rounded. Raises KeyError for one that is missing."""
    assert study.search is not None
    current = settings_of(study.configuration(study.baseline_level))
    found = {}
    for dimension in study.search.space:
        if dimension.key not in study.overrides and wanted(dimension, current):
            value = _rounded(dimension, values[dimension.key])
            found[dimension.key] = current[dimension.key] = value
    return found


def wanted(dimension: Dimension, settings: Mapping[str, Any]) -> bool:
    """True if the ``when`` of a dimension holds for complete ``settings``, dotted key -> value."""
    return all(
        any(_listed(settings[key]) == _listed(value) for value in allowed)
        for key, allowed in dimension.when.items()
    )


def listed(dimension: Dimension) -> int:
    """How many values the list or the whole numbers of a dimension have."""
    if dimension.kind != "int":
        return len(dimension.values)
    low, high = dimension.values
    return int((high - low) // dimension.step + 1)


def most_trials(search: Search, base: Cell, fixed: Container[str]) -> int:
    """How many trials a search comes to: as many as it asks for, or as its space has configurations
    beside the baseline's, ``base``, if these are fewer. A ``when`` that does not hold, settings
    that do not go together and keys that are ``fixed`` leave fewer than the lists combine to.
    """
    free = [dimension for dimension in search.space if dimension.key not in fixed]
    endless = any(dimension.kind in ("log", "lin") for dimension in free)
    if endless or math.prod(map(listed, free)) > MOST_LISTED:
        return search.trials
    settings, known = settings_of(base), {base}
    for values in _combinations(free, settings):
        try:
            known.add(_configured(settings, values))
        except ValidationError:
            continue
        if len(known) > search.trials:
            return search.trials
    return len(known) - 1


def _combinations(
    space: Sequence[Dimension], settings: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    if not space:
        yield {}
        return
    first, rest = space[0], space[1:]
    if not wanted(first, settings):
        yield from _combinations(rest, settings)
        return
    values = first.values
    if first.kind == "int":
        values = tuple(range(values[0], values[1] + 1, first.step))
    for value in values:
        for others in _combinations(rest, {**settings, first.key: value}):
            yield {first.key: value, **others}


def settings_of(config: Cell) -> dict[str, Any]:
    """Every setting of a configuration, dotted key -> plain value."""
    return flatten(config.model_dump(mode="json", by_alias=True))


def baseline_labels(search: Search, config: Cell) -> dict[str, str]:
    """The values of the baseline under the keys of a search that are wanted there."""
    settings = settings_of(config)
    return {d.key: _text(settings[d.key]) for d in search.space if wanted(d, settings)}


def _level(study: ResolvedStudy, values: Mapping[str, Any]) -> Level:
    base = study.configuration(study.baseline_level)
    patch = active(study, values)
    config = _configured(settings_of(base), patch)
    labels = {key: _text(value) for key, value in patch.items()}
    label = ", ".join(f"{key} {text}" for key, text in labels.items())
    return Level(study.baseline_level if config == base else label, labels, config)


def _configured(settings: Mapping[str, Any], patch: Mapping[str, Any]) -> Cell:
    """Raises ValidationError for settings that do not go together."""
    return Cell.model_validate_json(json.dumps(nest({**settings, **patch})))


def _rounded(dimension: Dimension, value: Any) -> Any:
    if dimension.kind == "any":
        return value
    if dimension.kind == "int":
        return int(value)
    low, high = dimension.values
    return min(max(float(f"{value:.{DIGITS}g}"), low), high)


def _text(value: Any) -> str:
    """As it would be written in a study."""
    return value if isinstance(value, str) else json.dumps(value)


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]
