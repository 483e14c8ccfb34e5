"""A machine that remembers for a while which names were not there, as a client of NFS does."""

from __future__ import annotations

import builtins
import errno
import io
import os
import time
from collections.abc import Callable
from typing import Any

Call = Callable[..., Any]


def install(seconds: float) -> None:
    """In this process, for its whole life: a name that was looked for in vain is not there for so
    many ``seconds``, whatever other processes do and however often this one asks. It sees what it
    makes itself, and making a name or listing a folder asks the server, as on a real client, where
    that would also make it forget: here it does not."""
    absent: dict[str, float] = {}

    def known(path: Any) -> str | None:
        if isinstance(path, int):
            return None
        return os.path.abspath(os.fsdecode(path))

    def looking(real: Call, creates: Callable[..., bool] = lambda *a, **k: False) -> Call:
        def look(path: Any, *args: Any, **options: Any) -> Any:
            name = known(path)
            if name is None or options.get("dir_fd") is not None:
                return real(path, *args, **options)
            if creates(*args, **options):
                found = real(path, *args, **options)
                absent.pop(name, None)
                return found
            if absent.get(name, 0.0) > time.monotonic():
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
            try:
                return real(path, *args, **options)
            except FileNotFoundError:
                absent[name] = time.monotonic() + seconds
                raise

        return look

    def naming(real: Call) -> Call:
        def name_(source: Any, target: Any, **options: Any) -> Any:
            if absent.get(known(source) or "", 0.0) > time.monotonic():
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(source))
            real(source, target, **options)
            made = known(target) or ""
            for name in [n for n in absent if n == made or n.startswith(f"{made}/")]:
                del absent[name]

        return name_

    def making(path: Any, mode: int = 0o777, real: Call = os.mkdir, **options: Any) -> None:
        real(path, mode, **options)
        absent.pop(known(path) or "", None)

    def flagged(flags: int, *args: Any, **options: Any) -> bool:
        return bool(flags & os.O_CREAT)

    def written(mode: str = "r", *args: Any, **options: Any) -> bool:
        return any(letter in mode for letter in "wax")

    os.stat, os.lstat, os.utime = looking(os.stat), looking(os.lstat), looking(os.utime)
    os.unlink = looking(os.unlink)
    os.open = looking(os.open, flagged)
    builtins.open = io.open = looking(io.open, written)
    os.rename, os.replace = naming(os.rename), naming(os.replace)
    os.mkdir = making
