"""SHA-256 of files, computed once per process for each path, size and modification time."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from typing import Any

from coin_ray.data.rasters import decoding
from coin_ray.weights.registry import file_digest


def content_digest(path: str | Path) -> str:
    """Hex SHA-256 of a file's bytes; read again only when its size or mtime changed."""
    path = Path(path)
    with decoding(path):
        return file_digest(path)


def reader_digest(read: partial[Any]) -> str:
    """Hex SHA-256 of what a reader will give: its function, its files' contents, its options."""
    values = [*read.args, *sorted(read.keywords.items())]
    parts = [content_digest(v) if isinstance(v, Path) else repr(v) for v in values]
    named = f"{read.func.__module__}.{read.func.__qualname__}"
    return hashlib.sha256("\0".join([named, *parts]).encode()).hexdigest()
