"""Records into MLflow, through MlflowClient only: what is there already is not written again.

The fluent API keeps one current run, which neither parallel cells nor a replay can use.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coin_ray.tracking.mlflow_store import (
    STUDY_TAG,
    connect,
    ensure_experiment,
    experiment_name,
    is_server,
    locked,
    study_runs,
    tracking_uri,
    unreachable,
)
from coin_ray.tracking.records import STUDY, RunRecord

if TYPE_CHECKING:
    from mlflow.entities import Run

CELL_TAG, WRITTEN_TAG, PARENT_TAG = "coin_ray.cell", "coin_ray.written", "mlflow.parentRunId"
PARAMS, TAGS, METRICS = 100, 100, 800
"""Most entries of a kind in one ``log_batch``: MLflow's limits, and 1000 in all."""


@dataclass
class _Known:
    """What MLflow has of a run, as far as this process knows. ``metrics`` None: not asked yet."""

    run_id: str
    params: set[str] = field(default_factory=set)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: dict[tuple[str, int], float] | None = field(default_factory=dict)
    artifacts: dict[str, str] = field(default_factory=dict)
    status: str = "RUNNING"


class MlflowWriter:
    """Writes the runs of one study. One writer a study at a time; not for several threads.

    ``study`` is the study's identity in the tracker. Nothing is imported or opened before the first
    ``write``; the database and its schema are made there, under a lock in the workspace, because
    MLflow's own creation fails when two processes do it at once.
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
        self._runs: dict[str, _Known] = {}

    def write(self, record: RunRecord) -> bool:
        """Bring MLflow's run of ``record`` up to date; false if it was.

        The parent run must have been written before the first cell. Raises one of
        :func:`unreachable`; then nothing is assumed about what arrived, the next call asks MLflow.
        """
        try:
            if self._client is None:
                self._connect()
            return self._write(record)
        except unreachable():
            self._client = None
            raise

    def _connect(self) -> None:
        client = connect(self.workspace, self.uri)
        with locked(self.workspace):
            self._experiment_id = ensure_experiment(
                client, self.experiment, None if is_server(self.uri) else self.workspace
            )
        self._runs = {
            run.data.tags.get(CELL_TAG, STUDY): _known(run)
            for run in study_runs(client, self._experiment_id, self.study)
        }
        self._client = client

    def _write(self, record: RunRecord) -> bool:
        written = record.fingerprint()
        known = self._runs.get(record.run)
        if known is not None and known.tags.get(WRITTEN_TAG) == written:
            return False
        # Of two drivers that write a run at once, the second finds the first one's params.
        with locked(self.workspace):
            if known is None:
                known = self._runs[record.run] = self._create(record)
            if known.metrics is None:
                known.metrics = self._history(known)
            if record.params.keys() - known.params:
                known.params |= set(self._client.get_run(known.run_id).data.params)
            self._log_values(known, record)
        self._log_artifacts(known, record)
        self._set_status(known, record)
        self._client.set_tag(known.run_id, WRITTEN_TAG, written)
        known.tags[WRITTEN_TAG] = written
        return True

    def _create(self, record: RunRecord) -> _Known:
        # Another driver may have made the run since we looked.
        for run in study_runs(self._client, self._experiment_id, self.study):
            if run.data.tags.get(CELL_TAG, STUDY) == record.run:
                return _known(run)
        tags = {STUDY_TAG: self.study}
        if record.run != STUDY:
            tags |= {CELL_TAG: record.run, PARENT_TAG: self._runs[STUDY].run_id}
        run = self._client.create_run(
            self._experiment_id, start_time=record.start, tags=tags, run_name=record.name
        )
        return _Known(run.info.run_id, tags={"mlflow.runName": record.name})

    def _history(self, known: _Known) -> dict[tuple[str, int], float]:
        found = {}
        for metric in self._client.get_run(known.run_id).data.metrics:
            history = self._client.get_metric_history(known.run_id, metric)
            for point in sorted(history, key=lambda p: p.timestamp):
                found[metric, point.step] = point.value
        return found

    def _log_values(self, known: _Known, record: RunRecord) -> None:
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
        while params or tags or metrics:
            self._client.log_batch(
                known.run_id, metrics=metrics[:METRICS], params=params[:PARAMS], tags=tags[:TAGS]
            )
            metrics, params, tags = metrics[METRICS:], params[PARAMS:], tags[TAGS:]
        for gone in ("failure", "nonfinite"):
            if gone in known.tags and gone not in wanted:
                self._client.delete_tag(known.run_id, gone)
                del known.tags[gone]
        known.params |= set(record.params)
        known.tags |= wanted
        known.metrics |= {key: value for key, (value, _) in record.metrics.items()}

    def _log_artifacts(self, known: _Known, record: RunRecord) -> None:
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
            if texts:
                self._client.log_artifacts(known.run_id, folder)
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
            self._client.log_artifact(known.run_id, str(local), str(Path(path).parent))
            known.artifacts[path] = file["digest"]

    def _set_status(self, known: _Known, record: RunRecord) -> None:
        if record.status == known.status:
            return
        if record.end is not None:
            self._client.set_terminated(known.run_id, record.status, record.end)
        else:
            self._client.update_run(known.run_id, status=record.status)
        known.status = record.status


def _known(run: Run) -> _Known:
    data = run.data
    return _Known(run.info.run_id, set(data.params), dict(data.tags), None, {}, run.info.status)
