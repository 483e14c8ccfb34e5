"""The machines of a Ray cluster: their shapes, a process's share of one, and a folder that all of
them should see."""

from __future__ import annotations

import errno
import os
import socket
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from coin_ray import bucket, safe
from coin_ray.cluster.leaving import leaving
from coin_ray.cluster.own import listening
from coin_ray.cluster.same_code import WAIT
from coin_ray.cluster.session import session
from coin_ray.errors import UserError
from coin_ray.files import seen, write_bytes, write_text
from coin_ray.planning.machines import Node


def nodes_of(address: str) -> list[Node]:
    """The shapes of a cluster's nodes. UserError if none answers at ``address``."""
    with session(address):
        return connected()


def connected() -> list[Node]:
    """The shapes of the nodes of the cluster that this process is connected to."""
    return [
        Node(found.get("CPU", 0.0), found.get("GPU", 0.0), found.get("memory", 0.0))
        for found in (node["Resources"] for node in staying())
    ]


def staying() -> list[dict[str, Any]]:
    """Its nodes, as Ray describes them, that live and are not about to go."""
    gone = leaving()
    return [node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in gone]


def limit(cpus: float, gpus: float, card: Any = None) -> None:
    """Hold this process to its share of a machine, and to the ``card`` that it was given of several
    that it sees.

    Ray sets OMP_NUM_THREADS once per process, and a reused worker would keep the first count; a
    share of a GPU is for Ray a number only, so its memory is limited here; and what asks for no GPU
    is shown all of them.
    """
    import torch

    torch.set_num_threads(max(1, int(cpus)))
    if not gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if card is not None:
        torch.cuda.set_device(card)
    if 0 < gpus < 1:
        torch.cuda.set_per_process_memory_fraction(gpus)


MEASURED = 4_000_000
"""Bytes by which a folder's speed is measured."""


class Probed(NamedTuple):
    """``folder``: machine name -> what is wrong with it there, empty if nothing is; ``listening``:
    (address, port, program) of a cluster of our own; ``speed``: machine name -> how fast the folder
    is there, and how far its clock is from the folder's."""

    folder: dict[str, str]
    listening: list[tuple[str, int, str]]
    speed: dict[str, str]


def probe(address: str | None, folder: Path) -> Probed:
    """Try a cluster: every node reads what this machine has written into ``folder``, or the bucket
    that it stands for, and the other way round. Without an address, a cluster of this machine alone
    is started for it."""
    mark = folder / f"probe-{uuid.uuid4().hex}"
    write_text(mark, "here")
    found, speed, sockets = {}, {}, list[tuple[str, int, str]]()
    try:
        with session(address):
            for node in ray.nodes():
                if not node["Alive"]:
                    continue
                there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                look = ray.remote(_look).options(num_cpus=0, scheduling_strategy=there)
                host, problem, speed[host] = ray.get(look.remote(mark), timeout=120)
                answer = mark.with_name(f"{mark.name}.{host}")
                if not problem and not seen(answer):
                    problem = "what is written there is not seen here"
                bucket.remove(answer)
                found[host] = problem
            if address is None:
                sockets = listening()
    finally:
        for path in folder.glob(f"{safe.pattern(mark.name)}*"):
            path.unlink()
        bucket.remove(mark)
    return Probed(found, sockets, speed)


def check_seen(paths: Sequence[Path]) -> None:
    """UserError if a node of the cluster that this process is connected to does not see one of
    ``paths``: each of its cells would fail, or be computed twice."""
    places = [str(path) for path in paths if bucket.address(path) is None]
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) < 2 or not places:
        return
    look = ray.remote(num_cpus=0)(_unseen)
    asked = []
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        asked.append(look.options(scheduling_strategy=there).remote(places))
    for node, answer in zip(nodes, asked, strict=True):
        try:
            unseen = ray.get(answer, timeout=WAIT)
        except (ray.exceptions.TaskUnschedulableError, ray.exceptions.GetTimeoutError):
            continue  # it leaves the cluster, or takes part later
        if unseen:
            raise UserError(
                f"the node {node['NodeManagerHostname']} does not see what this one does",
                where=unseen[0],
                expected="workspace and images under the same path on every node",
                do="mount them there, or take a bucket (docs/cluster.md)",
            )


def _unseen(places: Sequence[str]) -> list[str]:
    return [place for place in places if not seen(Path(place))]


def _look(mark: Path) -> tuple[str, str, str]:
    host = socket.gethostname()
    try:
        if not seen(mark) or mark.read_text(encoding="utf-8") != "here":
            return host, "what is written here is not seen there", ""
        write_text(mark.with_name(f"{mark.name}.{host}"), "there")
        return host, "", measured(mark.with_name(f"{mark.name}-speed.{host}"))
    except OSError as error:
        return host, f"{type(error).__name__}: {error.strerror}", ""


def measured(path: Path) -> str:
    """How fast a file is written and read, and how far this machine's clock is from that of whoever
    keeps it. OSError where it cannot be."""
    content, begun = os.urandom(MEASURED), time.perf_counter()
    write_bytes(path, content)
    written = time.perf_counter()
    (bucket.read if bucket.address(path) else Path.read_bytes)(path)
    read, here = time.perf_counter(), time.time()
    kept = bucket.modified(path) or path.stat().st_mtime
    apart = here - kept - (read - written)
    bucket.remove(path)
    path.unlink()
    _check_rights(path)
    fast = [f"{MEASURED / 1e6 / max(s, 1e-3):.0f}" for s in (written - begun, read - written)]
    return f"{' and '.join(fast)} MB/s, clock {abs(apart):.0f} s off"


def _check_rights(path: Path) -> None:
    """OSError where a bucket may not be listed, or does not keep the condition of a write, on which
    it rests that of two writers the first one wins."""
    if bucket.address(path) is None:
        return
    probe = path / "new"
    try:
        bucket.write(probe, b"first", new=True)
        bucket.names(path)
        if bucket.write(probe, b"second", new=True):
            said = "what is there is overwritten, though a write is to fail then (If-None-Match)"
            raise OSError(errno.ENOTSUP, said, bucket.address(path))
    finally:
        bucket.remove(probe)
