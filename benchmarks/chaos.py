"""Random faults over a tiny study: whatever happens, the same command comes to the same tables.

    python -m benchmarks.chaos --schedules 30                # the table of docs/results/chaos.md
    python -m benchmarks.chaos --seed 7 --schedule 12 --keep kept    # one again, to look at

A schedule (``chaos_schedules``) attacks the first run or two of `coin-ray sweep`; then the command
is run until it ends with 0 by itself. The tables, label maps and pictures must then have the bytes
of an undisturbed run, the tracker one run a cell with its values, the store nothing broken or half
written, and no process may be left. Leases are short, so that a pause of seconds outlasts one.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.chaos_damage import damage, keep
from benchmarks.chaos_runs import (
    Attack,
    Run,
    Target,
    artifacts,
    attack,
    attacked,
    filled,
    limited,
    outlived,
)
from benchmarks.chaos_schedules import LEASE, TRACKER, Fault, Schedule, schedule
from benchmarks.chaos_tracker import Front, ill, served
from benchmarks.chaos_verdict import Picture, differences, half_written, picture
from coin_ray.store import lease

STUDY = """\
study: chaos
extends: mini
data: {generated: {train: 0, test: 2, size: 64}}
baseline:
  student: {width: 4, iterations: 6, later_iterations: 4, batch: 2, crop: 64}
design: one_at_a_time
factors:
  kept:
    baseline: most
    levels:
      most: {select.value: 0.9}
      few: {select.value: 0.3, infer.stain_weight: 4.0}
