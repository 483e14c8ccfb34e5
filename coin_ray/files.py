"""Files that appear whole or not at all, whoever else writes the same name."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SCRATCH = ".coin-ray-"
"""How the names of unfinished files begin; nobody else's file is ever taken for one."""


def scratch(path: Path) -> Path:
    """A name beside ``path`` that nobody else has, with its suffix, for what is to become it."""
    return path.with_name(f"{SCRATCH}{uuid.uuid4().hex}{path.suffix}")


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A file to write that becomes ``path`` when the body ends, and vanishes if it raises.

    A reader sees the old file or the new one, also after a crash of the machine. OSError where the
    folder cannot be written or the disk is full: ``path`` is then as it was.
    """
    part = scratch(path)
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, whole; its line ends stay as they are."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes, whole."""
    with whole(path) as part:
        part.write_bytes(content)
