"""Leases of what a bucket holds, kept by one actor that all studies of a cluster share.

It answers in a millisecond where a bucket takes tens of them, and tells time by one clock. Nothing
that it knows matters: started anew, it hears of each lease that is held with its next heartbeat,
and until then a stage may be computed twice.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from coin_ray.store.lease import STALE

NAME, NAMESPACE = "coin-ray-leases", "coin-ray"
IDLE = 600.0
"""Seconds without a word after which the actor ends: a study that is killed cannot end it."""
PATIENCE = 30.0
"""Seconds in which it answers, or its node has gone."""


class LeaseActor:
    """Who holds which lease, and when he was last heard of (monotonic)."""

    def __init__(self, idle: float = IDLE) -> None:
        self._held: dict[str, tuple[str, float]] = {}
        self._idle, self._asked = idle, time.monotonic()
        me = ray.get_runtime_context().current_actor

        def watch() -> None:
            while True:
                time.sleep(idle / 2)
                me.end.remote()

        threading.Thread(target=watch, daemon=True).start()

    def take(self, name: str, token: str) -> bool:
        """Take a lease that is free, ours, or of somebody silent."""
        self._asked = now = time.monotonic()
        holder, heard = self._held.get(name, (token, now))
        if holder != token and now - heard <= STALE:
            return False
        self._held[name] = token, now
        return True

    def give(self, name: str, token: str) -> None:
        """Give a lease back that is ours."""
        self._asked = time.monotonic()
        if self._held.get(name, ("", 0.0))[0] == token:
            del self._held[name]

    def end(self) -> None:
        """End, if nobody has asked for long; else forget who is silent, and gives nothing back."""
        now = time.monotonic()
        silent = [name for name, (_, heard) in self._held.items() if now - heard > STALE]
        for name in silent:
            del self._held[name]
        if now - self._asked > self._idle:
            ray.actor.exit_actor()


class ActorLeases:
    """The actor, as a ``Keeper``; a lease that it cannot be asked for is granted."""

    def take(self, name: str, token: str) -> bool:
        answer = _ask("take", name, token)
        return answer is None or bool(answer)

    def give(self, name: str, token: str) -> None:
        _ask("give", name, token)


_actors: dict[str, Any] = {}
"""The actor by the id of the job that this process is of."""


def start() -> None:
    """Have the actor, on this process's node where it is new: a driver calls it first."""
    _actor()


def _actor() -> Any:
    context = ray.get_runtime_context()
    job = context.get_job_id()
    if job not in _actors:
        here = NodeAffinitySchedulingStrategy(context.get_node_id(), soft=True)
        options = {"name": NAME, "namespace": NAMESPACE, "get_if_exists": True}
        options |= {"lifetime": "detached", "num_cpus": 0, "scheduling_strategy": here}
        _actors[job] = ray.remote(LeaseActor).options(**options).remote()
    return _actors[job]


def _ask(method: str, *words: str) -> Any:
    """Its answer; None where neither it nor the one that is started in its place gives any."""
    for _ in range(2):
        try:
            return ray.get(getattr(_actor(), method).remote(*words), timeout=PATIENCE)
        except (RayActorError, GetTimeoutError):  # its node has gone, or it was idle
            _actors.clear()
    return None
