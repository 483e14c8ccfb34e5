"""Nodes that die under a tiny study on a cluster: whatever goes, the same command ends by itself.

    python -m benchmarks.chaos_nodes               # the table of docs/results/chaos_nodes.md

A head, which has the driver and no CPU, and two raylets of a CPU and a pretended GPU each run on
this machine. At moments of `coin-ray sweep --address` all processes of one of the two are killed at
once, and another one joins: after the first artifact of each stage, and at ``--moments`` that are
drawn. The first run of the command must end with 0, leave the tables, label maps and pictures of an
undisturbed one, and say no more than ``LINES`` lines about each loss.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import psutil

from benchmarks.chaos_runs import TITLES, artifacts
from benchmarks.chaos_verdict import Picture, differences, picture

STUDY = """\
study: nodes
extends: mini
data: {generated: {train: 0, test: 2, size: 64}}
baseline:
  student: {width: 4, iterations: 30, later_iterations: 30, batch: 2, crop: 64}
  rounds: {count: 2}
  infer: {scales: [1.0]}
design: one_at_a_time
factors:
  kept:
    baseline: most
    levels:
      most: {select.value: 0.9}
      few: {select.value: 0.3, infer.stain_weight: 4.0}
"""
SLACK = {
    "health_check_period_ms": 500,
    "health_check_failure_threshold": 6,
    "worker_niceness": 0,
}
"""A node is taken for dead after three seconds: a busy machine may be silent for one. Workers have
the priority of whoever runs this; Ray's own 15 starves them beside others."""
LINES = 10
"""Lines that the loss of a node may cost on the terminal."""
AT_A_TIME = 5
"""Losses of a run."""
POLL = 0.05
USUAL = re.compile(
    r"\[[\d:]+\] (cells \d|\d+ cells; |.* · seed \d+: (training|round \d+ done|done) ?)"
)
"""What a run says of its progress."""
HEAD = """\
| run | nodes lost | exit code | s | lines about it | verdict |
|---:|---|---:|---:|---:|---|"""


@dataclass(frozen=True)
class Moment:
    """Once there is an artifact of ``stage``, or that ``share`` of all, a node that has a process
    of ``whom`` (a key of ``TITLES``; empty: any node) is lost: drawn by ``draw``."""

    stage: str = ""
    share: float = 0.0
    whom: str = ""
    draw: int = 0

    def __str__(self) -> str:
        when = f"after the first {self.stage}" if self.stage else f"at {self.share:.0%}"
        return f"{when}, of a {self.whom}" if self.whom else when


FIVE = (
    Moment(whom="trial"),
    Moment("ucis", whom="worker"),
    Moment("masks", whom="worker"),
    Moment("select", whom="training"),
    Moment("evaluate"),
)
"""What a node may be at when it goes."""


class Nodes:
    """A head and ``size`` raylets with a pretended GPU each."""

    def __init__(self, size: int) -> None:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "include_dashboard": True, "dashboard_port": 0}
        self._cluster = Cluster(
            initialize_head=True, head_node_args={**head, "_system_config": SLACK}
        )
        self.address = str(self._cluster.address)
        self.nodes: list[Any] = []
        for _ in range(size):
            self.add()

    def add(self) -> None:
        self.nodes.append(self._cluster.add_node(num_cpus=1, num_gpus=1))

    def close(self) -> None:
        self._cluster.shutdown()

    def having(self, whom: str) -> list[Any]:
        """The nodes with a process of this kind; all of them for none."""
        if not whom:
            return list(self.nodes)
        title = TITLES[whom]
        return [node for node in self.nodes if any(map(_titled(title), processes(node)))]

    def lose(self, node: Any) -> None:
        """Kill all processes of a node at once."""
        for process in processes(node):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        self._cluster.remove_node(node, allow_graceful=False)
        self.nodes.remove(node)


def processes(node: Any) -> list[psutil.Process]:
    """A raylet with all that it has started, and what else the node runs."""
    out: list[psutil.Process] = []
    for started in (one for kind in node.all_processes.values() for one in kind):
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(started.process.pid)
            out += [parent, *parent.children(recursive=True)]
    return out


def _titled(title: str) -> Any:
    def found(process: psutil.Process) -> bool:
        with contextlib.suppress(psutil.Error):
            return " ".join(process.cmdline()).startswith(title)
        return False

    return found


def losses(nodes: Nodes, store: Path, total: int, moments: Sequence[Moment]) -> Iterator[Moment]:
    """Lose a node at each of the ``moments``, in whatever order they come; asked ever again, it
    gives the next that has come, if one has."""
    left = list(moments)
    while left:
        stored = artifacts(store)
        for moment in left:
            if moment.stage:
                due = any((store / moment.stage).glob("*/manifest.json"))
            else:
                due = stored >= moment.share * total
            if found := nodes.having(moment.whom) if due else []:
                nodes.lose(Random(moment.draw).choice(found))
                nodes.add()
                left.remove(moment)
                yield moment
                break
        else:
            yield Moment()


@dataclass(frozen=True)
class Sweep:
    """``code`` None: it did not end in time; ``struck``: the moments that came; ``about``: lines
    that are not of its usual progress."""

    code: int | None
    seconds: float
    struck: list[Moment]
    about: list[str]


