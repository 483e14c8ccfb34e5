"""One run of a command under attack: its processes, whom to strike, and what is left of them."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import psutil

from benchmarks.chaos_schedules import KILLS, Fault

TITLES = {
    "worker": "ray::_step",
    "segmenter": "ray::SegmenterActor",
    "trial": "ray::ImplicitFunc",
    "training": "ray::train_alone",
    "hub": "ray::EventHub",
}
"""How the processes of Ray that a fault may want are called."""
POLL = 0.03
LEAVING = 90.0
"""Seconds that the processes of a run have to go once its driver has gone: of one that was killed,
Ray's agents look for their head for a minute."""
TINY = 16 * 1024
"""Bytes that are no room for an artifact."""


@dataclass(frozen=True)
class Target:
    """A run that goes on: its driver, which leads a session of its own, and its store."""

    driver: int
    store: Path
    total: int

    def processes(self) -> dict[int, str]:
        """Process -> its title, of all that live of the run."""
        out = {}
        for pid in psutil.pids():
            with contextlib.suppress(OSError):
                if os.getsid(pid) == self.driver:
                    title = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
                    if title:  # a zombie has none
                        out[pid] = title.decode(errors="replace").strip()
        return out

    def whom(self, kind: str) -> list[int]:
        if kind in ("driver", "group"):
            return [self.driver]
        return [p for p, title in self.processes().items() if title.startswith(TITLES[kind])]

    def stored(self) -> float:
        """Share of the study's artifacts that are there."""
        return artifacts(self.store) / self.total


@dataclass(frozen=True)
class Run:
    """``code`` None: it did not end in time. ``struck``: whether the fault met it. ``ended``: when
    (monotonic)."""

    code: int | None
    seconds: float
    struck: bool
    said: str
    target: Target
    ended: float


Attack = Generator[bool, None, None]
"""Asked for its next step every ``POLL`` seconds, and says whether the fault has struck; one that
is over has."""


def artifacts(store: Path) -> int:
    """Number of complete artifacts of a store."""
    return sum(1 for _ in store.glob("*/*/manifest.json"))


def attack(fault: Fault, target: Target) -> Attack:
    """A fault among a run's processes: kills and pauses."""
    draw, whom = Random(fault.draw), fault.what[0] if fault.kind == "pause" else fault.kind
    send = os.killpg if whom == "group" else os.kill
    sign, delay = signal.SIGSTOP, 0.0
    if fault.kind in KILLS:
        sign, delay = signal.SIGKILL, fault.seconds
    while not (target.stored() >= fault.when and target.whom(whom)):
        yield False
    yield from wait(delay, struck=False)
    while True:
        with contextlib.suppress(ProcessLookupError):  # gone since it was looked for: the next one
            if found := target.whom(whom):
                victim = draw.choice(found)
                send(victim, sign)
                break
        yield False
    if sign == signal.SIGKILL:
        return
    try:
        yield from wait(fault.seconds)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGCONT)


def wait(seconds: float, *, struck: bool = True) -> Attack:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield struck


def filled(folder: Path) -> Attack:
    """A disk of its own that fills by itself: struck once it has no room for an artifact."""
    while True:
        disk = os.statvfs(folder)
        if disk.f_bavail * disk.f_frsize < TINY:
            return
        yield False


def limited(fault: Fault, target: Target) -> Attack:
    """Instead of a full disk, where none can be mounted: no process writes a file beyond a few
    KiB any more, as if there were no room for it."""
    while target.stored() < fault.when:
        yield False
    while True:
        for pid, title in target.processes().items():
            if pid == target.driver or title.startswith("ray::"):
                with contextlib.suppress(ProcessLookupError):
                    hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
                    resource.prlimit(pid, resource.RLIMIT_FSIZE, (TINY // 4, hard))
        yield True


def attacked(
    command: Sequence[str],
    environment: Mapping[str, str],
    log: Path,
    *,
    patience: float,
    target: Callable[[int], Target],
    attacks: Callable[[Target], Attack] | None = None,
) -> Run:
    """Run a command in a session of its own under an attack. What it leaves behind goes on; of one
    that does not end in time, all is killed."""
    start = time.monotonic()
    with log.open("ab") as out:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=log.parent,
            start_new_session=True,
        )
        mine = target(process.pid)
        going = attacks(mine) if attacks else wait(0)
        struck, code = False, None
        try:
            while (code := process.poll()) is None and time.monotonic() - start < patience:
                struck = next(going, True)
                time.sleep(POLL)
            going.close()
        finally:
            if process.poll() is None:
                kill(mine)
                process.wait()
    end, said = time.monotonic(), log.read_text(encoding="utf-8", errors="replace")
    return Run(code, end - start, struck, said, mine, end)


def outlived(done: Run) -> list[str]:
    """Titles of a run's processes that have not gone by ``LEAVING`` seconds after its end; they are
    killed."""
    while (left := done.target.processes()) and time.monotonic() < done.ended + LEAVING:
        time.sleep(0.2)
    kill(done.target)
    return sorted({title.split(" ")[0].rpartition("/")[2] for title in left.values()})


def kill(target: Target) -> None:
    """All processes of a run."""
    end = time.monotonic() + 5
    while (left := target.processes()) and time.monotonic() < end:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(POLL)
