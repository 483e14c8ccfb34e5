"""The study's journal: what happened, one JSON object a line, on disk before anyone is told.

The journal is the truth and the tracker a copy of it: an outage of the tracker, a killed driver or
a deleted tracking database loses nothing that cannot be written again.
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Journal:
    """Appends to one file, a line an event, each on disk (fsync) before ``append`` returns.

    Safe for several threads, and for several processes on a local disk: a line is one ``write`` in
    append mode. The file and its folder are made at the first line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._descriptor: int | None = None

    def append(self, event: Mapping[str, Any]) -> None:
        """Write ``event`` with the time (``time``, ms since 1970) it was written.

        NumPy scalars and paths become plain values, NaN and infinities null (JSON has neither).
        Raises TypeError for anything else that JSON cannot hold, and then writes nothing.
        """
        row = {"time": int(time.time() * 1000), **plain(event)}
        line = json.dumps(row, allow_nan=False, ensure_ascii=False).encode() + b"\n"
        with self._lock:
            if self._descriptor is None:
                self._descriptor = self._open()
            _write(self._descriptor, line)

    def _open(self) -> int:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            # A killed writer left half a line. Closing it keeps the file append-only; the reader
            # passes over it.
            _write(descriptor, b"\n")
        return descriptor

    def close(self) -> None:
        """Close the file; the next ``append`` opens it again."""
        with self._lock:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
    os.fsync(descriptor)


def read(path: Path, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
    """Events from byte ``offset`` on, and the offset to go on from.

    A last line without its end is left for the next call (it may still be being written); a line
    that is not a JSON object, torn by a crash, is passed over. A missing file has no events.
    """
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read()
    except FileNotFoundError:
        return [], offset
    whole = data[: data.rfind(b"\n") + 1]
    rows = []
    for line in whole.splitlines():
        try:
            row = json.loads(line)
        except ValueError:  # also UnicodeDecodeError: a line may be cut inside a character
            continue
        if isinstance(row, dict) and "event" in row:
            rows.append(row)
    return rows, offset + len(whole)


def plain(value: Any) -> Any:
    """``value`` as JSON holds it: NumPy scalars and arrays, tuples, sets and paths become plain
    ones, numbers that are not finite None. Raises TypeError for anything else."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(plain(item) for item in value)
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # NumPy scalars and arrays, without importing NumPy
        return plain(value.tolist())
    raise TypeError(f"a journal line cannot hold a {type(value).__name__}: {value!r:.80}")
