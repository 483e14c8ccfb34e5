"""The data sets that coin-ray knows, one module each."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from coin_ray.data.card import Known
from coin_ray.data.sample import Sample
from coin_ray.errors import UserError

NAMES = ("monuseg", "tnbc", "cpm17", "cryonuseg", "pannuke", "brca", "coin_layout", "imagescope")
"""Also the order in which a folder is tried."""


def get(name: str) -> Known:
    """The module of a data set by its name, in any case and with or without dashes."""
    key = name.lower().replace("-", "").replace("_", "")
    for known in NAMES:
        if known.replace("_", "") == key:
            return cast(Known, import_module(f"coin_ray.data.{known}"))
    raise UserError(
        "unknown data set",
        where=name,
        expected=", ".join(NAMES),
        do="use a plain folder of images, or one of these names",
    )


def detect(path: Path) -> Known | None:
    """The data set that a folder holds, as its owners ship it; None for any other folder."""
    return next((d for d in map(get, NAMES) if path.is_dir() and d.detect(path)), None)


def find_with(known: Known, path: Path, options: Mapping[str, Any]) -> list[Sample]:
    """The samples that a data set finds with a user's options; UserError for one that it does not
    have."""
    names = [name for name in inspect.signature(known.find).parameters if name != "path"]
    for name in options:
        if name not in names:
            raise UserError(
                f"no option {name!r} for this data set",
                expected=", ".join(names) or "none",
                found=", ".join(options),
            )
    return known.find(path, **options)
