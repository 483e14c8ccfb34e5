"""``coin-ray ui``: MLflow's own server over the workspace's runs."""

from __future__ import annotations

import signal
from typing import Annotated

import typer

from coin_ray.cli.options import WORKSPACE, Workspace
from coin_ray.cli.screen import ending
from coin_ray.cli.screen.output import say

Port = Annotated[
    int | None, typer.Option("--port", min=1, max=65_535, help="default: 5000, or a free one")
]


def ui(workspace: Workspace = WORKSPACE, port: Port = None) -> None:
    """Open the MLflow UI of the workspace on this machine (127.0.0.1); Ctrl-C stops it."""
    from coin_ray.tracking.mlflow_store import LEVELS
    from coin_ray.tracking.server import experiment_address, running_server

    say("starting MLflow's server, about ten seconds …")
    try:
        with running_server(workspace, port) as address:
            say(f"MLflow, a row a cell: {experiment_address(address)}")
            say(f"a row a level: {experiment_address(address, LEVELS)}  (Ctrl-C stops it)")
            signal.pause()
    except KeyboardInterrupt as error:
        say("stopped")
        raise typer.Exit(ending.reason_and_code()[1]) from error
