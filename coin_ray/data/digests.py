"""SHA-256 of files, computed once per process for each path, size and modification time."""

from __future__ import annotations

import hashlib
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from coin_ray.data.aperio import has_shapes
from coin_ray.data.rasters import decoding, reading
from coin_ray.weights.registry import file_digest


def content_digest(path: str | Path) -> str:
    """Hex SHA-256 of a file's bytes; read again only when its size or mtime changed.

    A picture that says how its samples are to be read (turned, inverted) has another one than its
    bytes alone, which stood for the samples as stored.
    """
    path = Path(path)
    with decoding(path):
        content, stat = file_digest(path), path.stat()
        how = _reading(path.resolve(), stat.st_size, stat.st_mtime_ns)
    return hashlib.sha256(f"{content}\0{how}".encode()).hexdigest() if how else content


@lru_cache(maxsize=65_536)
def _reading(path: Path, size: int, mtime_ns: int) -> str:
    return reading(path)


def reader_digest(read: partial[Any]) -> str:
    """Hex SHA-256 of what a reader will give: its function, its files' contents, its options."""
    values = [*read.args, *sorted(read.keywords.items())]
    parts = [_content(v) if isinstance(v, Path) else repr(v) for v in values]
    named = f"{read.func.__module__}.{read.func.__qualname__}"
    return hashlib.sha256("\0".join([named, *parts]).encode()).hexdigest()


def _content(path: Path) -> str:
    found = content_digest(path)
    # Holes and shapes were read as outlines once: their files have not the digest of that reading.
    return f"{found} shapes" if path.suffix.lower() == ".xml" and has_shapes(path) else found
