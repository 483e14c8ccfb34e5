"""The machines of a Ray cluster: their shapes, a process's share of one, and what all of them have
to see."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from coin_ray import bucket
from coin_ray.cluster.leaving import leaving
from coin_ray.cluster.same_code import WAIT
from coin_ray.cluster.session import session
from coin_ray.errors import UserError
from coin_ray.files import seen
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
