"""Nodes that die under a tiny study on a cluster: whatever goes, the same command ends by itself.

    python -m benchmarks.chaos_nodes --stages --moments 20   # the table of docs/results/chaos_nodes.md

A head, which has the driver, and two raylets with a pretended GPU each run on this machine. At a
moment of `coin-ray sweep --address` all processes of one of the two are killed at once, and another
one joins. The command must then end with 0 in its first run, leave the tables, label maps and
pictures of an undisturbed run, and say no more than ``LINES`` lines more than that one.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import psutil

from benchmarks.chaos_runs import TITLES, artifacts
from benchmarks.chaos_verdict import Picture, differences, half_written, picture
from coin_ray.pipeline.stages import STAGES

STUDY = """\
study: nodes
extends: mini
data: {generated: {train: 0, test: 2, size: 64}}
baseline:
  student: {width: 4, iterations: 30, later_iterations: 4, batch: 2, crop: 64}
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
SLACK = {"health_check_period_ms": 500, "health_check_failure_threshold": 6}
"""A node is taken for dead after three seconds: a busy machine may be silent for one."""
LINES = 10
"""Lines that the loss of a node may cost on the terminal."""
POLL = 0.05


@dataclass(frozen=True)
class Moment:
    """Once so many artifacts of a ``stage`` are there, or that ``share`` of all, the node that has a
    process of ``whom`` is lost; one of them drawn by ``draw`` where nobody is named."""

    stage: str = ""
    share: float = 0.0
    whom: str = ""
    draw: int = 0

    def __str__(self) -> str:
        when = f"after the first {self.stage}" if self.stage else f"at {self.share:.0%}"
        return f"{when}, the node of a {self.whom}" if self.whom else when


FIVE = (
    Moment(whom="trial"),
    Moment("centroids", whom="worker"),
    Moment("masks", whom="segmenter"),
    Moment("select", whom="training"),
    Moment("evaluate"),
)
"""What a node may be at when it goes."""


class Nodes:
    """A head and ``size`` raylets of one CPU and one pretended GPU each."""

    def __init__(self, size: int = 2) -> None:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 1, "include_dashboard": True, "dashboard_port": 0}
        self._cluster = Cluster(
            initialize_head=True, head_node_args={**head, "_system_config": SLACK}
        )
        self.address = str(self._cluster.address)
        self.nodes = [self.add() for _ in range(size)]

    def add(self) -> Any:
        return self._cluster.add_node(num_cpus=1, num_gpus=1)

    def close(self) -> None:
        self._cluster.shutdown()

    def of(self, whom: str) -> list[Any]:
        """The nodes that have a process of this kind; all of them for none."""
        if not whom:
            return list(self.nodes)
        return [
            node
            for node in self.nodes
            if any(p.startswith(TITLES[whom]) for p in map(_title, processes(node)))
        ]

    def lose(self, node: Any) -> None:
        """Kill all processes of a node at once, and have another one join."""
        for process in processes(node):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        self._cluster.remove_node(node, allow_graceful=False)
        self.nodes[self.nodes.index(node)] = self.add()


def processes(node: Any) -> list[psutil.Process]:
    """A raylet with all that it has started, and what else the node runs."""
    out: list[psutil.Process] = []
    for started in node.all_processes.values():
        for one in started:
            with contextlib.suppress(psutil.NoSuchProcess):
                parent = psutil.Process(one.process.pid)
                out += [parent, *parent.children(recursive=True)]
    return out


def _title(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def strikes(
    nodes: Nodes, store: Path, total: int, moments: Sequence[Moment]
) -> Iterator[list[Moment]]:
    """Lose a node at each of the ``moments``, one after the other; asked again and again, it says
    which have come."""
    done: list[Moment] = []
    for moment in moments:
        while True:
            if moment.stage:
                due = any((store / moment.stage).glob("*/manifest.json"))
            else:
                due = artifacts(store) >= moment.share * total
            found = nodes.of(moment.whom) if due else []
            if found:
                break
            yield done
        nodes.lose(Random(moment.draw).choice(found))
        done.append(moment)
    while True:
        yield done


@dataclass(frozen=True)
class Sweep:
    """``code`` None: it did not end in time."""

    code: int | None
    seconds: float
    said: list[str]
    struck: list[Moment]


def sweep(
    study: Path,
    workspace: Path,
    nodes: Nodes,
    environment: dict[str, str],
    strike: Callable[[], Iterator[list[Moment]]] | None = None,
    *,
    patience: float,
) -> Sweep:
    """Run the command on the cluster while nodes are lost."""
    log, start = workspace.with_suffix(".log"), time.monotonic()
    place = ("--address", nodes.address, "--workspace", str(workspace), "--device", "cuda")
    command = (sys.executable, "-m", "coin_ray.cli", "sweep", str(study), *place)
    going = strike() if strike else iter(())
    struck: list[Moment] = []
    with log.open("wb") as out:
        run = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=workspace.parent,
            start_new_session=True,
        )
        try:
            while run.poll() is None and time.monotonic() - start < patience:
                struck = next(going, struck)
                time.sleep(POLL)
        finally:
            code = run.poll()
            if code is None:
                os.killpg(run.pid, signal.SIGKILL)
                run.wait()
    said = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return Sweep(code, time.monotonic() - start, said, struck)
