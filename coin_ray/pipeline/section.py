"""A section of a configuration: a frozen model that refuses unknown keys."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
T = TypeVar("T")
OneOrMore = Annotated[tuple[T, ...], Field(min_length=1), BeforeValidator(lambda v: _listed(v))]
"""A list; a single value stands for a list of one."""


def _listed(value: Any) -> Any:
    # A tuple even for a list: strict validation, which studies get, takes nothing else for one.
    return tuple(value) if isinstance(value, list | tuple) else (value,)


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)
