"""What a line of a journal has to be before anything believes it: a journal may come from
elsewhere, and may be damaged."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coin_ray.tracking.journal import read_lines

LONGEST = 500
"""Most characters of the path of an artifact, or of a run's identity."""
_BOUND = 1e308
_COUNT = 2**53
"""Whole numbers are smaller: MLflow keeps them in 64 bits, other readers in a float."""


@dataclass(frozen=True)
class Lines:
    """Part of a journal: its events, its bad lines as ``line <number>: <what is wrong>``, and the
    offset and number of the line to go on from."""

    rows: list[dict[str, Any]]
    bad: list[str]
    offset: int
    number: int


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
    """What is wrong with a journal line (a JSON object); empty if nothing is."""
    if not row:
        return ""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return "it holds text that is no Unicode"
    if not isinstance(row.get("event"), str):
        return "it names no event"
    needed = {"time": _time, **_NEEDED.get(row["event"], {})}
    for name, right in needed.items():
        if name not in row:
            return f"its {name!r} is missing"
        if not right(row[name]):
            return f"its {name!r} cannot be used"
    for name, right in {**_COMMON, **_OPTIONAL.get(row["event"], {})}.items():
        if name in row and not right(row[name]):
            return f"its {name!r} cannot be used"
    return ""


def inside(path: Any) -> bool:
    """True for the path of an artifact below its run: relative, and nowhere up."""
    if not _text(path) or len(path) > LONGEST or "\0" in path:
        return False
    parts = path.split("/")
    return all(p not in ("", ".", "..") and len(p.encode()) <= 255 for p in parts)


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _identity(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= LONGEST


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and -_BOUND <= value <= _BOUND


def _count(value: Any) -> bool:
    return isinstance(value, int) and -_COUNT < value < _COUNT


def _time(value: Any) -> bool:
    return _count(value) and value >= 0


def _folder(value: Any) -> bool:
    return value in ("", ".") or inside(value)


def _file(value: Any) -> bool:
    whole = _text(value) and len(value) < 4000 and "\0" not in value
    parts = value.split("/") if whole else [""]
    return all(len(part.encode()) <= 255 for part in parts) and inside(parts[-1])


def _object(value: Any) -> bool:
    return isinstance(value, dict)


def _values(value: Any) -> bool:
    return isinstance(value, dict) and all(v is None or _number(v) for v in value.values())


def _texts(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and all(map(_text, value.values()))
        and all(map(inside, value))
        and not any(one.startswith(f"{other}/") for one in value for other in value)
    )


def _rows(value: Any) -> bool:
    return isinstance(value, list) and all(map(_object, value))


def _stages(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(v, dict)
        and _text(v.get("key"))
        and _count(v.get("computed"))
        and _count(v.get("reused"))
        for v in value.values()
    )


def _maybe(right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or right(value)


_Rules = Mapping[str, Callable[[Any], bool]]
_COMMON: _Rules = {"run": _identity, "cell": _text}
_NEEDED: Mapping[str, _Rules] = {
    "StudyDescribed": {"name": _text, "tags": _object},
    "CellDescribed": {"name": _text, "tags": _object},
    "RoundFinished": {"round": _count},
    "CellFailed": {"cause": _text},
    "Stages": {"stages": _stages},
    "Metrics": {"metrics": _values},
    "Table": {"name": _text, "rows": _rows},
    "File": {"path": _file},
    "Text": {"path": inside, "text": _text},
}
_OPTIONAL: Mapping[str, _Rules] = {
    "StudyDescribed": {"params": _object, "texts": _texts},
    "CellDescribed": {"params": _object, "texts": _texts},
    "StudyStarted": {"cells": _maybe(_count)},
    "RoundFinished": {"metrics": _values, "seconds": _maybe(_number)},
    "CellFinished": {
        "metrics": _values,
        "seconds": _maybe(_number),
        "rounds": _maybe(_count),
    },
    "CellFailed": {"trace": _maybe(_text)},
    "CellLeftOut": {"reason": _maybe(_text)},
    "StudyFinished": dict.fromkeys(("computed", "reused", "failed", "seconds"), _maybe(_number)),
    "Metrics": {"step": _count},
    "File": {"folder": _folder, "digest": _text},
    "Tags": {"tags": _object},
}
