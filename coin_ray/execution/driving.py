"""Of several runs of one study at a time one drives it; the others hand it what they were given and
wait for its end."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from coin_ray.events.events import Note
from coin_ray.execution import edits
from coin_ray.execution.tally import Listen
from coin_ray.files import clock, make_folder
from coin_ray.store import lease
from coin_ray.study.resolved import ResolvedStudy

LEASE = "driver.lease"
PAUSE = 0.2
WAITS = (
    "{who} runs this study already: it takes over what the file says now, and the table comes here "
    "when that run has ended"
)
ELSEWHERE = f", or has been silent for {lease.STALE:g} s because its machine is lost"


@contextmanager
def driving(study: ResolvedStudy, runs: Path, listen: Listen) -> Iterator[None]:
    """Drive a study, whose results go to ``runs``, while the body runs. Where another process does
    so, it takes the study over as it is here; the body begins when that process has ended, however
    it did."""
    make_folder(runs)
    token = _taken(study, runs, listen)
    with lease.held(runs / LEASE, token):
        edits.clear(runs)
        yield


def _taken(study: ResolvedStudy, runs: Path, listen: Listen) -> str:
    handed: Path | None = None
    answered = False
    try:
        while (token := lease.acquire(runs / LEASE)) is None:
            there = lease.holder(runs / LEASE, clock(runs))
            if there is not None and not there.ended and not answered:
                if handed is None:
                    text = WAITS.format(who=f"process {there.pid} on {there.host}")
                    away = there.host != socket.gethostname()
                    listen(Note(text + ELSEWHERE if away else text))
                if handed is None or not handed.exists():
                    handed = edits.hand_in(study, runs)
                if said := edits.answer(handed):
                    answered = True
                    listen(Note(said))
            time.sleep(PAUSE)
    finally:
        if handed is not None:
            edits.take_back(handed)
    return token
