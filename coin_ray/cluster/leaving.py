"""Nodes that are about to go: Ray drains one that is pre-empted or scaled down before it goes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress

from ray.exceptions import RayError

from coin_ray.beside import beside

EVERY = 2.0
"""Seconds between two looks."""


def leaving() -> set[str]:
    """The ids of such nodes of the cluster that this process is connected to."""
    # Ray has no other way to ask; its own libraries ask so, too.
    from ray._private.state import state

    return set(state.get_draining_nodes())


@contextmanager
def noticed(nodes: Collection[str]) -> Iterator[Callable[[], bool]]:
    """Whether one of ``nodes`` is about to go, asked of Ray by a thread while the body runs."""
    notice = threading.Event()

    def look(stop: threading.Event) -> None:
        while not (notice.is_set() or stop.wait(EVERY)):
            with suppress(RayError):  # Ray does not answer now: what is lost with it is tried again
                if leaving() & set(nodes):
                    notice.set()

    with beside(look, "leaving"):
        yield notice.is_set
