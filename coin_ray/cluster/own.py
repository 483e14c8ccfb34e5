"""A Ray cluster of our own on this machine: nobody else's, on the loopback interface, for one run.

Ray takes most of what matters here from the environment, some of it only while it is imported.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from coin_ray.cluster.folders import session_folder
from coin_ray.errors import UserError

LOOPBACK = "127.0.0.1"
STARTING = {"worker_maximum_startup_concurrency": 8}
"""Processes that may start at a time. A training needs five small ones beside its worker; where Ray
allows one a CPU, it calls that a fault and warns the user of it."""
TRIES = 2
"""Ray gives its own processes 30 s to come up, which a busy machine may take."""


@contextmanager
def own_cluster(
    cpus: int | None, quiet: Mapping[str, Any], job: Mapping[str, Any]
) -> Iterator[None]:
    """Start it, connect, end it. UserError with the cause if it does not come up."""
    import ray

    # The folder goes last, and the token stays until Ray has said goodbye to its processes.
    token = secrets.token_hex(32)
    with session_folder() as folder, _environment(token, folder):
        others = _children()
        _start(ray, cpus, folder, quiet, job)
        try:
            yield
        finally:
            _end(ray, others)


def listening() -> list[tuple[str, int, str]]:
    """(address, port, program) of every socket on which this process and its children wait for
    connections; those of processes that we may not look into are left out."""
    me, out = psutil.Process(), []
    for process in (me, *me.children(recursive=True)):
        try:
            found = process.net_connections("inet")
            out += [
                (c.laddr.ip, c.laddr.port, process.name()) for c in found if c.status == "LISTEN"
            ]
        except psutil.Error:
            continue
    return [(ip.removeprefix("::ffff:"), port, name) for ip, port, name in out]


def is_loopback(ip: str) -> bool:
    """Whether only this machine can reach it."""
    return ip.startswith("127.") or ip == "::1"


def _start(
    ray: Any, cpus: int | None, folder: Path, quiet: Mapping[str, Any], job: Mapping[str, Any]
) -> None:
    others = _children()
    for attempt in range(TRIES):
        # Several Ray sessions on one machine confuse the state service that frees placement groups,
        # unless each worker is told which one is its own.
        port = _free_port()
        os.environ["RAY_GCS_SERVER_PORT"] = str(port)
        variables = {**job["runtime_env"]["env_vars"], "RAY_ADDRESS": f"{LOOPBACK}:{port}"}
        try:
            ray.init(
                address="local",
                num_cpus=cpus,
                include_dashboard=True,
                object_store_memory=512 * 2**20,
                _temp_dir=str(folder),
                _system_config=STARTING,
                job_config=job["job_config"],
                runtime_env={"env_vars": variables},
                **quiet,
            )
            return
        except BaseException as error:
            _end(ray, others)
            if not isinstance(error, Exception):
                raise
            if attempt + 1 == TRIES or "timed out" not in str(error):
                raise did_not_start(error) from error
        finally:
            # It is meant for this head alone, not for whatever this process starts later.
            os.environ.pop("RAY_GCS_SERVER_PORT")


def did_not_start(error: Exception) -> UserError:
    """What Ray says, and what helps."""
    # The log of the process that failed is part of it: its first line says which one, the last why.
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = "; ".join(dict.fromkeys(line[:200] for line in (*lines[:1], *lines[-1:])))
    if "timed out" in said:
        do = "the machine is busy or short of memory: try again when it is less so"
    elif isinstance(error, OSError) and error.errno is not None:
        do = "make room, or choose another folder for Ray's files with RAY_TMPDIR"
    else:
        do = "see what `coin-ray doctor` says of this machine"
    return UserError("Ray did not start", found=said or type(error).__name__, do=do)


def _children() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


def _end(ray: Any, others: set[psutil.Process]) -> None:
    """End the cluster, also one of which Ray does not know because its start has failed, and all of
    its processes: they write to its folder as long as they live."""
    left = _children() - others
    ray.shutdown()
    left |= _children() - others
    for process in psutil.wait_procs(left, timeout=2)[1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=5)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


@contextmanager
def _environment(token: str, folder: Path) -> Iterator[None]:
    """What our cluster's processes inherit, and this one's Ray looks at; as it was afterwards."""
    from ray._private import ray_constants

    ours = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        # Despite its name: without it, Ray takes this machine for part of no network.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # There are sockets in it, too.
        "TMPDIR": str(folder),
        # Python itself puts no working folder before its library.
        "PYTHONSAFEPATH": "1",
    }
    names = {*ours, "RAY_GCS_SERVER_PORT", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS"}
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    network, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    os.environ.update(ours)
    _look_again()
    try:
        yield
    finally:
        for name in names:
            os.environ.pop(name, None)
        os.environ.update(before)
        ray_constants.ENABLE_RAY_CLUSTER = network
        _look_again()


def _look_again() -> None:
    """Ray may have been imported and used before; how it asks for tokens it reads only once."""
    import ray

    raylet: Any = ray._raylet
    raylet.Config.initialize("")
    raylet.AuthenticationTokenLoader.instance().reset_cache()
