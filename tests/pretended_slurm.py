"""SLURM as a batch script sees it, on this machine: nodes are processes, and the time limit comes
when a test says so. ``submit`` is `sbatch`; `srun` and `scontrol` are written into the PATH.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

SRUN = """\
import os, signal, subprocess, sys

# Options come first; the command begins at the first word that is none.
words = sys.argv[1:]
while words and words[0].startswith("-"):
    words.pop(0)
nodes, mask = [], {signal.SIGTERM}
signal.signal(signal.SIGTERM, lambda *_: [node.send_signal(signal.SIGTERM) for node in nodes])
signal.pthread_sigmask(signal.SIG_BLOCK, mask)
for n in range(int(os.environ["SLURM_JOB_NUM_NODES"])):
    own = {"SLURM_PROCID": str(n), "SLURM_NODEID": str(n)}
    free = lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, mask)
    nodes.append(subprocess.Popen(words, env={**os.environ, **own}, preexec_fn=free))
signal.pthread_sigmask(signal.SIG_UNBLOCK, mask)
sys.exit(max(node.wait() for node in nodes))
"""
SCONTROL = """\
import os, sys

assert sys.argv[1:] == ["requeue", os.environ["SLURM_JOB_ID"]], sys.argv
if os.environ.get("NO_REQUEUE"):
    sys.exit("Requested operation is presently disabled")
open(os.environ["REQUEUED"], "a").write("once\\n")
"""


@dataclass(frozen=True)
class Ended:
    """How a job ended: its last exit code, how often it was started, what it wrote."""

    code: int
    starts: int
    log: str


def options(script: Path) -> dict[str, str]:
    """The #SBATCH lines up to the first command, as sbatch reads them."""
    out: dict[str, str] = {}
    for line in script.read_text().splitlines():
        if line and not line.startswith("#"):
            break
        if found := re.fullmatch(r"#SBATCH --([a-z-]+)(?:=(\S+))?", line):
            out[found[1]] = found[2] or ""
    return out


def submit(
    script: Path,
    *words: str,
    folder: Path,
    env: Mapping[str, str],
    limit: Callable[[], bool] = lambda: False,
    kill: Callable[[], bool] = lambda: False,
    timeout: float = 240.0,
) -> Ended:
    """Run a batch script from a copy, as slurmd does, in ``folder``; again while it asks for that.

    ``limit`` true: the signal of --signal comes, once a job. ``kill`` true: SIGTERM does, as from
    scancel. AssertionError if it has not ended after ``timeout`` seconds.
    """
    asked = options(script)
    bin_, spool, log = (folder / name for name in ("slurm_bin", "slurm_script", "job.log"))
    bin_.mkdir(exist_ok=True)
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (bin_ / name).write_text(f"#!{sys.executable}\n{text}")
        (bin_ / name).chmod(0o755)
    spool.write_text(script.read_text())
    requeued = folder / "requeued"
    job = {
        **os.environ,
        "SLURM_JOB_ID": f"{os.getpid()}",
        "SLURM_JOB_NUM_NODES": asked["nodes"],
        "SLURM_CPUS_PER_TASK": asked["cpus-per-task"],
        "SLURM_SUBMIT_DIR": str(folder),
        **env,
        "REQUEUED": str(requeued),
        "PATH": f"{bin_}:{os.environ['PATH']}",
    }
    end, starts = time.monotonic() + timeout, 0
    signals = {limit: signal.SIGUSR1, kill: signal.SIGTERM}
    while True:
        before = _times(requeued)
        again = {"SLURM_RESTART_COUNT": str(starts)} if starts else {}
        with log.open("a") as out:
            process = subprocess.Popen(
                ["bash", str(spool), *words],
                env={**job, **again},
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        starts += 1
        while process.poll() is None:
            for due in [due for due in signals if due()]:
                process.send_signal(signals.pop(due))
            if time.monotonic() > end:
                process.terminate()
                process.wait(60)
                raise AssertionError(f"the job has not ended:\n{log.read_text()}")
            time.sleep(0.05)
        if _times(requeued) == before:
            return Ended(process.returncode, starts, log.read_text())


def _times(requeued: Path) -> int:
    return len(requeued.read_text().splitlines()) if requeued.exists() else 0
