"""MLflow's own web server over a study's database, on this machine only."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from coin_ray.errors import UserError, redacted
from coin_ray.tracking.mlflow_store import (
    database_uri,
    experiment_name,
    is_server,
    tracking_uri,
)
from coin_ray.tracking.views import CELLS
from coin_ray.workspace import Workspace

HOST, PORT = "127.0.0.1", 5000


@contextlib.contextmanager
def running_server(workspace: Path, port: int | None = None, *, wait: float = 120) -> Iterator[str]:
    """Start the server and yield its address once it answers; it is stopped on leaving.

    ``port`` None takes 5000, or a free one. UserError when there is no database yet, the port is
    taken, or the server does not come up within ``wait`` seconds.
    """
    uri = tracking_uri(workspace)
    if is_server(uri):
        raise UserError(
            "the runs are on a tracking server that runs already",
            where="MLFLOW_TRACKING_URI",
            found=redacted(uri),
            do="open that address, or unset the variable to look at the workspace's own database",
        )
    database = Workspace(workspace).resolve().database
    if uri == database_uri(workspace) and not database.is_file():
        raise UserError(
            "no tracking database yet",
            where=str(database),
            do="run a study first, or name its workspace with --workspace",
        )
    if not os.access(workspace, os.W_OK):
        raise UserError(
            "MLflow's server writes into its workspace, and this one can only be read",
            where=str(workspace),
            do="copy mlflow.db and artifacts/ to a folder of your own: --workspace FOLDER",
        )
    port = _port(port)
    log = Workspace(workspace).resolve().server_log
    with log.open("wb") as out:
        process = subprocess.Popen(
            _command(uri, workspace.resolve(), port),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=workspace.resolve(),
            env=_environment(),
            start_new_session=True,  # a group of its own, so that stopping takes all its processes
        )
        try:
            _await_health(process, port, wait, log)
            yield f"http://{HOST}:{port}"
        finally:
            _stop(process)


def experiment_address(server: str, view: str = CELLS, *, charts: bool = False) -> str:
    """Address of the table of all cells, or of another view (``views``), or of its charts; the
    server's own if the experiment is not there."""
    query = urllib.parse.urlencode({"experiment_name": experiment_name()})
    url = f"{server}/ajax-api/2.0/mlflow/experiments/get-by-name?{query}"
    try:
        found = json.loads(_get(url))["experiment"]["experiment_id"]
    except (OSError, KeyError, ValueError):
        return server
    how = {"compareRunsMode": "CHART"} if charts else {}
    shown = urllib.parse.urlencode(
        {"workflowType": "machine_learning", "viewStateShareKey": view, **how}
    )
    return f"{server}/#/experiments/{found}/runs?{shown}"


def _command(uri: str, workspace: Path, port: int) -> list[str]:
    # One worker: four are MLflow's default and cost half a minute and gigabytes on a laptop.
    return [
        *(sys.executable, "-m", "mlflow", "server"),
        *("--host", HOST, "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", uri),
        *("--artifacts-destination", Workspace(workspace).artifacts.as_uri()),
    ]


def _environment() -> dict[str, str]:
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    # It runs in the workspace, and Python would look there first for each of its modules.
    return {**os.environ, **quiet, "PYTHONSAFEPATH": "1"}


def _port(wanted: int | None) -> int:
    for port in (PORT, 0) if wanted is None else (wanted,):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise UserError("the port is taken", where=f"{HOST}:{wanted}", do="name another with --port")


def _get(url: str) -> bytes:
    # Loopback never goes through a proxy, whatever the environment says.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=5) as answer:
        return bytes(answer.read())


def _await_health(process: subprocess.Popen[bytes], port: int, wait: float, log: Path) -> None:
    end = time.monotonic() + wait
    while time.monotonic() < end and process.poll() is None:
        try:
            _get(f"http://{HOST}:{port}/health")
            return
        except OSError:
            time.sleep(0.2)
    said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-5:]
    raise UserError(
        "MLflow's server did not start",
        where=str(log),
        expected=f"an answer within {wait:g} s",
        found="\n".join(said) or "no answer",
        do="read the log; a database of another MLflow version needs `mlflow db upgrade`",
    )


def _stop(process: subprocess.Popen[bytes]) -> None:
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
            return
