"""What a line of a journal has to be before anything believes it: a journal may come from
elsewhere, and may be damaged."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from coin_ray.events.events import Count, Event, from_json
from coin_ray.events.tracked import LONGEST
from coin_ray.tracking.journal import read_lines


@dataclass(frozen=True)
class Lines:
    """Part of a journal: its events, its bad lines as ``line <number>: <what is wrong>``, and the
    offset and number of the line to go on from."""

    rows: list[dict[str, Any]]
    bad: list[str]
    offset: int
    number: int


@dataclass(frozen=True)
class _Envelope:
    """What every line has besides its event: ``time`` in ms since 1970, ``run`` the identity of a
    cell's run."""

    time: Annotated[Count, Field(ge=0)]
    run: Annotated[str, Field(max_length=LONGEST)] = ""
    cell: str = ""


@functools.cache
def _envelope() -> TypeAdapter[_Envelope]:
    return TypeAdapter(_Envelope)


def read_checked(path: Path, offset: int = 0, number: int = 0) -> Lines:
    """The events of a journal that are what they should be; kinds of a later version included.

    Starts at byte ``offset``, after ``number`` lines. OSError if the file cannot be read.
    """
    found, offset = read_lines(path, offset)
    rows, bad = [], []
    for row in found:
        number += 1
        fault = row if isinstance(row, str) else line_fault(row)
        if fault:
            bad.append(f"line {number}: {fault}")
        elif not isinstance(row, str) and row:
            rows.append(row)
    return Lines(rows, bad, offset, number)


def line_fault(row: Mapping[str, Any]) -> str:
    """What is wrong with a journal line (a JSON object), by the declaration of its event; empty if
    nothing is."""
    if not row:
        return ""
    try:
        json.dumps(row, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        return "it holds text that is no Unicode"
    except ValueError:
        return "it holds a number that is not finite"
    if not isinstance(row.get("event"), str):
        return "it names no event"
    try:
        _envelope().validate_python(row)
        if row["event"] in Event.KINDS:
            from_json(row)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        wrong = "is missing" if first["type"] == "missing" else "cannot be used"
        return f"its {first['loc'][0]!r} {wrong}"
    return ""
