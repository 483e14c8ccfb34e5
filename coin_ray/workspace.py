"""The folder of everything that coin-ray computes and writes down for a user."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path, PosixPath


def for_group(folder: Path) -> None:
    """Where a folder has the setgid bit, let this process make files and folders that its group can
    write: a workspace that several users share."""
    with contextlib.suppress(FileNotFoundError):
        if folder.stat().st_mode & stat.S_ISGID:
            os.umask(os.umask(0o077) & ~0o070)


class Workspace(PosixPath):
    """A folder that knows what lies where in it; made of any path."""

    @property
    def store(self) -> Path:
        """Artifacts of stages, by their keys."""
        return Path(self, "store")

    @property
    def runs(self) -> Path:
        """What a user takes away: ``<study>/<cell>/``."""
        return Path(self, "runs")

    @property
    def paper(self) -> Path:
        """The page about the tables and figures of the paper."""
        return Path(self, "paper")

    @property
    def journal(self) -> Path:
        """What happened: ``<study>.jsonl``."""
        return Path(self, "journal")

    @property
    def ray(self) -> Path:
        """What Tune and Train write while a study runs."""
        return Path(self, "ray")

    @property
    def data(self) -> Path:
        """Generated tiles."""
        return Path(self, "data")

    @property
    def adapt(self) -> Path:
        """Windows of slides that a student is trained on."""
        return Path(self, "adapt")

    @property
    def database(self) -> Path:
        """MLflow's, where no server is named."""
        return Path(self, "mlflow.db")

    @property
    def optuna(self) -> Path:
        """The trials of all searches, as Optuna keeps them."""
        return Path(self, "optuna.log")

    @property
    def artifacts(self) -> Path:
        """Files of the runs in that database."""
        return Path(self, "artifacts")

    @property
    def tracker_lock(self) -> Path:
        """Held by who makes the database."""
        return Path(self, "mlflow.lock")

    @property
    def server_log(self) -> Path:
        """What MLflow's server says."""
        return Path(self, "ui.log")
