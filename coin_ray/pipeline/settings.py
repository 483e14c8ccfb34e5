"""The complete configuration of a cell, one section a method: each stands beside its method."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from coin_ray.confidence.settings import Sam, Score, Select
from coin_ray.distillation.settings import Infer, Labels, Rounds, Student
from coin_ray.imaging.settings import Instances
from coin_ray.metrics.settings import Evaluate
from coin_ray.propagation.settings import Crf, Ot, Uss
from coin_ray.section import Section
from coin_ray.ucis.settings import Ucis


class Cell(Section):
    """One complete configuration."""

    ucis: Ucis = Ucis()
    uss: Uss = Uss()
    ot: Ot = Ot()
    crf: Crf = Crf()
    instances: Instances = Instances()
    sam: Sam = Sam()
    score: Score = Score()
    select: Select = Select()
    labels: Labels = Labels()
    student: Student = Student()
    rounds: Rounds = Rounds()
    infer: Infer = Infer()
    evaluate: Evaluate = Evaluate()


def dotted_fields(model: type[BaseModel] = Cell, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every settable key in the study's spelling (``ot.lambda``) with its pydantic field."""
    for name, field in model.model_fields.items():
        key = prefix + (field.alias or name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from dotted_fields(field.annotation, key + ".")
        else:
            yield key, field


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under dotted keys (``ot.lambda``); lists and scalars are values."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Inverse of :func:`flatten`."""
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *sections, name = key.split(".")
        inner = nested
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[name] = value
    return nested
