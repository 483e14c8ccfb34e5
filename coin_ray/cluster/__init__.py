"""The room that knows Ray. What Ray reads from the environment is set here, before its import: it
reads some of it only once."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from coin_ray.cluster.same_code import check_worker
from coin_ray.store import lease


def _set_environment() -> None:
    """What the user has set stays."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Advice about worker processes that a user cannot act on.
    os.environ.setdefault("RAY_SCHEDULER_EVENTS", "0")
    # Ctrl-C must reach us: Tune's own handler would swallow it and go on saving its state.
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
    os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")
    # Tune's own files of every trial's results: ours are in the store and the journal.
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    # A worker group may have to wait for another cell's tasks; the default gives up after 60 s.
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "1800")
    if (Path.home() / ".ray" / "auth_token").is_file():
        # A head that finds a token asks for it, and who connects by an address does not look for
        # one.
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def _keeper() -> lease.Keeper | None:
    """Where this process is part of a cluster, its actor that keeps leases."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return None
    from coin_ray.cluster.leases import ActorLeases

    return ActorLeases()


_set_environment()
check_worker()
lease.cluster = _keeper
