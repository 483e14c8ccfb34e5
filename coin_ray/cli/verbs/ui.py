"""``coin-ray ui``: MLflow's own server over the workspace's runs."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer

from coin_ray.cli.options import WORKSPACE, Workspace
from coin_ray.cli.screen import ending
from coin_ray.cli.screen.output import say
from coin_ray.errors import UserError
from coin_ray.files import seen
from coin_ray.workspace import Workspace as Folder

Port = Annotated[
    int | None, typer.Option("--port", min=1, max=65_535, help="default: 5000, or a free one")
]


Optuna = Annotated[
    bool, typer.Option("--optuna", help="optuna-dashboard over the searches (extra optuna)")
]


def ui(workspace: Workspace = WORKSPACE, port: Port = None, optuna: Optuna = False) -> None:
    """Open the MLflow UI of the workspace on this machine (127.0.0.1); Ctrl-C stops it."""
    from coin_ray.tracking.server import experiment_address, running_server
    from coin_ray.tracking.views import LEVELS, SEEDS

    if optuna:
        _dashboard(Folder(workspace).optuna, port or 8080)
        return
    say("starting MLflow's server, about ten seconds …")
    try:
        with running_server(workspace, port) as address:
            say(f"MLflow, a row a cell: {experiment_address(address)}")
            say(f"a row a level: {experiment_address(address, LEVELS)}")
            say(f"their intervals by round: {experiment_address(address, LEVELS, charts=True)}")
            say(f"their seeds by round: {experiment_address(address, SEEDS, charts=True)}")
            say("Ctrl-C stops it")
            signal.pause()
    except KeyboardInterrupt as error:
        raise _stopped() from error


def _stopped() -> typer.Exit:
    say("stopped")
    return typer.Exit(ending.reason_and_code()[1])


def _dashboard(file: Path, port: int) -> None:
    from coin_ray.execution.optuna_record import storage

    if not seen(file):
        raise UserError(
            "no search has run in this workspace",
            where=str(file),
            do="run a study with design: search, or name its --workspace",
        )
    try:
        import optuna_dashboard
    except ImportError as error:
        raise UserError(
            "optuna-dashboard is not installed", do="pip install 'coin-ray[optuna]'"
        ) from error
    say(f"optuna-dashboard: http://127.0.0.1:{port}/dashboard  (Ctrl-C stops it)")
    try:
        optuna_dashboard.run_server(storage(file), host="127.0.0.1", port=port)
    except KeyboardInterrupt as error:
        raise _stopped() from error
