"""Workers run the code that the driver runs, and nothing of the folder it was started in."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import coin_ray
from coin_ray.errors import UserError
from coin_ray.identity import code_identity

CODE = "COIN_RAY_CODE"
"""Environment of a worker: the identity of the driver's code."""
WAIT = 180.0
"""Seconds for the first process of a node, on a machine that is busy."""


def job() -> dict[str, Any]:
    """Arguments of ``ray.init``: where workers look for modules, and whose code they must have."""
    from ray.job_config import JobConfig

    class Job(JobConfig):
        """Ray puts the driver's working folder before everything in each worker, unless the job
        brings one; ours needs none."""

        def _runtime_env_has_working_dir(self) -> bool:
            return True

    # Ray puts one before the other, so the first of them comes last.
    path = module_path(sys.path, Path.cwd(), Path(coin_ray.__file__).parents[1])
    # Whoever submitted us as a job has said it already, and Ray refuses to hear it twice.
    code = {} if CODE in os.environ else {CODE: code_identity()}
    return {
        "job_config": Job(_py_driver_sys_path=path[::-1]),
        "runtime_env": {"env_vars": code},
    }


def module_path(path: Sequence[str], here: Path, package: Path) -> list[str]:
    """The entries of ``path`` that a Python of ours does not have by itself: those before its
    library. The working folder ``here`` is left out, unless this package was found in it."""
    library = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}
    out = []
    for entry in path:
        if entry in library or entry.endswith(".zip"):
            break
        folder = Path(here, entry)
        if folder == package or not _same(folder, here):
            out.append(str(folder))
    return out


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def check_worker() -> None:
    """UserError in a worker whose code is not the driver's; nothing in any other process."""
    wanted = os.environ.get(CODE)
    if wanted is not None and wanted != code_identity():
        raise differs("this process", code_identity(), wanted, str(Path(coin_ray.__file__).parent))


def check_nodes() -> None:
    """UserError if a node of the cluster that this process is connected to has other code."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def look() -> tuple[str, str]:
        # Sent as it stands here: what is installed there may be older than this function.
        try:
            import coin_ray
        except ImportError:
            return "no coin-ray", ""
        try:
            from coin_ray.identity import code_identity
        except ImportError:
            return f"{getattr(coin_ray, '__version__', '')} of an older kind", coin_ray.__file__
        return code_identity(), coin_ray.__file__

    task, asked = ray.remote(look), []
    for node in ray.nodes():
        if node["Alive"]:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            options = {"num_cpus": 0, "scheduling_strategy": there}
            asked.append((node["NodeManagerHostname"], task.options(**options).remote()))
    for host, answer in asked:
        try:
            identity, where = ray.get(answer, timeout=WAIT)
        except ray.exceptions.TaskUnschedulableError:
            continue  # it has left the cluster meanwhile
        except ray.exceptions.GetTimeoutError as error:
            raise UserError(
                f"the node {host} has started no process for us within {WAIT:g} s",
                do="look at its load and at Ray's logs there, and try again",
            ) from error
        if identity != code_identity():
            raise differs(f"the node {host}", identity, code_identity(), where)


def differs(who: str, found: str, wanted: str, where: str) -> UserError:
    """The error; what runs there must never be stored as what is asked for here."""
    return UserError(
        f"{who} has another coin-ray than who started it",
        where=where,
        expected=wanted,
        found=found,
        do="install the same version on every node and in the cluster's environment, and start "
        "again; a file that was edited while a study runs counts, too",
    )
