"""The events of a running study, from the hub to whoever listens."""

from __future__ import annotations

import _thread
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayError

from coin_ray.errors import UserError
from coin_ray.events.events import Note, from_json
from coin_ray.execution.tally import Listen, unfailing


@contextmanager
def pumped(
    hub: Any, listen: Listen, answer: Callable[[Collection[str]], None]
) -> Iterator[Callable[[], None]]:
    """Hand the hub's events to ``listen`` from a thread while the body runs, all of them at its
    end, and have the driver ``answer`` the trials, of which some ask for their jobs; yields what
    does so at once.

    Whoever listens may fail. Once the hub is lost for good, so is the cluster: the body is
    interrupted, and that is a UserError.
    """
    stop, one, hand_on = threading.Event(), threading.Lock(), unfailing(listen)
    gone: list[UserError] = []

    def pump() -> None:
        while not stop.is_set():
            try:
                drain()
            except UserError as error:
                gone.append(error)
                # Tune would wait for what never comes. It is said now: where the driver's own
                # raylet is gone, Ray may end this process before any error is seen.
                hand_on(Note(f"{error.what}: {error.do}", "error"))
                _thread.interrupt_main()
                return
            stop.wait(0.25)

    def drain() -> None:
        with one:
            try:
                told, asked = ray.get(hub.drain.remote())
                answer(asked)
            except RayError as error:
                raise UserError(
                    "the Ray cluster was lost while the study ran",
                    found=f"{type(error).__name__}: {str(error).splitlines()[-1]}",
                    do="run the same command again: what was computed is stored",
                ) from error
            for event in told:
                hand_on(from_json(event))

    thread = threading.Thread(target=pump, daemon=True)
    try:
        thread.start()
        yield drain
    except KeyboardInterrupt:
        if gone:
            raise gone[0] from None
        raise
    finally:
        stop.set()
        thread.join()
        if not gone:
            drain()
