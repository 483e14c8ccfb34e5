"""A section of a configuration: a frozen model that refuses unknown keys.

A field is part of a stage's identity unless it is marked runtime: a runtime field (device, batch,
workers) changes how fast a result comes, never which result, and never enters a key.
"""

from __future__ import annotations

import functools
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0, le=1e6)]
NotNegative = Annotated[float, Field(ge=0.0, le=1e6)]
Scale = Annotated[float, Field(ge=0.01, le=32.0)]
"""By which an image is enlarged."""
Iterations = Annotated[int, Field(ge=1, le=100_000_000)]
Pixels = Annotated[int, Field(ge=0, le=1_000_000_000)]
"""An area."""
Radius = Annotated[int, Field(ge=0, le=200)]
"""Of a disk, px: an operation's work grows with its square."""
Sigma = Annotated[float, Field(gt=0.0, le=1000.0)]
Batch = Annotated[int, Field(ge=1, le=65_536)]
LARGEST_SEED = 2**32 - 1
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]
T = TypeVar("T")
Values = dict[str, Any]
"""Plain JSON values by name."""
OneOrMore = Annotated[
    tuple[T, ...], Field(min_length=1, max_length=1000), BeforeValidator(lambda v: _listed(v))
]
"""A list; a single value stands for a list of one."""
ZeroOrMore = Annotated[tuple[T, ...], Field(max_length=1000), BeforeValidator(lambda v: _listed(v))]
"""The same, and it may be empty."""


def _listed(value: Any) -> Any:
    # A tuple even for a list: strict validation, which studies get, takes nothing else for one.
    return tuple(value) if isinstance(value, list | tuple) else (value,)


YOUNGER: Values = {"younger": True}
"""Marks a setting that version 0.2.0 had not: at its default, which means what was done before and
never changes, it adds nothing to the name of a cell."""


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


def is_runtime(field: Any) -> bool:
    """True if a field changes speed only."""
    return _marked(field, "runtime")


def _marked(field: Any, mark: str) -> bool:
    extra = field.json_schema_extra
    return isinstance(extra, dict) and bool(extra.get(mark))


def identity(section: Section, fields: tuple[str, ...] | None = None) -> Values:
    """The values of a section that identify a result, under the study's names; ``fields``
    narrows."""
    return dict(_identity(section, fields))


def without_younger(section: Section) -> Values:
    """Its :func:`identity` without the younger settings that are at their defaults: as a version
    had it that did not know them, so that what it finished is found again."""
    found = identity(section)
    for name, field in type(section).model_fields.items():
        key, value = field.alias or name, getattr(section, name)
        if _marked(field, "younger") and value == field.default:
            del found[key]
        elif isinstance(value, Section):
            found[key] = without_younger(value)
    return found


@functools.lru_cache(maxsize=4096)  # a plan of a thousand cells asks for the same few sections
def _identity(section: Section, fields: tuple[str, ...] | None) -> Values:
    found = section.model_dump(mode="json", by_alias=True)
    for name, field in type(section).model_fields.items():
        key, value = field.alias or name, getattr(section, name)
        if is_runtime(field) or (fields is not None and key not in fields):
            del found[key]
        elif isinstance(value, Section):
            found[key] = identity(value)
    return found
