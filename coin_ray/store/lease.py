"""Leases: let one process compute an artifact while others that need it wait.

Who waits takes a lease for dead when it has not changed for a while of the waiter's own time: what
its owner's clock says, and the file system's, does not matter. A lease is advisory. If it breaks (a
file system lies), work is done twice and the store keeps the first result; it never becomes wrong.
"""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Protocol

from coin_ray import bucket
from coin_ray.beside import beside
from coin_ray.files import make_folder

HEARTBEAT = 5.0
STALE = 30.0
ASK = 1.0


class Keeper(Protocol):
    """Keeps the leases of what a bucket holds among the machines of a cluster, by its address."""

    def take(self, name: str, token: str) -> bool:
        """Take a lease, or keep it fresh; False if somebody else holds it."""

    def give(self, name: str, token: str) -> None:
        """Give a lease back, if it is ours."""


def _of_no_cluster() -> Keeper | None:
    return None


cluster: Callable[[], Keeper | None] = _of_no_cluster
"""The keeper of the cluster that this process is part of, if it is of one; else objects of the
bucket are the leases. The room that knows Ray says how it is found."""
_seen: dict[str, tuple[tuple[str, int], float]] = {}
"""Leases that this process waits for: what they looked like, and since when (monotonic)."""


def acquire(path: Path) -> str | None:
    """Take the lease if it is free or its owner is dead; a token, or None if somebody holds it.
    OSError where the lease cannot be written."""
    token = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex}"
    make_folder(path.parent)
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        if _abandoned(path):
            # Only one of several waiters wins the rename; the others find the file gone and poll
            # on.
            grave = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
            try:
                path.rename(grave)
            except FileNotFoundError:
                return None
            if grave.is_dir():
                shutil.rmtree(grave)
            else:
                grave.unlink(missing_ok=True)
        return None
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(token)
        if _taken_in_bucket(path, token):
            _seen.pop(str(path), None)
            return token
    except OSError:  # a full disk: nobody holds it then
        path.unlink(missing_ok=True)
        raise
    path.unlink(missing_ok=True)
    return None


def _taken_in_bucket(path: Path, token: str) -> bool:
    """Take the lease among machines, too: from the cluster's keeper, or the object that stands for
    it. Its heartbeat is a number behind the token. While this machine waits, one of its processes
    asks, every ``ASK`` seconds."""
    name, keeper = bucket.address(path), cluster()
    if keeper is not None and name is not None:
        if keeper.take(name, token):
            return True
        time.sleep(ASK)
        return False
    if bucket.write(path, token.encode(), new=True):
        return True
    said = (bucket.read(path) or b"").decode(errors="replace")
    if said.startswith(token):
        return True  # the answer to our own first try was lost
    if said and _silent(name or "", (said, 0)):
        bucket.remove(path)
    time.sleep(ASK)
    return False


def _abandoned(path: Path) -> bool:
    """Whether the process is known to have ended, or the lease to have been silent for long."""
    try:
        return _silent(str(path), (_text(path), path.stat().st_mtime_ns))
    except FileNotFoundError:
        _seen.pop(str(path), None)
        return False


def _silent(name: str, look: tuple[str, int]) -> bool:
    before, since = _seen.setdefault(name, (look, time.monotonic()))
    if before != look:
        _seen[name] = look, time.monotonic()
        return _owner(look[0]).ended
    return _owner(look[0]).ended or time.monotonic() - since > STALE


def _text(path: Path) -> str:
    """What a lease says; nothing if it is no file."""
    return "" if path.is_dir() else path.read_text(encoding="utf-8", errors="replace")


@dataclass(frozen=True)
class Holder:
    """Who holds a lease: machine, process, seconds since the last heartbeat."""

    host: str
    pid: str
    silent: float

    @property
    def ended(self) -> bool:
        """True if the process was on this machine and is no more."""
        here = self.host == socket.gethostname() and self.pid.isdigit()
        return here and not _alive(int(self.pid))

    @property
    def alive(self) -> bool:
        """As far as one look tells: False if the process has ended, or was silent for long."""
        return self.silent <= STALE and not self.ended


def holder(path: Path, now: float) -> Holder | None:
    """Who holds the lease, on another machine in the bucket that it stands for; None if nobody
    does. ``now`` by the clock of the lease's file system."""
    try:
        text, silent = _text(path), now - path.stat().st_mtime
    except FileNotFoundError:
        said = bucket.read(path)
        return None if said is None else _owner(said.decode(errors="replace"))
    return _owner(text, max(0.0, silent))


def _owner(text: str, silent: float = 0.0) -> Holder:
    host, _, rest = text.partition(":")
    return Holder(host, rest.partition(":")[0], silent)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def release(path: Path, token: str) -> None:
    """Give the lease back if it is still ours."""
    _release(path, token, cluster())


def _release(path: Path, token: str, keeper: Keeper | None) -> None:
    name = bucket.address(path)
    with suppress(OSError):  # a bucket that is away: the lease falls silent
        if name is not None and keeper is not None:
            keeper.give(name, token)
        elif (bucket.read(path) or b"").startswith(token.encode()):
            bucket.remove(path)
    try:
        if _text(path) == token:
            path.unlink()
    except FileNotFoundError:
        pass


@contextmanager
def held(path: Path, token: str) -> Iterator[None]:
    """Keep the lease fresh while the body runs, then release it."""
    keeper = cluster()  # of now: a driver may connect meanwhile

    def beat(stop: threading.Event) -> None:
        for beats in count(1):
            if stop.wait(HEARTBEAT):
                return
            try:
                if _text(path) != token:
                    return  # taken for dead while this process was stopped
                os.utime(path)
                if not _kept(path, token, beats, keeper):
                    return
            except FileNotFoundError:
                return
            except OSError:
                continue  # of a file system that is away for a moment; the lease is advisory

    try:
        with beside(beat, "lease"):
            yield
    finally:
        _release(path, token, keeper)


def _kept(path: Path, token: str, beats: int, keeper: Keeper | None) -> bool:
    """Keep a lease fresh among machines; False if it is not ours any more."""
    name = bucket.address(path)
    if name is None:
        return True
    if keeper is not None:
        return keeper.take(name, token)
    if not (bucket.read(path) or b"").startswith(token.encode()):
        return False
    return bucket.write(path, f"{token}:{beats}".encode())
