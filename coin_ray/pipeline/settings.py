"""The complete configuration of a cell, one section a method: each stands beside its method."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from coin_ray.confidence.settings import Sam, Score, Select
from coin_ray.distillation.settings import Infer, Labels, Relabel, Rounds, Student
from coin_ray.imaging.settings import Instances
from coin_ray.metrics.settings import Evaluate
from coin_ray.propagation.settings import Crf, Ot, Uss
from coin_ray.section import Section, Values
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
    relabel: Relabel = Relabel()
    evaluate: Evaluate = Evaluate()


def dotted_fields(
    model: type[BaseModel] = Cell, prefix: str = ""
) -> Iterator[tuple[str, FieldInfo]]:
    """Every settable key in the study's spelling (``ot.lambda``) with its pydantic field."""
    for name, field in model.model_fields.items():
        key = prefix + (field.alias or name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from dotted_fields(field.annotation, key + ".")
        else:
            yield key, field


def flatten(config: Mapping[str, object], prefix: str = "") -> Values:
    """Nested settings under dotted keys (``ot.lambda``); lists and scalars are values."""
    flat: Values = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def nest(flat: Mapping[str, object]) -> Values:
    """Inverse of :func:`flatten`."""
    nested: Values = {}
    for key, value in flat.items():
        *sections, name = key.split(".")
        inner = nested
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[name] = value
    return nested
