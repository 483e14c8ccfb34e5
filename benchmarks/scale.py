"""What large studies take: plan, report, status, tracker, store; an earlier commit beside this one.

    python -m benchmarks.scale --out docs/results/scale.md

Each command runs in a process of its own on what ``scale_inputs`` made, with the earlier code and
then with this, each on a copy that nothing else reads; wall time, CPU time and the most memory. The
earlier code is stopped after ``--patience`` seconds, and then not tried on more cells; this one
after what the case allows it. The table says so. All of it takes about 25 minutes on two cores, ten
of them to remove what it made, and 4 GB below the folder of temporary files; ``--cells 100
--artifacts 3000`` takes one.
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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import sqlalchemy

from benchmarks import scale_inputs as inputs
from coin_ray.store.artifacts import Store
from coin_ray.tracking.environment import processor

COMMIT, BEFORE = "ac369df", "before"
OURS = "sqlite:///ws/mlflow.db"
"""What a workspace has by itself."""
RATE = "20 cells a second"
PARTS = ["plan", "report", "status", "tracker", "postgres"]
HERE = Path(__file__).parent.parent
PROGRAM = "from coin_ray.cli import app; app()"
DATA = ("--data", "tiles=images", "--workspace", "ws")


@dataclass(frozen=True)
class Taken:
    """Seconds of the clock and of the processors, MB at most; ``whole``: it came to its end;
    ``rate``: cells a second that the tracker has, 0 for what is not counted."""

    wall: float
    cpu: float
    memory: float
    whole: bool
    rate: float = 0.0

    def __str__(self) -> str:
        more = "" if self.whole else "> "
        rate = f" ({self.rate:.1f} cells a second)" if self.rate else ""
        return f"{more}{self.wall:.1f} s{rate} | {more}{self.cpu:.1f} s | {self.memory:.0f} MB"


def take(
    code: Path, folder: Path, arguments: Sequence[str], patience: float, tracker: str = OURS
) -> Taken:
    """A command of the program, of the code in a folder."""
    path = os.pathsep.join([str(code), os.environ.get("PYTHONPATH", "")])
    variables = {**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore"}
    variables.pop("MLFLOW_TRACKING_URI", None)
    if tracker != OURS:
        variables["MLFLOW_TRACKING_URI"] = tracker
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


def prepare(folder: Path, cells: int, sides: Mapping[str, Path]) -> None:
    """Studies of so many cells, and for the code of each side the results and the journal of one of
    them."""
    images = folder / "images"
    inputs.write_images(images)
    inputs.write_study(folder / "trials.yaml", inputs.trials(cells), "one_at_a_time", 1)
    inputs.write_study(folder / "grid.yaml", inputs.grid(cells), "grid", inputs.SEEDS)
    inputs.write_journal(inputs.read_study(folder / "grid.yaml", images, folder / "w"), folder)
    for side, code in sides.items():
        place = folder / side
        place.mkdir()
        (place / "ws").mkdir()
        for name in ("images", "trials.yaml", "grid.yaml"):
            (place / name).symlink_to(folder / name)
        (place / "ws" / "journal").symlink_to(folder / "journal")
        told = inputs.told_by(code, folder / "grid.yaml", images, folder / "w")
        inputs.write_results(told, place / "ws")


@dataclass(frozen=True)
class Case:
    """A command, of the table its words and its target, and the seconds that it is allowed."""

    what: str
    target: str
    arguments: tuple[str, ...]
    limit: float = 120.0
    tracker: str = OURS


def cases(cells: int, parts: Sequence[str], postgres: str) -> list[Case]:
    """The commands on so many cells; the tracker's rate is taken of few."""
    sync = ("track", "sync", "--workspace", "ws")
    plan, report = ("6 s, 300 MB", "60 s, 1 GB") if cells <= 1000 else ("60 s, 1.5 GB", "10 min")
    found = {
        "plan": Case("plan, cells that share little", plan, ("plan", "trials.yaml", *DATA)),
        "report": Case("report and table", report, ("report", "grid.yaml", *DATA), 600.0),
        "status": Case("status", "3 s", ("status", "--workspace", "ws")),
        "tracker": Case("MLflow, sqlite", RATE, sync, 75.0, OURS),
        "postgres": Case("MLflow, Postgres", RATE, sync, 75.0, postgres),
    }
    left_out = ("tracker", "postgres") if cells > 1000 else () if postgres else ("postgres",)
    return [case for name, case in found.items() if name in parts and name not in left_out]


