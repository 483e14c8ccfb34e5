"""Records into MLflow, through MlflowClient only: what is there already is not written again.

The fluent API keeps one current run, which neither parallel cells nor a replay can use.
"""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coin_ray.tracking.mlflow_store import (
    CELL_TAG,
    STUDY_TAG,
    alone,
    connect,
    ensure_experiment,
    experiment_name,
    is_server,
    study_runs,
    tracking_uri,
    unreachable,
)
from coin_ray.tracking.records import STUDY, RunRecord

if TYPE_CHECKING:
    from mlflow.entities import Run

WRITTEN_TAG, PARENT_TAG = "coin_ray.written", "mlflow.parentRunId"
PARAMS, TAGS, METRICS = 100, 100, 800
"""Most entries of a kind in one ``log_batch``: MLflow's limits, and 1000 in all."""
THREADS = 4
"""That write to a server at once."""


@dataclass
class KnownRun:
    """What MLflow has of a run, as far as this process knows. ``metrics`` None: not asked yet."""

    run_id: str
    place: str
    """Of its artifacts, as MLflow names it."""
    params: set[str] = field(default_factory=set)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: dict[tuple[str, int], float] | None = field(default_factory=dict)
    artifacts: dict[str, str] = field(default_factory=dict)
    status: str = "RUNNING"


class MlflowWriter:
    """Writes the runs of one study. One writer a study at a time; once it is ``open`` several of
    its threads may write, a run each.

    ``study`` is the study's identity in the tracker. Nothing is imported or opened before that; the
    database and its schema are made there, under a lock in the workspace, because MLflow's own
    creation fails when two processes do it at once.
    """

    def __init__(self, workspace: Path, study: str, *, uri: str = "", experiment: str = "") -> None:
        self.workspace = workspace.resolve()
        self.study = study
        self.uri = uri or tracking_uri(workspace)
        self.experiment = experiment or experiment_name()
        self.missing: set[str] = set()
        """Local files that were to be attached and are gone."""
        self.refused: set[str] = set()
        """What else is not attached, and why."""
        self._client: Any = None
        self._experiment_id = ""
        self._runs: dict[str, KnownRun] = {}
        self._mark = uuid.uuid4().bytes
        self.only = False
        """Nobody else has written to the database since this writer looked."""

    @property
    def threads(self) -> int:
        """How many may write at once: a server answers several, a database file takes one."""
        return THREADS if is_server(self.uri) else 1

    def open(self) -> None:
        """Connect, if that has not been done or was lost, and ask what is there. Raises one of
        :func:`unreachable`."""
        if self._client is not None:
            return
        client = connect(self.workspace, self.uri)
        with alone(self.workspace, self.uri) as lock:
            self._experiment_id = ensure_experiment(
                client, self.experiment, None if is_server(self.uri) else self.workspace
            )
            if lock is not None:
                lock.mark(self._mark)
            found = study_runs(client, self._experiment_id, self.study)
            self._runs = {run.data.tags.get(CELL_TAG, STUDY): _known(run) for run in found}
        self.only = lock is not None
        self._client = client

    def write(self, record: RunRecord) -> bool:
        """Bring MLflow's run of ``record`` up to date; false if it was.

        The parent run must have been written before the first cell. Raises one of
        :func:`unreachable`; then nothing is assumed about what arrived, the next call asks MLflow.
        """
        try:
            self.open()
            if not self.behind(record):
                return False
            with self.held():
                self.take(record)
        except unreachable():
            self._client = None
            raise
        return True

    def behind(self, record: RunRecord) -> bool:
        """Whether anything of a record is not in MLflow, as far as an open writer knows."""
        known = self._runs.get(record.run)
        return known is None or known.tags.get(WRITTEN_TAG) != record.fingerprint()

    @contextmanager
    def held(self) -> Iterator[None]:
        """While no other driver of this workspace writes to the same database: of two that write a
        run at once, the second finds the first one's params."""
        with alone(self.workspace, self.uri) as lock:
            self.only = lock is not None and lock.mark(self._mark) and self.only
            yield

    def take(self, record: RunRecord) -> KnownRun:
        """Write what is new of a record, while ``held``; what MLflow has of it then."""
        client, known = self._client, self._runs.get(record.run)
        if known is None:
            known = self._runs[record.run] = self._find_or_create(client, record)
        if known.metrics is None:
            known.metrics = _history(client, known)
            known.params |= set(client.get_run(known.run_id).data.params)
        self._log_artifacts(client, known, record)
        _set_status(client, known, record)
        # Tags are what a batch ends with: this one says that all the rest is there.
        _log_values(client, known, record, {WRITTEN_TAG: record.fingerprint()})
        return known

    def learn(self, runs: Mapping[str, KnownRun], missing: set[str], refused: set[str]) -> None:
        """What the writer of another process has written, by run, and could not attach."""
        self._runs |= runs
        self.missing |= missing
        self.refused |= refused

    def _find_or_create(self, client: Any, record: RunRecord) -> KnownRun:
        # Another driver may have made the run since we looked, unless none was here.
        if not self.only and (found := self._oldest(client, record)) is not None:
            return _known(found)
        about = record.all_tags()  # what is made with the run costs less than what is added to it
        tags = about | {STUDY_TAG: self.study}
        if record.run != STUDY:
            tags |= {CELL_TAG: record.run, PARENT_TAG: self._runs[STUDY].run_id}
        run = client.create_run(
            self._experiment_id, start_time=record.start, tags=tags, run_name=record.name
        )
        if is_server(self.uri):  # where no lock is shared, two may have made it by now
            found = self._oldest(client, record)
            if found is not None and found.info.run_id != run.info.run_id:
                client.delete_run(run.info.run_id)
                return _known(found)
        known = about | {"mlflow.runName": record.name}
        return KnownRun(run.info.run_id, run.info.artifact_uri, tags=known)

    def _oldest(self, client: Any, record: RunRecord) -> Run | None:
        found = None
        for run in study_runs(client, self._experiment_id, self.study, record.run):
            if run.data.tags.get(CELL_TAG, STUDY) == record.run:
                found = run
        return found

    def _log_artifacts(self, client: Any, known: KnownRun, record: RunRecord) -> None:
        texts = {
            path: text for path, text in record.texts.items() if known.artifacts.get(path) != text
        }
        with tempfile.TemporaryDirectory(prefix="coin-ray-") as folder:
            for path, text in texts.items():
                local = Path(folder, path)
                try:
                    local.parent.mkdir(parents=True, exist_ok=True)
                    local.write_text(text, encoding="utf-8")
                except (FileExistsError, NotADirectoryError, IsADirectoryError):
                    self.refused.add(f"{path}: another is attached under a part of its name")
                    continue
                # Not the folder at once: MLflow would copy over a file of another user's.
                attach(client, self.uri, known, local, path)
        known.artifacts |= texts
        for path, file in record.files.items():
            local = self.workspace / file["path"]
            if known.artifacts.get(path) == file["digest"]:
                continue
            if not local.resolve().is_relative_to(self.workspace):
                self.refused.add(f"{file['path']} lies outside the workspace")
                continue
            if not local.is_file():
                self.missing.add(str(local))
                continue
            attach(client, self.uri, known, local, path)
            known.artifacts[path] = file["digest"]


