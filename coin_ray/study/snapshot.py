"""A study as text, for another process: all that it came to, and no file to be read again."""

from __future__ import annotations

import functools
from typing import Any

from pydantic import TypeAdapter

from coin_ray.study.resolved import ResolvedStudy


@functools.cache
def _adapter() -> TypeAdapter[Any]:
    return TypeAdapter(ResolvedStudy)


def to_text(study: ResolvedStudy) -> str:
    """JSON that :func:`from_text` turns back into the same study."""
    return str(_adapter().dump_json(study, by_alias=True).decode())


def from_text(text: str) -> ResolvedStudy:
    """Inverse of :func:`to_text`. ValueError (pydantic's) for anything else, also what a version
    with other settings wrote."""
    found: ResolvedStudy = _adapter().validate_json(text)
    return found
