"""Files that appear whole or not at all, whoever else writes the same name."""

from __future__ import annotations

import errno
import json
import os
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from coin_ray import bucket
from coin_ray.errors import UserError

SCRATCH = ".coin-ray-"
"""How the names of unfinished files begin; nobody else's file is ever taken for one."""
UNSEEN, POLL = 90.0, 0.1
"""Seconds after which every machine sees what another has written, and between two looks. A client
of NFS remembers for up to a minute that a name was not there."""


def scratch(path: Path) -> Path:
    """A name beside ``path`` that nobody else has, with its suffix, for what is to become it."""
    return path.with_name(f"{SCRATCH}{uuid.uuid4().hex}{path.suffix}")


@contextmanager
def whole(path: Path, *, shared: bool = True) -> Iterator[Path]:
    """A file to write that becomes ``path`` when the body ends, and vanishes if it raises; its
    folder is made if it is missing.

    A reader sees the old file or the new one, also after a crash of the machine. OSError where the
    folder cannot be written or the disk is full: ``path`` is then as it was. What is ``shared`` is
    an object, too, where the folder stands for a bucket.
    """
    part = scratch(path)
    make_folder(path.parent)
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
        if shared:
            bucket.send(path)
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(part)):
            error.filename = str(path)  # the name that its user knows
        raise
    finally:
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, whole; its line ends stay as they are."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes, whole."""
    with whole(path) as part:
        part.write_bytes(content)


def read_object(path: Path) -> dict[str, Any] | None:
    """The object of a JSON file; None where there is none: no file, or one that is empty or cut.
    Whoever made it makes it again."""
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):  # also UnicodeDecodeError
        return None
    return found if isinstance(found, dict) else None


def read_kept(path: Path, do: str) -> dict[str, Any]:
    """The object of a JSON file that cannot be made again of what is stored; empty where there is
    no file. UserError with what to ``do`` for one that is empty or cut."""
    if not seen(path):
        return {}
    found = read_object(path)
    if found is None:
        raise UserError(
            "this file cannot be read", where=str(path), found="it is empty, cut or no JSON", do=do
        )
    return found


def make_folder(path: Path) -> None:
    """Make a folder and those above it. One that is there already, but too young to be seen by this
    machine, is one, too; FileExistsError for anything else."""
    try:
        path.mkdir()
    except FileExistsError:
        if os.path.lexists(path) and not path.is_dir():
            raise
    except FileNotFoundError:
        make_folder(path.parent)
        with suppress(FileExistsError):  # somebody else's, meanwhile
            path.mkdir()


def seen(path: Path) -> bool:
    """As ``exists``, but one that its folder lists is waited for: a listing asks the server. What
    stands for an object is fetched, as it is now."""
    if bucket.address(path) is not None:
        return _fetch(path)
    until = time.monotonic() + UNSEEN
    while not os.path.lexists(path) and _listed(path) and time.monotonic() < until:
        time.sleep(POLL)
    return exists(path)


def _listed(path: Path) -> bool:
    try:
        return path.name in os.listdir(path.parent)
    except FileNotFoundError:
        return not os.path.lexists(path.parent) and _listed(path.parent)
    except NotADirectoryError:
        return False


def at_hand(path: Path) -> Path:
    """``path``, fetched if it stands for an object and is not here: for what never changes."""
    if bucket.address(path) is not None and not exists(path):
        _fetch(path)
    return path


def brought(text: str) -> Path:
    """The path of a user's folder; one in a bucket has been fetched."""
    folder = bucket.local(text)
    pull(folder)
    return folder


def pull(folder: Path) -> None:
    """Fetch what a folder stands for in a bucket, all that is not here or has another size."""
    for name, size in bucket.names(folder).items():
        path = folder / name
        if not (path.is_file() and path.stat().st_size == size):
            _fetch(path)


def longest(path: Path) -> Path:
    """``path``, which is only added to, fetched if the object that it stands for is longer."""
    content = bucket.read(path)
    if content is not None and (not exists(path) or len(content) > path.stat().st_size):
        _keep(path, content)
    return path


def _fetch(path: Path) -> bool:
    content = bucket.read(path)
    if content is not None:
        _keep(path, content)
    return content is not None


def _keep(path: Path, content: bytes) -> None:
    part = scratch(path)
    make_folder(path.parent)
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def clock(folder: Path) -> float:
    """Now, s since 1970, by the clock that stamps the files of ``folder``, which may be a server's;
    by ours where nothing can be written."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            return os.fstat(file.fileno()).st_mtime
    except OSError:
        return time.time()


def exists(path: Path) -> bool:
    """As ``path.exists()``, which raises OSError for a name that is too long to exist."""
    try:
        return path.exists()
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return False


def expanded(path: str | Path) -> Path:
    """A path whose ``~`` stands for a home folder. UserError if there is no such home."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(
            f"there is no home folder for {Path(path).parts[0]}",
            where=str(path),
            do="write the path out",
        ) from error


def check_writable(folder: Path) -> None:
    """OSError if no file can be made in ``folder``, which is made if it is missing: said before
    hours are spent on what was to go there."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        number = errno.EACCES if error.errno == errno.ENOENT else error.errno  # /proc, which lies
        raise OSError(number, error.strerror, str(folder)) from error


def check_new_file(path: Path | None) -> None:
    """OSError if ``path`` cannot become a file; None is none."""
    if path is None:
        return
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    check_writable(path.parent)
