"""The events of a running study, from the hub to whoever listens."""

from __future__ import annotations

import _thread
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayError

from coin_ray.errors import UserError
from coin_ray.events.events import Note, from_json
from coin_ray.execution.tally import Listen, unfailing

LOST = 40.0
"""Seconds without anybody at Ray's head, after which the cluster is given up. Ray itself ends its
driver after 60, in many words of its own."""
LOOK = 2.0


@contextmanager
def pumped(
    hub: Any,
    listen: Listen,
    answer: Callable[[Collection[str]], None],
    head: str = "",
) -> Iterator[Callable[[], None]]:
    """Hand the hub's events to ``listen`` from a thread while the body runs, all of them at its
    end, and have the driver ``answer`` the trials, of which some ask for their jobs; yields what
    does so at once.

    Whoever listens may fail. Once the hub is lost for good, or the ``head`` (host:port) of Ray, so
    is the cluster: the body is interrupted, and that is a UserError.
    """
    stop, one, hand_on = threading.Event(), threading.Lock(), unfailing(listen)
    gone: list[UserError] = []

    def pump() -> None:
        while not stop.is_set():
            try:
                drain()
            except UserError as error:
                give_up(error)
                return
            stop.wait(0.25)

    def watch() -> None:
        answered = time.monotonic()
        while not stop.wait(LOOK):
            if _listens(head):
                answered = time.monotonic()
            elif time.monotonic() - answered >= LOST:
                give_up(_lost(f"nobody has answered at its head, {head}, for {LOST:.0f} s"))
                return

    def give_up(error: UserError) -> None:
        if gone:
            return
        gone.append(error)
        # Tune would wait for what never comes. It is said now: where the driver's own raylet is
        # gone, Ray may end this process before any error is seen.
        hand_on(Note(f"{error.what}: {error.do}", "error"))
        _thread.interrupt_main()

    def drain() -> None:
        with one:
            try:
                told, asked = ray.get(hub.drain.remote())
                answer(asked)
            except RayError as error:
                why = f"{type(error).__name__}: {(str(error).splitlines() or [''])[-1]}"
                raise _lost(why) from error
            for event in told:
                hand_on(from_json(event))

    threads = [threading.Thread(target=pump, daemon=True)]
    if head:
        threads.append(threading.Thread(target=watch, daemon=True))
    try:
        for thread in threads:
            thread.start()
        yield drain
    except KeyboardInterrupt:
        if gone:
            raise gone[0] from None
        raise
    finally:
        stop.set()
        for thread in threads:
            # Without a head, what asks it waits for as long as Ray does.
            thread.join(timeout=1.0 if gone else None)
        if not gone:
            drain()


def _lost(found: str) -> UserError:
    return UserError(
        "the Ray cluster was lost while the study ran",
        found=found,
        do="run the same command again: what was computed is stored",
    )


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=LOOK).close()
    except OSError:
        return False
    return True
