"""Wall time, CPU time and peak memory of one side of one stage, in a process of its own.

``python -m benchmarks.measure STAGE SIDE FOLDER`` is what :func:`measure` starts. The side runs
once on the small inputs first, so that imports and the kernels' set-up are no part of the
figures. One thread.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BUDGET = 1.0  # CPU seconds of repetitions; a slower run is measured once
REPEATS = 5
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Measured:
    """``wall`` and ``cpu`` seconds of the fastest repetition, ``peak`` MB above the resident
    memory at the start of the first, ``result`` of the run."""

    wall: float
    cpu: float
    peak: float
    result: dict[str, Any]


def measure(stage: str, side: str, folder: Path) -> Measured:
    """One side (``ours``, ``literal``) of a stage; ``folder`` holds ``small.pkl``, ``full.pkl``.

    RuntimeError with the child's last lines if it fails.
    """
    out = folder / f"{stage}.{side}"
    environment = os.environ | dict.fromkeys(THREADS, "1")
    child = subprocess.run(
        [sys.executable, "-m", "benchmarks.measure", stage, side, str(folder)],
        cwd=Path(__file__).parent.parent,
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    if child.returncode:
        raise RuntimeError(f"{stage}, {side}: {child.stderr.strip()[-2000:]}")
    with open(out, "rb") as file:
        result = pickle.load(file)  # noqa: S301 (written by our own child a moment ago)
    out.unlink()
    return Measured(**json.loads(child.stdout.splitlines()[-1]), result=result)


def repeated(run: Callable[[], dict[str, Any]]) -> Measured:
    """Runs until the budget is spent; time of the fastest, memory of the first.

    A run that times a part of itself says so by ``wall`` and ``cpu`` in its result.
    """
    best: Measured | None = None
    spent = 0.0
    gc.collect()
    for _ in range(REPEATS):
        base = _reset_peak()
        wall, cpu = time.perf_counter(), time.process_time()
        result = run()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        peak = (_resident("VmHWM") - base) / 1e3 if best is None else best.peak
        spent += cpu
        wall, cpu = result.pop("wall", wall), result.pop("cpu", cpu)
        if best is None or wall < best.wall:
            best = Measured(wall, cpu, peak, result)
        if spent > BUDGET:
            break
    assert best is not None
    return best


def _reset_peak() -> float:
    """Sets the high-water mark to what is resident now (Linux); that, in kB.

    Freed memory that the allocator holds back is returned first: reused, it would hide a peak.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library has no such call
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    return _resident("VmRSS")


def _resident(name: str) -> float:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(name):
            return float(line.split()[1])
    raise RuntimeError(f"no {name} in /proc/self/status: peaks are measured on Linux only")


def main(stage: str, side: str, folder: Path) -> None:
    """The child: warms up on the small inputs, measures on the full ones."""
    from benchmarks.cases import CASES

    prepare = getattr(CASES[stage], side)
    for size in ("small", "full"):
        with open(folder / f"{size}.pkl", "rb") as file:
            inputs = pickle.load(file)  # noqa: S301 (written by our own parent)
        run = prepare(inputs)
        del inputs
        if size == "small":
            run()
    found = repeated(run)
    with open(folder / f"{stage}.{side}", "wb") as file:
        pickle.dump(found.result, file, protocol=5)
    print(json.dumps({"wall": found.wall, "cpu": found.cpu, "peak": found.peak}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
