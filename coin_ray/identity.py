"""Digests of plain values, and of the code: its version and its files."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path

from coin_ray import __version__

_encoder = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def canonical(value: object) -> str:
    """JSON with sorted keys, no white space, shortest exact floats; refuses NaN and unknown
    types."""
    return _encoder.encode(value)


def digest(value: object) -> str:
    """Hex BLAKE2b-256 of the canonical JSON of ``value``."""
    return text_digest(canonical(value))


def text_digest(text: str) -> str:
    """Hex BLAKE2b-256 of a text."""
    return hashlib.blake2b(text.encode(), digest_size=32).hexdigest()


@cache
def code_identity() -> str:
    """``<version> <digest>`` of the package's .py files: the same for a checkout and the wheel made
    of it. Read once a process, which may be before somebody edits a file."""
    return f"{__version__} {_digest(Path(__file__).parent)}"


def _digest(root: Path) -> str:
    found = hashlib.blake2b(digest_size=8)
    for path in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).as_posix()):
        content = path.read_bytes()
        found.update(f"{path.relative_to(root).as_posix()} {len(content)}\n".encode())
        found.update(content)
    return found.hexdigest()
