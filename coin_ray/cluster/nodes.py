"""The machines of a Ray cluster: their shapes, a process's share of one, and a folder that all of
them should see."""

from __future__ import annotations

import os
import socket
import uuid
from pathlib import Path
from typing import Any, NamedTuple

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from coin_ray import safe
from coin_ray.cluster.own import listening
from coin_ray.cluster.session import session
from coin_ray.planning.machines import Node


def nodes_of(address: str) -> list[Node]:
    """The shapes of a cluster's nodes. UserError if none answers at ``address``."""
    with session(address):
        return connected()


def connected() -> list[Node]:
    """The shapes of the nodes of the cluster that this process is connected to."""
    return [
        Node(found.get("CPU", 0.0), found.get("GPU", 0.0), found.get("memory", 0.0))
        for found in (node["Resources"] for node in ray.nodes() if node["Alive"])
    ]


def node_ids() -> list[str]:
    """The ids of its nodes."""
    return [node["NodeID"] for node in ray.nodes() if node["Alive"]]


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


class Probed(NamedTuple):
    """``folder``: machine name -> what is wrong with it there, empty if nothing is; ``listening``:
    (address, port, program) of a cluster of our own."""

    folder: dict[str, str]
    listening: list[tuple[str, int, str]]


def probe(address: str | None, folder: Path) -> Probed:
    """Try a cluster: every node reads what this machine has written into ``folder`` and the other
    way round. Without an address, a cluster of this machine alone is started for it."""
    mark = folder / f"probe-{uuid.uuid4().hex}"
    folder.mkdir(parents=True, exist_ok=True)
    mark.write_text("here", encoding="utf-8")
    found, sockets = {}, list[tuple[str, int, str]]()
    try:
        with session(address):
            for node in ray.nodes():
                if not node["Alive"]:
                    continue
                there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                look = ray.remote(_look).options(num_cpus=0, scheduling_strategy=there)
                host, problem = ray.get(look.remote(mark), timeout=60)
                if not problem and not mark.with_suffix(f".{host}").is_file():
                    problem = "what is written there is not seen here"
                found[host] = problem
            if address is None:
                sockets = listening()
    finally:
        for path in folder.glob(f"{safe.pattern(mark.name)}*"):
            path.unlink()
    return Probed(found, sockets)


def _look(mark: Path) -> tuple[str, str]:
    host = socket.gethostname()
    try:
        if mark.read_text(encoding="utf-8") != "here":
            return host, "another file is there under the same name"
        mark.with_suffix(f".{host}").write_text("there", encoding="utf-8")
    except OSError as error:
        return host, f"{type(error).__name__}: {error.strerror}"
    return host, ""