def measured(
    what: str, case: Case, sides: Mapping[str, Path], folder: Path, patience: float, gone: set[str]
) -> str:
    """A row of the table; of the earlier code nothing for a case that is ``gone``, to which one is
    added that was stopped."""
    columns = []
    for side, code in sides.items():
        if side == BEFORE and case.what in gone:
            columns.append("stopped before | | ")
            continue
        place = folder / side if (folder / side).is_dir() else folder
        limit = patience if side == BEFORE else case.limit
        taken = take(code, place, case.arguments, limit, case.tracker)
        if case.target == RATE:
            taken = replace(taken, rate=finished(case.tracker, place) / taken.wall)
        if side == BEFORE and not taken.whole:
            gone.add(case.what)
        print(what, case.what, side, taken, file=sys.stderr, flush=True)
        columns.append(str(taken))
    return f"| {what} | {case.what} | {case.target} | {' | '.join(columns)} |"


def finished(tracker: str, place: Path) -> int:
    """Runs in MLflow's database that have ended, without the study's; it is emptied."""
    database = sqlalchemy.create_engine(tracker.replace("sqlite:///", f"sqlite:///{place}/"))
    tables, count = sqlalchemy.MetaData(), 0
    tables.reflect(database)
    if "runs" in tables.tables:  # else it was stopped before it had made them
        with database.begin() as connection:
            asked = "SELECT count(*) FROM runs WHERE status = 'FINISHED'"
            (count,) = connection.execute(sqlalchemy.text(asked)).one()
    tables.drop_all(database)
    database.dispose()
    return max(0, int(count) - 1)


def page(out: Path, table: str) -> str:
    """The page of the table; what follows it on an earlier one, from a heading on, stays."""
    earlier = out.read_text(encoding="utf-8") if out.is_file() else ""
    _, heading, rest = earlier.partition("\n## ")
    return f"# What large studies take\n\n{table}{heading}{rest}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--commit", default=COMMIT, help="the earlier code")
    parser.add_argument("--cells", type=int, nargs="*", default=[1000, 10_000])
    parser.add_argument("--artifacts", type=int, default=600_000)
    parser.add_argument("--parts", nargs="*", default=PARTS)
    parser.add_argument("--postgres", default="", help="address of an empty database, for a row")
    parser.add_argument("--patience", type=float, default=60.0, help="with the earlier code, s")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    database = sqlalchemy.create_engine(given.postgres) if given.postgres else None
    if database is not None and sqlalchemy.inspect(database).get_table_names():
        parser.error("--postgres: the database has tables, and would be emptied")
    rows, gone = [], set[str]()
    with earlier(given.commit) as before, tempfile.TemporaryDirectory() as scratch:
        sides = {BEFORE: before, "now": HERE}
        for cells in given.cells:
            folder = Path(scratch, str(cells))
            folder.mkdir()
            prepare(folder, cells, sides)
            for case in cases(cells, given.parts, given.postgres):
                what = f"{cells:,} cells"
                rows.append(measured(what, case, sides, folder, given.patience, gone))
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
                rows.append(measured(named, case, sides, folder, given.patience, gone))
    load = os.getloadavg()[2]
    lines = [
        f"{processor()}, {os.cpu_count()} cores, load {load:.1f}, {date.today()}; before: "
        f"{given.commit}, stopped after {given.patience:g} s. Cells of {inputs.IMAGES} images; "
        "made by `python -m benchmarks.scale`.",
        "",
        "| | | target | before: wall | CPU | memory | now: wall | CPU | memory |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|",
        *rows,
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if given.out is not None:
        given.out.write_text(page(given.out, text), encoding="utf-8")


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
