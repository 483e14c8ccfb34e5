"""Says who waits for what when nothing moves any more."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice

from coin_ray.beside import beside
from coin_ray.events.events import Event, Stalled
from coin_ray.execution.tally import Pulse
from coin_ray.planning.machines import Request
from coin_ray.store.artifacts import Store
from coin_ray.store.upkeep import leases

MOST = 12
"""Lines for cells and for leases each."""


@contextmanager
def watchdog(
    pulse: Pulse,
    look: Callable[[], Sequence[str]],
    tell: Callable[[Event], None],
    patience: float,
) -> Iterator[None]:
    """While the body runs, tell what ``look`` sees whenever there was no beat for ``patience``
    seconds, and again after twice, four times ... as long."""

    def watch(stop: threading.Event) -> None:
        due = patience
        while not stop.wait(min(patience / 5, 10.0)):
            silence = pulse.silence()
            if silence < patience:
                due = patience
            elif silence >= due:
                due *= 2
                tell(Stalled(round(silence, 1), list(look())))

    with beside(watch, "watchdog"):
        yield


def who_waits(
    store: Store,
    running: Mapping[str, str],
    requests: Sequence[Request],
    free: Mapping[str, float],
    total: Mapping[str, float],
    pending: int,
) -> list[str]:
    """One line a cell at work with the last it said, a stage that somebody computes and who that
    is, and what is asked for against what is free (Ray's resources). ``pending``: groups of
    processes for which there is no place yet."""
    lines = [f"{cell}: last heard of at {step}" for cell, step in islice(running.items(), MOST)]
    for work in islice(leases(store), MOST):
        holder, stage, name = work.holder, *work.path.split("/")
        state = f"was alive {holder.silent:.0f} s ago" if holder.alive else "has ended"
        lines.append(
            f"{stage} {name} is held by {holder.host}, process {holder.pid}, which {state}"
        )
    for request in requests:
        times = f"{request.count} × " if request.count > 1 else ""
        lines.append(f"{request.where} asks for {times}({request})")
    have = ", ".join(
        f"{free.get(name, 0.0):g} of {total[name]:g} {name}"
        for name in ("CPU", "GPU")
        if name in total
    )
    lines.append(f"free now: {have}; groups of processes that wait for a place: {pending}")
    return lines