def attach(client: Any, uri: str, known: KnownRun, local: Path, path: str) -> None:
    """Copy a file to where the artifacts of a run lie, as ``path``, whose name it has."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    folder = os.path.dirname(path) or None
    if is_server(uri):
        client.log_artifact(known.run_id, str(local), folder)
    else:  # the client would read the whole run from the database to learn its place
        get_artifact_repository(known.place, tracking_uri=uri).log_artifact(str(local), folder)


def _history(client: Any, known: KnownRun) -> dict[tuple[str, int], float]:
    found = {}
    for metric in client.get_run(known.run_id).data.metrics:
        history = client.get_metric_history(known.run_id, metric)
        for point in sorted(history, key=lambda p: p.timestamp):
            found[metric, point.step] = point.value
    return found


def _log_values(client: Any, known: KnownRun, record: RunRecord, last: dict[str, str]) -> None:
    """Params, tags and metrics that are new; ``last``: tags of the last batch."""
    from mlflow.entities import Metric, Param, RunTag

    assert known.metrics is not None
    # A param can be written once; what may change afterwards is a tag.
    params = [Param(k, v) for k, v in record.params.items() if k not in known.params]
    wanted = record.all_tags() | {"mlflow.runName": record.name}
    tags = [RunTag(k, v) for k, v in wanted.items() if known.tags.get(k) != v]
    metrics = [
        Metric(name, value, time, step)
        for (name, step), (value, time) in record.metrics.items()
        if known.metrics.get((name, step)) != value
    ]
    for gone in ("failure", "nonfinite"):
        if gone in known.tags and gone not in wanted:
            client.delete_tag(known.run_id, gone)
            del known.tags[gone]
    ending = [RunTag(k, v) for k, v in last.items()]
    while params or metrics or tags or ending:
        further = len(params) > PARAMS or len(metrics) > METRICS or len(tags) + 1 > TAGS
        client.log_batch(
            known.run_id,
            metrics=metrics[:METRICS],
            params=params[:PARAMS],
            tags=tags[: TAGS - 1] + ([] if further else ending),
        )
        metrics, params, tags = metrics[METRICS:], params[PARAMS:], tags[TAGS - 1 :]
        ending = ending if further else []
    known.params |= set(record.params)
    known.tags |= wanted | last
    known.metrics |= {key: value for key, (value, _) in record.metrics.items()}


def _set_status(client: Any, known: KnownRun, record: RunRecord) -> None:
    if record.status == known.status:
        return
    if record.end is not None:
        client.set_terminated(known.run_id, record.status, record.end)
    else:
        client.update_run(known.run_id, status=record.status)
    known.status = record.status


def _known(run: Run) -> KnownRun:
    info, data = run.info, run.data
    params, tags = set(data.params), dict(data.tags)
    return KnownRun(info.run_id, info.artifact_uri, params, tags, None, {}, info.status)
