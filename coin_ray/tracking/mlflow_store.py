"""MLflow's store: which one, how it is opened, the experiment and the runs of a study in it."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coin_ray import safe
from coin_ray.files import whole
from coin_ray.tracking.views import VIEW_TAGS
from coin_ray.workspace import Workspace

if TYPE_CHECKING:
    from mlflow.entities import Run

EXPERIMENT = "coin-ray"
"""File of the tracker in a workspace that has no server."""
STUDY_TAG = "coin_ray.study"
"""Tag of every run: the identity of its study."""
CELL_TAG = "coin_ray.cell"
"""Tag of a cell's run: the cell's digest."""
# The UI asks what kind of experiment it is, and hides the run table, unless this says so.
_KIND = {"mlflow.experimentKind": "custom_model_development"}


def tracking_uri(workspace: Path) -> str:
    """``MLFLOW_TRACKING_URI`` where it is set, else a database file in the workspace."""
    return os.environ.get("MLFLOW_TRACKING_URI") or database_uri(workspace)


def database_uri(workspace: Path) -> str:
    """Address of the database file in the workspace."""
    return _address(Workspace(workspace).resolve().database)


def _address(database: Path) -> str:
    path = str(database)
    if not set("%?") & set(path):
        return f"sqlite:///{path}"
    from sqlalchemy import URL  # knows what its own parser takes for something else

    return URL.create("sqlite", database=path).render_as_string()


def experiment_name() -> str:
    """``MLFLOW_EXPERIMENT_NAME`` where it is set, else ``coin-ray``."""
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT


def is_server(uri: str) -> bool:
    """True for a tracking server, false for a database that this process opens itself."""
    return not re.match(r"(sqlite|mysql|postgresql|mssql)[:+]", uri)


def unreachable() -> tuple[type[Exception], ...]:
    """Exceptions that mean "the tracker is away or refuses", as opposed to a fault of ours."""
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    return MlflowException, RequestException, SQLAlchemyError, OSError


def connect(workspace: Path, uri: str) -> Any:
    """An MlflowClient that fails soon where nobody answers, instead of after minutes."""
    # Read at each request by MLflow; a user's own values win.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    from mlflow import MlflowClient

    if is_server(uri):
        return MlflowClient(tracking_uri=uri)
    workspace.mkdir(parents=True, exist_ok=True)
    with locked(workspace):
        if uri == database_uri(workspace) and not Workspace(workspace).database.exists():
            # Half of its tables, after a kill or on a full disk, could never be opened again.
            with whole(Workspace(workspace).database, shared=False) as part:
                MlflowClient(tracking_uri=_address(part.resolve()))
                # SQLite makes it 0644, whatever the umask.
                part.chmod(Workspace(workspace).tracker_lock.stat().st_mode & 0o666)
        return MlflowClient(tracking_uri=uri)


def ensure_experiment(client: Any, name: str, workspace: Path | None) -> str:
    """Id of the experiment, made when missing, with its artifacts under ``workspace`` (None: where
    the server says). MlflowException when the experiment was deleted in the tracker."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        location = None if workspace is None else Workspace(workspace).artifacts.as_uri()
        return str(client.create_experiment(name, location, tags=_KIND | VIEW_TAGS))
    if found.lifecycle_stage != "active":
        raise MlflowException(
            f"the experiment {name!r} was deleted in the tracker: restore it there, or choose "
            "another name with MLFLOW_EXPERIMENT_NAME"
        )
    # A view is ours alone, and one of an earlier version shows runs that it does not know of.
    missing = {tag: value for tag, value in _KIND.items() if tag not in found.tags}
    changed = {tag: value for tag, value in VIEW_TAGS.items() if found.tags.get(tag) != value}
    for tag, value in (missing | changed).items():
        client.set_experiment_tag(found.experiment_id, tag, value)
    return str(found.experiment_id)


def study_runs(client: Any, experiment_id: str, study: str, cell: str = "") -> Iterator[Run]:
    """Every active run of a study, or of a cell of it alone, newest first: of two with one identity
    the oldest comes last."""
    wanted = {STUDY_TAG: study} | ({CELL_TAG: cell} if cell else {})
    asked = " AND ".join(f"tags.`{tag}` = {safe.literal(is_)}" for tag, is_ in wanted.items())
    token = None
    while True:
        page = client.search_runs(
            [experiment_id],
            filter_string=asked,
            order_by=["attributes.start_time DESC", "attributes.run_id DESC"],
            page_token=token,
        )
        yield from page
        token = page.token
        if not token:
            return


@contextmanager
def alone(workspace: Path, uri: str) -> Iterator[Lock | None]:
    """One driver of this workspace at a time, where they share a database file; None for a server,
    which has its own order."""
    if is_server(uri):
        yield None
    else:
        with locked(workspace) as lock:
            yield lock


@dataclass(frozen=True)
class Lock:
    """The open file that is locked."""

    path: Path
    descriptor: int

    def mark(self, own: bytes) -> bool:
        """Leave a mark of one's own; whether it was there still: nobody has marked it since."""
        if os.pread(self.descriptor, len(own), 0) == own:
            return True
        about, here = os.fstat(self.descriptor), self.path.lstat()
        if (here.st_ino, about.st_nlink) == (about.st_ino, 1):  # else somebody else's file
            os.pwrite(self.descriptor, own, 0)
        return False


@contextmanager
def locked(workspace: Path) -> Iterator[Lock]:
    """One process of this workspace at a time (advisory, gone with the process)."""
    workspace.mkdir(parents=True, exist_ok=True)
    path = Workspace(workspace).tracker_lock
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield Lock(path, descriptor)
    finally:
        os.close(descriptor)
