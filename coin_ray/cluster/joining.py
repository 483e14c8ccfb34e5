"""A cluster that grows: what is asked of Ray for a study, and the wait for its first nodes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import ray
from ray.autoscaler.sdk import request_resources
from ray.exceptions import RayError
from ray.experimental import internal_kv as kv

from coin_ray.cluster.nodes import connected
from coin_ray.events.events import Event, Note
from coin_ray.planning.machines import Node, shapes, too_much

ASKED, NAMESPACE = "asked", "coin-ray"
"""Where the cluster keeps which job it was that asked for nodes."""
POLL = 1.0
SAY = 30.0
"""Seconds until the wait is spoken of again; each time it takes twice as long."""
MOST = 1000
"""Trainings that are asked for at once."""


def awaited(
    unmet: Callable[[Sequence[Node]], Sequence[str]],
    minutes: float,
    tell: Callable[[Event], None],
) -> list[Node]:
    """The nodes of the cluster, once nothing of what a study asks for is ``unmet``. UserError where
    that takes more than so many ``minutes``."""
    start, due, every = time.monotonic(), 0.0, SAY
    while told := unmet(nodes := connected()):
        waited = time.monotonic() - start
        if waited >= 60 * minutes:
            raise too_much(told, nodes, f" after {_minutes(minutes)}" if minutes else "")
        if waited >= due:
            due, every = waited + every, 2 * every
            what = f"waiting for {'; '.join(told)}; there are {shapes(nodes) or 'no nodes'}"
            tell(Note(f"{what} ({waited:.0f} s of at most {_minutes(minutes)})"))
        time.sleep(POLL)
    return nodes


def _minutes(number: float) -> str:
    return f"{number:g} minute{'s' * (number != 1)}"


def take_back() -> None:
    """Take back what the driver of another study has asked for, and died: Ray keeps it."""
    # Ray has no other way to ask.
    from ray._private.state import state

    asked = kv._internal_kv_get(ASKED, namespace=NAMESPACE)
    living = {job["JobID"] for job in state.job_table() if not job["IsDead"]}
    if asked and asked.decode() not in living:
        request_resources(bundles=[])
        kv._internal_kv_del(ASKED, namespace=NAMESPACE)


class Demand:
    """What the autoscaler of a cluster is asked to have; leaving it takes that back. Ray keeps one
    such request for the whole cluster."""

    def __init__(self, bundles: Callable[[int], list[dict[str, float]]]) -> None:
        self._bundles, self._asked = bundles, 0

    def __enter__(self) -> Demand:
        return self

    def __exit__(self, *error: Any) -> None:
        if self._asked:
            with suppress(RayError):  # a cluster that is lost asks for nothing any more
                request_resources(bundles=[])
                kv._internal_kv_del(ASKED, namespace=NAMESPACE)

    def follow(self, trainings: int) -> None:
        """Room for so many of them."""
        trainings = min(trainings, MOST)
        if trainings != self._asked:
            if not self._asked:  # known before anything is asked for
                job = ray.get_runtime_context().get_job_id()
                kv._internal_kv_put(ASKED, job, overwrite=True, namespace=NAMESPACE)
            self._asked = trainings
            request_resources(bundles=self._bundles(trainings) if trainings else [])