def sweep(
    study: Path,
    workspace: Path,
    place: Sequence[str],
    environment: Mapping[str, str],
    *,
    going: Iterator[Moment] | None = None,
    patience: float,
) -> Sweep:
    """Run the command at a ``place`` (its options) while nodes are lost."""
    log, start = workspace.with_suffix(".log"), time.monotonic()
    going = going or iter(())
    options = (*place, "--workspace", str(workspace), "--no-tracking")
    struck: list[Moment] = []
    with log.open("wb") as out:
        run = subprocess.Popen(
            (sys.executable, "-m", "coin_ray.cli", "sweep", str(study), *options),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            cwd=workspace.parent,
            start_new_session=True,
        )
        try:
            while (code := run.poll()) is None and time.monotonic() - start < patience:
                struck += [moment for moment in [next(going, Moment())] if moment != Moment()]
                time.sleep(POLL)
        finally:
            if run.poll() is None:
                os.killpg(run.pid, signal.SIGKILL)
                run.wait()
    said = log.read_text(encoding="utf-8", errors="replace").splitlines()
    while_running = said[4 : next((n for n in range(4, len(said)) if said[n] == study.stem), None)]
    about = [line for line in while_running if not USUAL.match(line)]
    return Sweep(code, time.monotonic() - start, struck, about)


def faults(done: Sweep, moments: Sequence[Moment], calm: Picture, found: Picture) -> list[str]:
    """What is not as it must be, a line each."""
    out = [f"no node went {moment}" for moment in moments if moment not in done.struck]
    if done.code is None:
        out.append(f"it did not end in {done.seconds:.0f} s")
    elif done.code:
        out.append(f"it ended with {done.code}")
    if len(done.about) > LINES * len(moments):
        out.append(f"it said {len(done.about)} lines about {len(moments)} losses")
    return out + differences(calm, found)


def seen(workspace: Path) -> Picture:
    """What a run has left for its user."""
    return picture(workspace, workspace / "mlflow.db", "")


def environment(scratch: Path) -> dict[str, str]:
    """Of a driver whose workers map their pretended GPUs to the CPU."""
    from tests import pretended

    taken = ("MLFLOW_", "COIN_RAY_", "RAY_")
    own = {
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "RAY_JOB_CONFIG_JSON_ENV_VAR": pretended.job(scratch / "cards"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
    }
    return {k: v for k, v in os.environ.items() if not k.startswith(taken)} | own


def runs(store: Path, moments: int, seed: int) -> Iterator[list[Moment]]:
    """The losses of each run: after each stage in the order in which an undisturbed one came to
    them, then as many moments as are drawn."""
    first = {
        stage.name: min(path.stat().st_mtime_ns for path in stage.glob("*/manifest.json"))
        for stage in store.iterdir()
        if any(stage.glob("*/manifest.json"))
    }
    stages = sorted(first, key=first.__getitem__)
    for n in range(0, len(stages), AT_A_TIME):
        yield [Moment(stage, draw=seed) for stage in stages[n : n + AT_A_TIME]]
    draw = Random(f"nodes {seed}")
    for n in range(0, moments, AT_A_TIME):
        shares = sorted(draw.uniform(0, 0.95) for _ in range(min(AT_A_TIME, moments - n)))
        yield [Moment(share=round(share, 3), draw=draw.randrange(2**31)) for share in shares]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--moments", type=int, default=20, help="that are drawn, beside the stages")
    parser.add_argument("--patience", type=float, default=1200, help="seconds for a run")
    parser.add_argument("--keep", type=Path, help="an empty folder for workspaces and logs")
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        temporary = tempfile.TemporaryDirectory(prefix="chaos-")
        scratch = given.keep or Path(stack.enter_context(temporary))
        scratch = scratch.resolve()
        scratch.mkdir(parents=True, exist_ok=True)
        study, own = scratch / "nodes.yaml", environment(scratch)
        study.write_text(STUDY)
        os.environ["PYTHONPATH"] = own["PYTHONPATH"]  # the raylets' workers look for the hook, too
        nodes = Nodes(2)
        stack.callback(nodes.close)
        place = ("--address", nodes.address, "--device", "cuda")
        done = sweep(study, scratch / "calm", place, own, patience=given.patience)
        if done.code != 0:
            sys.exit(f"the undisturbed run came to {done.code}: {done.about}")
        calm, store = seen(scratch / "calm"), scratch / "calm" / "store"
        total, bad = artifacts(store), []
        print(f"undisturbed: {done.seconds:.0f} s, {total} artifacts\n\n{HEAD}", flush=True)
        for number, moments in enumerate(runs(store, given.moments, given.seed), 1):
            workspace = scratch / str(number)
            going = losses(nodes, workspace / "store", total, moments)
            done = sweep(study, workspace, place, own, going=going, patience=given.patience)
            wrong = faults(done, moments, calm, seen(workspace))
            cells = (
                *(number, "; ".join(map(str, moments)), done.code, f"{done.seconds:.0f}"),
                *(len(done.about), f"**{len(wrong)} faults**" if wrong else "as undisturbed"),
            )
            print(f"| {' | '.join(map(str, cells))} |", flush=True)
            bad += [f"- {number}: {fault}" for fault in wrong]
        print("", *bad, sep="\n")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
