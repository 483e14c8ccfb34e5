"""What large studies take: plan, report, status, tracker, store; an earlier commit beside this one.

    python -m benchmarks.scale --out docs/results/scale.md

Each command runs in a process of its own on what ``scale_inputs`` made, with the earlier code and
then with this, each on a copy that nothing else reads; wall time, CPU time and the most memory. A
command that is not done after ``--patience`` seconds is stopped, and the table says so.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from benchmarks import scale_inputs as inputs
from coin_ray.store.artifacts import Store
from coin_ray.tracking.environment import processor

BEFORE = "ac369df"
HERE = Path(__file__).parent.parent
PROGRAM = "from coin_ray.cli import app; app()"
DATA = ("--data", "tiles=images", "--workspace", "ws")


@dataclass(frozen=True)
class Taken:
    """Seconds of the clock and of the processors, MB at most; ``whole``: it came to its end."""

    wall: float
    cpu: float
    memory: float
    whole: bool

    def __str__(self) -> str:
        more = "" if self.whole else "> "
        return f"{more}{self.wall:.1f} s | {more}{self.cpu:.1f} s | {self.memory:.0f} MB"


def take(code: Path, folder: Path, arguments: Sequence[str], patience: float) -> Taken:
    """A command of the program, of the code in a folder."""
    variables = {**os.environ, "PYTHONPATH": str(code), "PYTHONWARNINGS": "ignore"}
    variables.pop("MLFLOW_TRACKING_URI", None)
    begin = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        cwd=folder,
        env=variables,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    signal.signal(signal.SIGALRM, lambda *_: child.kill())
    signal.alarm(max(1, int(patience)))
    assert child.stderr is not None
    said = child.stderr.read()
    _, status, used = os.wait4(child.pid, 0)
    signal.alarm(0)
    code_of = os.waitstatus_to_exitcode(status)
    if code_of not in (0, -signal.SIGKILL):
        raise RuntimeError(f"{' '.join(arguments)}: {said.decode()[-2000:]}")
    wall = time.perf_counter() - begin
    return Taken(wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1e3, not code_of)


@contextlib.contextmanager
def earlier(commit: str) -> Iterator[Path]:
    """The code of a commit in a worktree of its own."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder, "before")
        subprocess.run(
            ["git", "worktree", "add", "-q", "--detach", str(tree), commit], cwd=HERE, check=True
        )
        try:
            yield tree
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=HERE)


def prepare(folder: Path, cells: int) -> None:
    """Studies of so many cells in a folder, and the results and the journal of one of them."""
    inputs.write_images(folder / "images")
    inputs.write_study(folder / "trials.yaml", inputs.trials(cells), "one_at_a_time", 1)
    inputs.write_study(folder / "grid.yaml", inputs.grid(cells), "grid", inputs.SEEDS)
    study, data = inputs.read_study(folder / "grid.yaml", folder / "images", folder / "ws")
    inputs.write_results(study, data, folder / "ws")
    inputs.write_journal(study, folder / "ws")


@dataclass(frozen=True)
class Case:
    """A command, and of the table its words and its target."""

    what: str
    target: str
    arguments: tuple[str, ...]


def cases(cells: int, parts: Sequence[str]) -> list[Case]:
    """The commands on so many cells."""
    plan, report = ("6 s, 300 MB", "60 s, 1 GB") if cells <= 1000 else ("60 s, 1.5 GB", "10 min")
    found = {
        "plan": Case("plan, cells that share little", plan, ("plan", "trials.yaml", *DATA)),
        "report": Case("report and table", report, ("report", "grid.yaml", *DATA)),
        "status": Case("status", "3 s", ("status", "--workspace", "ws")),
        "tracker": Case(
            "MLflow, sqlite", f"{cells / 20:.0f} s", ("track", "sync", "--workspace", "ws")
        ),
    }
    return [case for name, case in found.items() if name in parts]


def measured(what: str, case: Case, codes: Sequence[Path], folder: Path, patience: float) -> str:
    """A row of the table."""
    taken = []
    for code in codes:
        for rest in ("mlflow.db", "artifacts", "mlflow.lock"):
            place = folder / "ws" / rest
            shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
        taken.append(take(code, folder, case.arguments, patience))
        print(what, case.what, code.name, taken[-1], file=sys.stderr, flush=True)
    return f"| {what} | {case.what} | {case.target} | {taken[0]} | {taken[1]} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--commit", default=BEFORE, help="the earlier code")
    parser.add_argument("--cells", type=int, nargs="*", default=[1000, 10_000])
    parser.add_argument("--artifacts", type=int, default=600_000)
    parser.add_argument("--parts", nargs="*", default=["plan", "report", "status", "tracker"])
    parser.add_argument("--patience", type=float, default=900.0, help="seconds for one command")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    rows = []
    with earlier(given.commit) as before, tempfile.TemporaryDirectory() as scratch:
        for cells in given.cells:
            folder = Path(scratch, str(cells))
            folder.mkdir()
            prepare(folder, cells)
            for case in cases(cells, given.parts):
                what = f"{cells:,} cells"
                rows.append(measured(what, case, (before, HERE), folder, given.patience))
            shutil.rmtree(folder)
        if given.artifacts:
            folder = Path(scratch, "store")
            inputs.write_store(Store(folder / "ws" / "store"), given.artifacts)
            for what, target, arguments in (
                ("store ls", "20 s", ("ls",)),
                ("store gc, nothing to go", "60 s", ("gc", "--quota", "1TB")),
            ):
                case = Case(what, target, ("store", *arguments, "--workspace", "ws"))
                named = f"{given.artifacts:,} artifacts"
                rows.append(measured(named, case, (before, HERE), folder, given.patience))
    load = os.getloadavg()[2]
    lines = [
        f"{processor()}, {os.cpu_count()} cores, load {load:.1f}, {date.today()}; "
        f"before: {given.commit}",
        "",
        "| | | target | before: wall | CPU | memory | now: wall | CPU | memory |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|",
        *rows,
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if given.out is not None:
        given.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
