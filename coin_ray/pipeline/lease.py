"""Leases: let one process compute an artifact while others that need it wait.

A lease is advisory. If it breaks (a clock jumps, a file system lies), work is done twice and the
store keeps the first result; it never becomes wrong.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HEARTBEAT = 5.0
STALE = 30.0
POLL = 0.1


def acquire(path: Path) -> str | None:
    """Take the lease if it is free or its owner is dead; a token, or None if somebody holds it."""
    token = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex}"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        owner = holder(path)
        if owner is not None and not owner.alive:
            # Only one of several waiters wins the rename; the others find the file gone and poll
            # on.
            grave = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
            try:
                path.rename(grave)
            except FileNotFoundError:
                return None
            grave.unlink(missing_ok=True)
        return None
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(token)
    return token


@dataclass(frozen=True)
class Holder:
    """Who holds a lease: machine, process, seconds since the last heartbeat."""

    host: str
    pid: str
    silent: float

    @property
    def alive(self) -> bool:
        """False if the process is known to have ended, or the machine has been silent for long."""
        here = self.host == socket.gethostname() and self.pid.isdigit()
        return self.silent <= STALE and not (here and not _alive(int(self.pid)))


def holder(path: Path) -> Holder | None:
    """Who holds the lease; None if nobody does."""
    try:
        text, silent = path.read_text(encoding="utf-8"), time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return None
    host, _, rest = text.partition(":")
    return Holder(host, rest.partition(":")[0], silent)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def release(path: Path, token: str) -> None:
    """Give the lease back if it is still ours."""
    try:
        if path.read_text(encoding="utf-8") == token:
            path.unlink()
    except FileNotFoundError:
        pass


@contextmanager
def held(path: Path, token: str) -> Iterator[None]:
    """Keep the lease fresh while the body runs, then release it."""
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(HEARTBEAT):
            try:
                os.utime(path)
            except FileNotFoundError:
                return

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        release(path, token)
