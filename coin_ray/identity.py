"""Which code this is: its version, and a digest of its files."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from coin_ray import __version__


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
