"""How a command ends that is told to: by Ctrl-C, a polite kill, or a terminal that has gone.

All three are one: the command says where it stands, its processes go, and its code is 128 and the
signal. A second one ends it at once, and its processes with it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import termios
import threading
import time
from collections.abc import Iterator
from typing import Any, NoReturn

from coin_ray.cli.screen.output import say

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ONE = 1.0
"""Seconds within which a further signal is the same one: a shell, `timeout` or a closing terminal
passes it on to those whom it has reached already."""
GRACE = 5.0
"""Seconds that the processes of a command have to end after it."""


class Interrupted(KeyboardInterrupt):
    """A signal came, its name is the argument."""


def reason_and_code() -> tuple[str, int]:
    """What has ended this command, in words, and its exit code."""
    signum = _ending.signum or signal.SIGINT
    by_kill = signum != signal.SIGINT
    return f"ended by {signal.Signals(signum).name}" if by_kill else "interrupted", 128 + signum


@contextlib.contextmanager
def one_ending() -> Iterator[None]:
    """Make an ``Interrupted`` of each signal while the body runs, and end whatever it leaves."""
    _ending.listen()
    for sign in SIGNALS:
        # `nohup` is an order; an ignored interrupt only tells that a shell started us with `&`.
        if sign != signal.SIGHUP or signal.getsignal(sign) != signal.SIG_IGN:
            signal.signal(sign, _ending.come)
    try:
        yield
    except OSError:
        if not _ending.signum:
            raise  # else the terminal or the pipe that we write to has gone first
    finally:
        if _ending.signum:
            _end(_ending.processes, GRACE)
            error = sys.exception()
            if isinstance(error, Exception):
                with contextlib.suppress(OSError):
                    say(f"while it ended: {type(error).__name__}: {error}", err=True)
            raise SystemExit(128 + _ending.signum)


class _Ending:
    def __init__(self) -> None:
        self.signum, self.processes = 0, list[Any]()
        self._terminals = [fd for fd in (1, 2) if _is_terminal(fd)]

    def come(self, signum: int, frame: Any) -> None:
        """The handler: the first signal is an exception, the next ones are ``_second``'s."""
        if self.signum:
            return
        self.signum = signum
        for fd in self._terminals:
            if not _is_terminal(fd):  # it has gone, and writing to it would fail
                os.dup2(os.open(os.devnull, os.O_WRONLY), fd)
        self.processes = _children()
        raise Interrupted(signal.Signals(signum).name)

    def listen(self) -> None:
        """Hear of signals in a thread, too: the main one may be deep in a library's own code, where
        no handler runs."""
        ear, mouth = os.pipe()
        os.set_blocking(mouth, False)
        signal.set_wakeup_fd(mouth, warn_on_full_buffer=False)
        threading.Thread(target=self._second, args=(ear,), name="signals", daemon=True).start()

    def _second(self, ear: int) -> None:
        first = 0.0
        while True:
            signum = os.read(ear, 1)[0]
            if signum not in SIGNALS:
                continue
            first = first or time.monotonic()
            if time.monotonic() - first > ONE:
                self._at_once(signum)

    def _at_once(self, signum: int) -> NoReturn:
        _end([*self.processes, *_children()], 0.0)
        show_cursor = "\x1b[?25h" if 2 in self._terminals else ""
        with contextlib.suppress(OSError):
            os.write(2, f"{show_cursor}\nended at once\n".encode())
        os._exit(128 + signum)


def _is_terminal(fd: int) -> bool:
    try:
        termios.tcgetattr(fd)
    except termios.error:
        return False
    return True


_ending = _Ending()
"""Of this process, as its signals are: Ray makes a plain KeyboardInterrupt of ours."""


def _children() -> list[Any]:
    import psutil

    return list(psutil.Process().children(recursive=True))


def _end(processes: list[Any], grace: float) -> None:
    """Ask processes to end, and kill those that have not after ``grace`` seconds."""
    import psutil

    for process in processes:
        with contextlib.suppress(psutil.Error):
            if grace:
                process.terminate()
    for process in psutil.wait_procs(processes, timeout=grace)[1]:
        with contextlib.suppress(psutil.Error):
            process.kill()
