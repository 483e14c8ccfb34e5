"""What a study declares of a cluster that grows, and the machines of it at its largest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from coin_ray.planning.machines import Node, Request
from coin_ray.section import Positive


@dataclass(frozen=True)
class Growth:
    """A cluster that grows to ``max_nodes`` machines with at least the CPUs, GPUs and GiB of memory
    of ``node``, as Ray counts them; those that are there are among them."""

    max_nodes: Annotated[int, Field(ge=1, le=10_000)]
    node: Mapping[Literal["cpu", "gpu", "memory"], Positive]


def grown(nodes: Sequence[Node], growth: Growth) -> list[Node]:
    """The machines of a cluster at its largest, where ``nodes`` are there."""
    cpus, gpus = growth.node.get("cpu", 1.0), growth.node.get("gpu", 0.0)
    there = sum(node.cpus >= cpus and node.gpus >= gpus for node in nodes)
    one = Node(cpus, gpus, growth.node.get("memory", 0.0) * 2**30)
    return [*nodes, *[one] * (growth.max_nodes - there)]


def bundles(steps: Sequence[Request], training: Request, trainings: int) -> list[dict[str, float]]:
    """What is to be there at once, as Ray counts it: so many trainings, and a place for each step
    that asks for more than one of them has."""
    found = [_bundle(training)] * (trainings * training.count)
    for step in dict.fromkeys(steps):
        one = _bundle(step)
        if not any(all(other.get(k, 0.0) >= v for k, v in one.items()) for other in found):
            found.append(one)
    return found


def _bundle(request: Request) -> dict[str, float]:
    # Whoever has a share of a card has it beside segmenters: it is asked for as a whole.
    gpus = 1.0 if 0 < request.gpus <= 1 else request.gpus
    taken = {"CPU": request.cpus, "GPU": gpus, "memory": request.memory}
    return {name: amount for name, amount in taken.items() if amount}
