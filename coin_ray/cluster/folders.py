"""Folders that Ray writes to while a study runs. They are ours and hold nothing of lasting value:
an orderly end removes them, and what a killed run has left is found here."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from coin_ray import bucket
from coin_ray.errors import UserError
from coin_ray.files import clock
from coin_ray.store import lease
from coin_ray.workspace import Workspace

PREFIX = "coin-ray-"
LONGEST = 17
"""Bytes of the folder that a session lies in. A socket's path has 107, and Ray's own names below a
session take 72 of them."""
QUIET = 3600.0
"""Seconds after which nobody is still writing to a folder that nobody holds."""


@contextmanager
def run_folder(workspace: Path) -> Iterator[Path]:
    """A folder for what Tune and Train write during a run; gone afterwards."""
    folder = Workspace(workspace).ray / uuid.uuid4().hex[:12]
    claim = folder / "lease"
    token = lease.acquire(claim)
    assert token is not None, "a name that nobody else has"
    try:
        with lease.held(claim, token):
            yield folder
    finally:
        _remove(folder)
        bucket.remove_all(folder)


def storage(folder: Path) -> dict[str, Any]:
    """Where Tune and Train write: a folder that all nodes see, or the bucket that it stands for, by
    the library that we ask it by."""
    if bucket.address(folder) is None:
        return {"storage_path": str(folder)}
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    system, name = bucket.system_of(folder)
    return {"storage_path": name, "storage_filesystem": PyFileSystem(FSSpecHandler(system))}


@contextmanager
def session_folder() -> Iterator[Path]:
    """A private folder with a short name for a cluster of our own. It stays where Ray has failed,
    with Ray's logs in it. UserError if there is no place for one."""
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=_place()))
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield folder
        except (UserError, KeyboardInterrupt):
            _remove(folder)
            raise
    _remove(folder)


def abandoned(workspace: Path) -> list[Path]:
    """What killed runs have left: folders of this workspace, and this user's sessions on this
    machine."""
    place = Workspace(workspace).ray
    now = clock(place)
    runs = [
        folder
        for folder in _listed(place, "*")
        if not ((holder := lease.holder(folder / "lease", now)) and holder.alive)
        and now - _last_change(folder) > QUIET
    ]
    sessions = {folder for place in _places() for folder in _listed(place, f"{PREFIX}*")}
    return runs + sorted(folder for folder in sessions if _left(folder))


def size_of(folder: Path) -> int:
    """Bytes of its files."""
    return sum(found.st_size for found in _files(folder))


def remove_abandoned(folder: Path) -> None:
    """Remove what ``abandoned`` has found."""
    _remove(folder)


def _places() -> list[Path]:
    chosen = os.environ.get("RAY_TMPDIR")
    usual = [tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm"]
    found = [Path(place).resolve() for place in ([chosen] if chosen else []) + usual]
    return list(dict.fromkeys(place for place in found if place.is_dir()))


def _place() -> Path:
    places = _places()
    for place in places:
        if len(os.fsencode(place)) <= LONGEST and os.access(place, os.W_OK | os.X_OK):
            return place
    raise UserError(
        "no folder for the files of a Ray session",
        expected=f"one whose path has at most {LONGEST} bytes, to write to: the path of a socket "
        "may have 107",
        found=", ".join(map(str, places)),
        do="set RAY_TMPDIR to such a folder",
    )


def _listed(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.glob(pattern) if path.is_dir() and not path.is_symlink())


def _files(folder: Path) -> Iterator[os.stat_result]:
    """Of the folder and all files below it; those that go meanwhile are left out."""
    for top, _, names in os.walk(folder):
        for path in (Path(top), *(Path(top, name) for name in names)):
            with contextlib.suppress(FileNotFoundError):
                yield path.lstat()


def _last_change(folder: Path) -> float:
    return max((found.st_mtime for found in _files(folder)), default=0.0)


def _left(folder: Path) -> bool:
    """Whether its driver has ended: a lock goes with the process that has it."""
    try:
        if folder.stat().st_uid != os.getuid():
            return False
        with (folder / "lock").open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held, or not of our making
        return False
    return True


def _remove(folder: Path) -> None:
    # Ray's last processes may still write a line while they end.
    for _ in range(20):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)
