"""What Ray Tune tells while it runs trials, and what it is told."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ray import cloudpickle, tune

from coin_ray.events.events import Event, Note
from coin_ray.execution.failures import Failure, cause, lost, trace

RETRIES = 2
"""Times that a trial is tried again whose process or node was lost and that has not come further
meanwhile."""
GATHER = 2.0
"""Seconds in which the trials that one node takes with it are lost."""
NAMED = 3
"""Jobs that are named of them."""


class Retold(tune.Callback):
    """Says which trials are tried again, in one line for all that were lost together, and has those
    tried again ever after that come further. ``given_up``: job -> why its trial is not any more."""

    def __init__(self, tell: Callable[[Event], None], advances: Callable[[str], int]) -> None:
        self._tell, self._advances = tell, advances
        self._before: dict[str, int] = {}
        self._lost: dict[str, str] = {}
        self._since = 0.0
        self.given_up: dict[str, Failure] = {}

    def on_trial_recover(
        self, iteration: int, trials: Sequence[Any], trial: Any, **info: Any
    ) -> None:
        job, error = trial.config["job"], _error(trial)
        now = self._advances(job)
        if now > self._before.get(job, 0):
            self._before[job], trial.run_metadata.num_failures = now, 0
        if not self._lost:
            self._since = time.monotonic()
        self._lost[job] = cause(error) if error else ""

    def on_trial_error(
        self, iteration: int, trials: Sequence[Any], trial: Any, **info: Any
    ) -> None:
        error = _error(trial)
        if error is None or lost(error):
            why = "its process or its node was lost" if error is None else cause(error)
            failure = Failure(f"{why} (tried {RETRIES + 1} times)", "", gone=True)
        else:
            failure = Failure(cause(error), trace(error))
        self.given_up[trial.config["job"]] = failure

    def on_step_end(self, iteration: int, trials: Sequence[Any], **info: Any) -> None:
        if self._lost and time.monotonic() - self._since >= GATHER:
            self._say()

    def on_experiment_end(self, trials: Sequence[Any], **info: Any) -> None:
        if self._lost:
            self._say()

    def _say(self) -> None:
        jobs, more = list(self._lost)[:NAMED], len(self._lost) - NAMED
        who = ", ".join(jobs) + (f" and {more} more" if more > 0 else "")
        one = "lost its process or its node and is tried again"
        many = "lost their processes or their node and are tried again"
        why = next(filter(None, self._lost.values()), "")
        text = f"{who} {many if len(self._lost) > 1 else one}" + (f" ({why})" if why else "")
        self._lost = {}
        self._tell(Note(text, "warning"))

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks for a restore that is never done


class Following(tune.Callback):
    """Has as many trials at once as the cluster has room for."""

    def __init__(self, limited: Any, at_once: Callable[[], int]) -> None:
        self._limited, self._at_once = limited, at_once

    def on_step_begin(self, iteration: int, trials: Sequence[Any], **info: Any) -> None:
        self._limited.max_concurrent = self._at_once()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # as above


def _error(trial: Any) -> BaseException | None:
    """What Tune has kept of a trial's last failure, on this machine: it comes to the study's folder
    later. None of one that it has no words for."""
    path = trial.pickled_error_file
    if path is None or not Path(path).is_file():
        return None
    found: BaseException = cloudpickle.loads(Path(path).read_bytes())
    return found