"""
AGAIN = 4
"""Most runs of the command after the attacked ones."""
Strike = Callable[[Target], Attack]
Resize = Callable[[int], None]
LARGE = 2**28
"""Bytes of a disk that is not full."""


@dataclass(frozen=True)
class Result:
    """``runs`` of the command, ``codes`` of each, ``faults``: what is not as it must be."""

    schedule: Schedule
    codes: tuple[int | None, ...]
    seconds: float
    faults: tuple[str, ...]


class Chaos:
    """Schedules in ``scratch``, against an undisturbed run that is made first. ``seeds`` of the
    study. A run that takes ``patience`` times as long as the undisturbed one, and two minutes at
    least, counts as one that does not end."""

    def __init__(self, scratch: Path, seeds: int, patience: float) -> None:
        self.scratch, self.patience = scratch, 3600.0
        self.study = scratch / "chaos.yaml"
        self.study.write_text(f"{STUDY}seeds: {seeds}\n")
        # Every Python process of a run takes the short leases: its driver and all that Ray starts.
        self._site = scratch / "site"
        self._site.mkdir()
        lines = [f"lease.{name} = {value}\n" for name, value in LEASE.items()]
        source = f"from {lease.__package__} import lease\n\n{''.join(lines)}"
        (self._site / "sitecustomize.py").write_text(source)
        self._front: Front | None = None
        self._stack = contextlib.ExitStack()
        self.calm = scratch / "undisturbed"
        self.total = 0
        start = time.monotonic()
        self.undisturbed = self._undisturbed()
        self.patience = max(120.0, patience * (time.monotonic() - start))

    def _undisturbed(self) -> Picture:
        self.calm.mkdir()
        done = self._run(self.calm / "workspace", self._environment("calm", None))
        left = outlived(done)
        if done.code != 0 or left:
            raise SystemExit(f"the undisturbed run came to {done.code}, {left}:\n{done.said}")
        self.total = artifacts(self.calm / "workspace" / "store")
        return self._picture(self.calm / "workspace", "calm", None)

    def close(self) -> None:
        self._stack.close()

    def run(self, plan: Schedule) -> Result:
        start = time.monotonic()
        folder = self.scratch / f"{plan.seed}-{plan.number}"
        folder.mkdir()
        with _disk(folder, plan) as (workspace, resize):
            codes, faults = self._attacked(plan, workspace, resize)
            if resize is not None:  # what was on it, to look at
                shutil.copytree(workspace, folder / "workspace")
        return Result(plan, tuple(codes), time.monotonic() - start, tuple(faults))

    def _attacked(
        self, plan: Schedule, workspace: Path, resize: Resize | None
    ) -> tuple[list[int | None], list[str]]:
        calm = self.calm / "workspace"
        shutil.copytree(calm / "data", workspace / "data", dirs_exist_ok=True)
        keep(calm / "store", workspace / "store", plan.kept)
        front = self._tracker() if plan.tracked else None
        name = f"chaos-{plan.seed}-{plan.number}"
        environment = self._environment(name, front)
        runs: list[Run] = []
        faults: list[str] = []
        damaged = False
        for fault in plan.faults:
            strike = None
            if fault.kind == "damage":
                hurt = damage(fault, workspace / "store")
                damaged = True
                if not hurt:
                    faults.append(f"{fault} found nothing")
                with (workspace.parent / "damage.txt").open("a") as file:
                    file.writelines(f"{line}\n" for line in hurt)
            else:
                strike = partial(self._strike, fault, workspace, resize is not None, front)
                if fault.kind == "disk" and resize is not None:
                    resize(self._room(fault, workspace))
            runs.append(self._run(workspace, environment, strike))
            if not runs[-1].struck:
                faults.append(f"{fault} never struck")
            if runs[-1].code is None:
                break
        if front is not None:
            front.turn("up")
        if resize is not None:
            resize(LARGE)
        for _ in range(AGAIN):
            if runs[-1].code not in (0, None):
                runs.append(self._run(workspace, environment))
        codes = [done.code for done in runs]
        if codes[-1] is None:
            faults.append(f"run {len(codes)} did not end in {self.patience:.0f} s")
        elif codes[-1]:
            faults.append(f"the command ended with {codes[-1]} after {len(codes)} runs")
        called = partial(self._call, workspace, environment)
        verbs = [("store", "verify")]
        if front is not None:
            verbs.insert(0, ("track", "sync"))
        if damaged:  # what nobody has read; what was read is mended by now
            called("store", "verify", "--fix")
        for verb in verbs:
            answer = called(*verb)
            if answer.returncode:
                faults.append(f"{' '.join(verb)}: {answer.stdout.strip()[-300:]}")
        faults += half_written(workspace, partial(called, "store", "gc"))
        for number, done in enumerate(runs, 1):
            faults += [f"{title} outlived run {number}" for title in outlived(done)]
        return codes, faults + differences(self.undisturbed, self._picture(workspace, name, front))

    def _strike(
        self, fault: Fault, workspace: Path, mounted: bool, front: Front | None, target: Target
    ) -> Attack:
        if fault.kind == "disk":
            return filled(workspace) if mounted else limited(fault, target)
        if fault.kind in TRACKER:
            assert front is not None
            return ill(fault, target, front)
        return attack(fault, target)

    def _run(
        self, workspace: Path, environment: dict[str, str], strike: Strike | None = None
    ) -> Run:
        command = (*_CLI, "sweep", str(self.study), *_ON_CPU, "--workspace", str(workspace))
        target = partial(Target, store=workspace / "store", total=max(1, self.total))
        log = self.scratch / f"{environment['MLFLOW_EXPERIMENT_NAME']}.log"
        return attacked(
            command, environment, log, patience=self.patience, target=target, attacks=strike
        )

    def _call(
        self, workspace: Path, environment: dict[str, str], *verb: str
    ) -> subprocess.CompletedProcess[str]:
        command = (*_CLI, *verb, "--workspace", str(workspace))
        kept: dict[str, Any] = {
            "stdout": subprocess.PIPE,
            "stderr": subprocess.STDOUT,
            "text": True,
        }
        try:
            return subprocess.run(
                command, env=environment, cwd=self.scratch, timeout=self.patience, **kept
            )
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(command, 124, f"did not end in {self.patience} s")

    def _environment(self, name: str, front: Front | None) -> dict[str, str]:
        own = {
            "PYTHONPATH": str(self._site),
            "MLFLOW_EXPERIMENT_NAME": name,
            "RAY_USAGE_STATS_ENABLED": "0",
            "OMP_NUM_THREADS": "1",
            **({} if front is None else {"MLFLOW_TRACKING_URI": front.address}),
        }
        taken = ("MLFLOW_", "COIN_RAY_", "RAY_", "PYTHONPATH")
        return {k: v for k, v in os.environ.items() if not k.startswith(taken)} | own

    def _tracker(self) -> Front:
        if self._front is None:
            folder = self.scratch / "tracker"
            folder.mkdir()
            self._front = self._stack.enter_context(served(folder))
        return self._front

    def _picture(self, workspace: Path, name: str, front: Front | None) -> Picture:
        place = workspace if front is None else self.scratch / "tracker"
        return picture(workspace, place / "mlflow.db", name)

    def _room(self, fault: Fault, workspace: Path) -> int:
        """Bytes of a disk with room for what is on it and a share of what the undisturbed run wrote
        beyond that."""
        calm = (self.calm / "workspace").rglob("*")
        disk, most = os.statvfs(workspace), sum(path.stat().st_blocks * 512 for path in calm)
        there = (disk.f_blocks - disk.f_bfree) * disk.f_frsize
        return there + int(fault.when * max(0, most - there))


_CLI, _ON_CPU = (sys.executable, "-m", "coin_ray.cli"), ("--device", "cpu")


@contextlib.contextmanager
def _disk(folder: Path, plan: Schedule) -> Iterator[tuple[Path, Resize | None]]:
    """Where a schedule works, and what makes it smaller or larger: a disk in memory for one that
    fills it, where the machine lets us mount one; else a folder."""
    disk = folder / "disk"
    disk.mkdir()
    mount = ("mount", "-t", "tmpfs", "-o", f"size={LARGE}", "chaos", str(disk))
    fills = any(fault.kind == "disk" for fault in plan.faults)
    if not fills or subprocess.run(mount, stderr=subprocess.DEVNULL, check=False).returncode:
        yield folder / "workspace", None
        return

    def resize(size: int) -> None:
        subprocess.run(("mount", "-o", f"remount,size={size}", str(disk)), check=True)

    try:
        yield disk, resize
    finally:
        subprocess.run(("umount", "--lazy", str(disk)), check=True)


def row(result: Result) -> str:
    """A line of the table."""
    plan = result.schedule
    cells = (
        plan.number,
        plan.seed,
        "; ".join(map(str, plan.faults)),
        "; ".join(f"{fault.when:.0%}" for fault in plan.faults),
        f"{plan.kept:.0%}",
        " ".join("–" if code is None else str(code) for code in result.codes),
        f"{result.seconds:.0f}",
        f"**{len(result.faults)} faults**" if result.faults else "as undisturbed",
    )
    return f"| {' | '.join(map(str, cells))} |"


HEAD = """\
| schedule | seed | faults | when | stored before | exit codes | s | verdict |
|---:|---:|---|---:|---:|---|---:|---|"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--schedules", type=int, default=30, help="how many")
    which.add_argument("--schedule", type=int, action="append", help="these alone, again")
    parser.add_argument("--seeds", type=int, default=1, help="random seeds of the study")
    parser.add_argument(
        "--patience", type=float, default=4, help="times that a run may take longer"
    )
    parser.add_argument("--keep", type=Path, help="an empty folder for workspaces and logs")
    given = parser.parse_args()
    numbers = given.schedule or range(given.schedules)
    with contextlib.ExitStack() as stack:
        if given.keep is None:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
        else:
            scratch = given.keep.resolve()
            scratch.mkdir(parents=True, exist_ok=True)
        start = time.monotonic()
        chaos = Chaos(scratch, given.seeds, given.patience)
        stack.callback(chaos.close)
        print(f"undisturbed: {time.monotonic() - start:.0f} s\n\n{HEAD}", flush=True)
        bad = []
        for number in numbers:
            result = chaos.run(schedule(given.seed, number))
            print(row(result), flush=True)
            for fault in result.faults:  # the table is what goes on
                print(f"{number}: {fault}", file=sys.stderr, flush=True)
                bad.append(f"- {number}: {fault}")
        total = time.monotonic() - start
        print(f"\n{len(numbers)} schedules in {total / 60:.0f} min", *bad, sep="\n")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
