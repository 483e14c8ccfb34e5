"""A Ray session: our own on this machine, or a cluster that is already there."""

from __future__ import annotations

import logging
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from coin_ray.cluster.own import own_cluster
from coin_ray.cluster.same_code import check_nodes, job
from coin_ray.errors import UserError, first_line


@contextmanager
def session(
    address: str | None = None, *, cpus: int | None = None, device: str = "cpu"
) -> Iterator[dict[str, float]]:
    """Connect, give the cluster's total resources, disconnect. ``ray stop`` is never called: it
    would end every Ray process of the machine."""
    import ray

    # Every failure reaches the user as a cell's event, with its cause; Tune would print it again.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    with ExitStack() as stack:
        stack.enter_context(_in_the_background())
        if address is not None:
            stack.enter_context(_cluster_at(address, quiet))
        else:
            stack.enter_context(own_cluster(cpus, quiet, job()))
        if threading.current_thread() is threading.main_thread():
            # Ray's library takes it, too, prints a stack and aborts: back to whose it was.
            signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
        check_nodes()
        total = ray.cluster_resources()
        if device.startswith("cuda") and not total.get("GPU"):
            raise UserError(
                "the study was asked to run on a GPU, and Ray sees none",
                expected="at least 1 GPU",
                found=f"{total.get('CPU', 0):g} CPUs, 0 GPUs",
                do="leave --device out, or use --device cpu",
            )
        yield total


@contextmanager
def _cluster_at(address: str, quiet: dict[str, Any]) -> Iterator[None]:
    import ray

    _reachable(address)
    try:
        ray.init(address=address, **job(), **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise _nobody(address, first_line(error)) from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _in_the_background() -> Iterator[None]:
    """Keep Ray from printing what its raylet has to say, a worker's death is an event of its cell,
    and from taking SIGTERM for itself."""
    from ray._private import utils, worker

    before = utils.set_sigterm_handler, worker.print_to_stdstream
    utils.set_sigterm_handler = worker.print_to_stdstream = lambda *_, **__: None
    try:
        yield
    finally:
        utils.set_sigterm_handler, worker.print_to_stdstream = before


def _reachable(address: str) -> None:
    """Ray itself tries for minutes, without a word."""
    from ray._private import services

    try:  # "auto" may be what a cluster that is gone has left
        found = services.canonicalize_bootstrap_address(address) if address == "auto" else address
    except ConnectionError as error:
        raise _nobody(address, str(error)) from error
    host, _, port = str(found).rpartition("://")[2].rpartition(":")
    if not host or not port.isdigit():
        return  # a name that Ray resolves
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
