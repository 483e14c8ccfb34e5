"""SHA-256 of files, computed once per process for each path, size and modification time."""

from __future__ import annotations

import hashlib
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from coin_ray.data.rasters import decoding


def content_digest(path: str | Path) -> str:
    """Hex SHA-256 of a file's bytes; read again only when its size or mtime changed."""
    path = Path(path)
    with decoding(path):
        status = path.stat()
        return _digest(str(path.resolve()), status.st_size, status.st_mtime_ns)


def reader_digest(read: partial[Any]) -> str:
    """Hex SHA-256 of what a reader will give: its function, its files' contents, its options."""
    values = [*read.args, *sorted(read.keywords.items())]
    parts = [content_digest(v) if isinstance(v, Path) else repr(v) for v in values]
    named = f"{read.func.__module__}.{read.func.__qualname__}"
    return hashlib.sha256("\0".join([named, *parts]).encode()).hexdigest()


@lru_cache(maxsize=65_536)
def _digest(path: str, size: int, mtime_ns: int) -> str:
    # size and mtime are part of the key only
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
