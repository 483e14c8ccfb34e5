"""Writing into a store: inside it, on disk, with words for what it lacks; and asking for what the
other machines have written."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from coin_ray.errors import UserError

CACHE_GB = 20.0
"""What of a bucket a machine keeps at most, unless COIN_RAY_CACHE_GB says otherwise: the artifacts
used last."""
TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)
"""What a rename says where something is in its place."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
_UNWRITABLE = (*_FULL, errno.EROFS, errno.EACCES, errno.EPERM)


@contextmanager
def writing(root: Path, what: str) -> Iterator[None]:
    """Say what a store that cannot be written lacks."""
    try:
        yield
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        full = error.errno in _FULL
        raise UserError(
            f"{what} is not in the store, which cannot be written",
            where=str(root),
            found=str(error.strerror),
            do="make room (`coin-ray store gc`) and give the same command again"
            if full
            else "a store for reading only serves what it has; compute in one of your own "
            "(--workspace)",
        ) from error


def inside(root: Path, path: Path) -> Path:
    """``path``, of which no folder is a link out of the store; else UserError."""
    if not path.parent.resolve().is_relative_to(root.resolve()):
        raise UserError(
            "a link leads out of the store",
            where=str(path.parent),
            found=str(path.parent.resolve()),
            do="remove the link: a store is one folder, which may be a link itself",
        )
    return path


def write(path: Path, raw: bytes) -> None:
    """Write a file, and wait until it is on disk."""
    with path.open("wb") as file:
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())


def placed(root: Path, path: str) -> bool:
    """Whether an artifact's folder (``<stage>/<name>``) is there for the file server, or may be:
    what this machine remembers of names answers everything but whether a folder can be made."""
    stage = path.partition("/")[0]
    try:
        if stage not in os.listdir(root):
            return False
    except (FileNotFoundError, NotADirectoryError):
        return False
    folder = inside(root, root / path)
    try:
        folder.mkdir()
        folder.rmdir()
    except OSError as error:
        # ENOENT: there is such a stage, but this machine does not see it yet.
        return error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOENT)
    return False


def most_kept() -> float:
    """Bytes of a bucket's artifacts that this machine keeps at most."""
    return 1e9 * float(os.environ.get("COIN_RAY_CACHE_GB") or CACHE_GB)
