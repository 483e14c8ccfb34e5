"""The study's journal: what happened, one JSON object a line, on disk before anyone is told.

The journal is the truth and the tracker a copy of it: an outage of the tracker, a killed driver or
a deleted tracking database loses nothing that cannot be written again.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import math
import os
import re
import threading
import time
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from coin_ray import bucket
from coin_ray.errors import UserError
from coin_ray.files import longest

SEND = 10.0
"""Seconds between two writings of a journal into a bucket, where it is one object."""


class Journal:
    """Appends to one file, a line an event, each on disk (fsync) before ``append`` returns.

    Safe for several threads and processes: who writes holds a lock on the file. A line that cannot
    be written whole is taken back. The file and its folder are made at the first line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._descriptor: int | None = None
        self._sent = -math.inf

    def append(self, event: Mapping[str, Any]) -> None:
        """Write ``event`` with the time (``time``, ms since 1970) it was written.

        NumPy scalars and paths become plain values, NaN and infinities null (JSON has neither).
        Raises TypeError for anything else that JSON cannot hold, UserError where the file cannot be
        written, and then writes nothing.
        """
        row = {"time": int(time.time() * 1000), **plain(event)}
        line = json.dumps(row, allow_nan=False, ensure_ascii=False).encode() + b"\n"
        try:
            with self._lock:
                if self._descriptor is None:
                    self._descriptor = self._open()
                with _alone(self._descriptor):
                    _write(self._descriptor, line)
                if time.monotonic() - self._sent > SEND:
                    self._send()
        except OSError as error:
            raise UserError(
                "the journal of the study cannot be written",
                where=str(self.path),
                found=str(error.strerror),
                do="make room or mend its permissions, and give the same command again: it goes on",
            ) from error

    def _send(self) -> None:
        bucket.send(self.path)
        self._sent = time.monotonic()

    def _open(self) -> int:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # A link in a workspace from elsewhere could lead to any file of the user's.
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
        return os.open(self.path, flags, 0o666)

    def close(self) -> None:
        """Close the file; the next ``append`` opens it again."""
        with self._lock:
            if self._descriptor is not None:
                self._send()
                os.close(self._descriptor)
                self._descriptor = None


@contextmanager
def _alone(descriptor: int) -> Iterator[None]:
    with contextlib.suppress(OSError):  # some network file systems lock nothing
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)


def _write(descriptor: int, line: bytes) -> None:
    """Append a line, or nothing."""
    size = os.fstat(descriptor).st_size
    if size and os.pread(descriptor, 1, size - 1) != b"\n":
        # A killed writer left half a line. Closing it keeps the file append-only; the reader
        # passes over it.
        line = b"\n" + line
    try:
        while line:
            line = line[os.write(descriptor, line) :]
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, size)
        raise


def journals(folder: Path) -> list[Path]:
    """The journals of a workspace's folder, those of its bucket too."""
    for name in bucket.names(folder):
        longest(folder / name)
    return sorted(path for path in folder.glob("*.jsonl") if path.is_file())


def read_lines(
    path: Path, offset: int = 0, skip: Container[str] = (), most: int | None = None
) -> tuple[list[dict[str, Any] | str], int]:
    """The lines from byte ``offset`` on, ``most`` of them, and the offset to go on from: each a
    JSON object (of a blank line, and of an event of a kind to ``skip``, an empty one), or in words
    what it is instead, such as torn by a crash.

    A last line without its end is left for the next call (it may still be being written). A missing
    file has none.
    """
    found: list[dict[str, Any] | str] = []
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        file.seek(offset)
        for line in itertools.islice(file, most):
            if not line.endswith(b"\n"):
                break
            offset += len(line)
            kind = _KIND.match(line)
            skipped = kind is not None and kind[1].decode() in skip
            found.append({} if skipped else _parsed(line))
    return found, offset


_KIND = re.compile(rb'\{"time": \d+, "event": "(\w+)"')


def _parsed(line: bytes) -> dict[str, Any] | str:
    if not line.strip():
        return {}
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):  # also UnicodeDecodeError: it may be cut inside one
        return "it is no JSON, or torn"
    return row if isinstance(row, dict) else "it is no JSON object"


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
