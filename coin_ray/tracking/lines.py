"""What a line of a journal has to be before anything believes it: a journal may come from
elsewhere, and may be damaged."""

from __future__ import annotations

import functools
import json
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from coin_ray.events.events import Count, Event, from_json
from coin_ray.events.tracked import LONGEST
from coin_ray.tracking.journal import read_lines


@dataclass(frozen=True)
class Line:
    """``time`` in ms since 1970; ``run``: the identity of a cell's run, empty for the study's own;
    ``event``: None for a kind of a later version."""

    time: Annotated[Count, Field(ge=0)]
    run: Annotated[str, Field(max_length=LONGEST)] = ""
    event: Event | None = None


@dataclass(frozen=True)
class Lines:
    """Part of a journal: its lines that are what they should be, the bad ones as ``line <number>:
    <what is wrong>``, and the offset and number of the line to go on from."""

    good: list[Line]
    bad: list[str]
    offset: int
    number: int


@functools.cache
def _envelope() -> TypeAdapter[Line]:
    return TypeAdapter(Line)


def read_checked(
    path: Path,
    offset: int = 0,
    number: int = 0,
    *,
    skip: Container[str] = (),
    most: int | None = None,
) -> Lines:
    """The lines of a journal from byte ``offset`` on, after ``number`` lines and ``most`` of them,
    but for events of kinds to ``skip``. OSError if the file cannot be read."""
    found, offset = read_lines(path, offset, skip, most)
    good, bad = [], []
    for number, row in enumerate(found, number + 1):  # noqa: B020  (it is told from here on)
        if row:
            try:
                good.append(parsed(row))
            except ValueError as error:
                bad.append(f"line {number}: {error}")
    return Lines(good, bad, offset, number)


def parsed(row: Mapping[str, Any] | str) -> Line:
    """A journal line (a JSON object, or in words what it is instead), held to the declaration of
    its event. ValueError says what is wrong with it."""
    if isinstance(row, str):
        raise ValueError(row)
    try:
        json.dumps(row, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError("it holds text that is no Unicode") from error
    except ValueError as error:
        raise ValueError("it holds a number that is not finite") from error
    if not isinstance(row.get("event"), str):
        raise ValueError("it names no event")
    try:
        event = from_json(row) if row["event"] in Event.KINDS else None
        return _envelope().validate_python({**row, "event": event})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        wrong = "is missing" if first["type"] == "missing" else "cannot be used"
        raise ValueError(f"its {first['loc'][0]!r} {wrong}") from error
