"""Options of data set modules."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from coin_ray.data.sample import Sample
from coin_ray.errors import UserError


def find_with(
    find: Callable[..., list[Sample]], path: Path, options: Mapping[str, Any]
) -> list[Sample]:
    """Call a module's ``find`` with a user's options; UserError for one that it does not have."""
    known = [name for name in inspect.signature(find).parameters if name != "path"]
    for name in options:
        if name not in known:
            raise UserError(
                f"no option {name!r} for this data set",
                expected=", ".join(known) or "none",
                found=", ".join(options),
            )
    return find(path, **options)


def chosen(option: str, value: str, allowed: tuple[str, ...]) -> str:
    """``value``, if it is one of the ``allowed``; UserError else."""
    if value not in allowed:
        raise UserError(f"unknown {option}", expected=", ".join(allowed), found=value)
    return value
