"""A Ray session: our own on this machine, or a cluster that is already there."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from coin_ray.errors import UserError

PORT = "RAY_GCS_SERVER_PORT"
STARTING = {"worker_maximum_startup_concurrency": 8}
"""Processes that may start at a time. A training needs five small ones beside its worker; where Ray
allows one a CPU, it calls that a fault and warns the user of it."""


@contextmanager
def session(
    address: str | None = None, *, cpus: int | None = None, device: str = "cpu"
) -> Iterator[dict[str, float]]:
    """Connect, give the cluster's total resources, disconnect. ``ray stop`` is never called: it
    would end every Ray process of the machine."""
    import ray

    # Every failure reaches the user as a cell's event, with its cause; Tune would print it again.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if address is not None:
        _reachable(address)
        try:
            ray.init(address=address, **quiet)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise _nobody(address, str(error).splitlines()[0]) from error
    else:
        _own(ray, cpus, quiet)
    try:
        total = ray.cluster_resources()
        if device.startswith("cuda") and not total.get("GPU"):
            raise UserError(
                "the study was asked to run on a GPU, and Ray sees none",
                expected="at least 1 GPU",
                found=f"{total.get('CPU', 0):g} CPUs, 0 GPUs",
                do="leave --device out, or use --device cpu",
            )
        yield total
    finally:
        ray.shutdown()


def _reachable(address: str) -> None:
    """Ray itself tries for minutes, without a word."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdigit():
        return  # "auto", or a name that Ray resolves
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise _nobody(address, str(error)) from error


def _nobody(address: str, found: str) -> UserError:
    return UserError(
        f"no Ray cluster answers at {address}",
        found=found,
        do="start one (`ray start --head`) or leave --address out",
    )


def _own(ray: Any, cpus: int | None, quiet: dict[str, Any]) -> None:
    # Several Ray sessions on one machine confuse the state service that frees placement groups,
    # unless each worker is told which one is its own.
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    before = os.environ.get(PORT)
    os.environ[PORT] = str(port)
    try:
        ray.init(
            address="local",
            num_cpus=cpus,
            include_dashboard=True,
            object_store_memory=512 * 2**20,
            _system_config=STARTING,
            runtime_env={"env_vars": {"RAY_ADDRESS": f"{ray.util.get_node_ip_address()}:{port}"}},
            **quiet,
        )
    finally:
        # It is meant for this head alone, not for whatever this process starts later.
        os.environ.pop(PORT)
        if before is not None:
            os.environ[PORT] = before
