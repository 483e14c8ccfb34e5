"""What a workspace shows after a schedule, and how it differs from an undisturbed one's."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from coin_ray.store.artifacts import LEASES, SCRATCH

VARYING = (".html", ".md", ".tex", ".svg", ".pdf", ".jsonl", "sweep.json", "times.json")
"""Ends of names of files that tell the time, the command or the machine: only their being there
counts."""
TIMES = ("seconds", "stages_computed", "stages_reused", "study_computed", "study_reused")
"""Ends of names of values in the tracker that say what a run cost."""


@dataclass(frozen=True)
class Picture:
    """``files``: of the study's folders, path -> digest. ``runs``: of the tracker, each as cell,
    status and values, with how often it is there; one that cannot be read is a run of its own."""

    files: dict[str, str]
    runs: Counter[tuple[str, str, tuple[tuple[str, float], ...]]]


def picture(workspace: Path, database: Path, experiment: str) -> Picture:
    folder = workspace / "runs"
    found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    try:
        runs = Counter(tracked(database, experiment))
    except sqlite3.DatabaseError as error:
        runs = Counter({("database", str(error), ()): 1})
    return Picture({str(path.relative_to(folder)): _content(path) for path in found}, runs)


def _content(path: Path) -> str:
    if path.name.endswith(VARYING):
        return "there" if path.stat().st_size else "empty"
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tracked(
    database: Path, experiment: str
) -> Iterator[tuple[str, str, tuple[tuple[str, float], ...]]]:
    """The active runs of an experiment of MLflow's; nothing where there is no database."""
    if not database.is_file():
        return
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as tracker:
        runs = tracker.execute(
            "select run_uuid, status from runs join experiments using (experiment_id)"
            " where experiments.name = ? and runs.lifecycle_stage = 'active'",
            (experiment,),
        ).fetchall()
        for run, status in runs:
            tag = "select value from tags where run_uuid = ? and key = 'coin_ray.cell'"
            cell = tracker.execute(tag, (run,)).fetchone()
            last = "select key, value from latest_metrics where run_uuid = ? order by key"
            values = tracker.execute(last, (run,)).fetchall()
            kept = tuple((key, value) for key, value in values if not key.endswith(TIMES))
            yield (cell[0] if cell else "study", status, kept)


def differences(undisturbed: Picture, found: Picture) -> list[str]:
    """What is not as it was without faults, a line each; nothing if all is."""
    out = []
    before, after = undisturbed.files, found.files
    for name in sorted(before.keys() | after.keys()):
        if name not in after:
            out.append(f"{name} is missing")
        elif name not in before:
            out.append(f"{name} is left over")
        elif before[name] != after[name]:
            out.append(f"{name} differs")
    cells = Counter[str]()
    for (cell, status, _), times in found.runs.items():
        cells[cell] += times
        if status != "FINISHED":
            out.append(f"the tracker's run of {cell[:12]} is {status}")
    for cell, times in (cells | Counter({run[0]: 1 for run in undisturbed.runs})).items():
        if cells[cell] != 1:
            out.append(f"the tracker has {cells[cell]} runs of {cell[:12]}, not 1")
        elif times == 1 and not any(run[0] == cell for run in undisturbed.runs):
            out.append(f"the tracker has a run of {cell[:12]}, which is no cell")
    values = {run[0]: dict(run[2]) for run in undisturbed.runs}
    for cell, _, now in found.runs:
        expected, there = values.get(cell, {}), dict(now)
        lacking = expected.keys() - there.keys()
        wrong = {name for name in there if there[name] != expected.get(name)}
        if cell in values and (lacking or wrong):
            names = ", ".join(sorted(lacking | wrong)[:3])
            out.append(f"in the tracker {names} of {cell[:12]} differ")
    return out


def half_written(workspace: Path, collect: Callable[[], object]) -> list[str]:
    """What is unfinished in a store, once ``collect`` (`coin-ray store gc`) has cleared away what
    killed runs leave: it spares the unfinished of the last hour, so that is made older first."""
    store, old = workspace / "store", time.time() - 86400
    out = [
        f"{folder.relative_to(workspace)} holds {sorted(p.name for p in folder.iterdir())}"
        for folder in store.glob("*/*")
        if folder.parent.name not in (SCRATCH, LEASES, "checkpoints")
        and {p.name for p in folder.iterdir()} != {"data.safetensors", "manifest.json"}
    ]
    for path in (store / SCRATCH).glob("*"):
        os.utime(path, (old, old))
    collect()
    left = [*(store / SCRATCH).glob("*"), *(p for p in (store / LEASES).rglob("*") if p.is_file())]
    left += workspace.glob("**/.coin-ray-*")
    return out + [f"{path.relative_to(workspace)} is left" for path in left]
