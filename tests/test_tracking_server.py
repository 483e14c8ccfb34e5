"""MLflow's own server over the workspace's database, on the loopback interface only."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from psutil import net_connections

from coin_ray.errors import UserError
from coin_ray.tracking import server
from coin_ray.tracking.mlflow_store import connect, study_runs, tracking_uri
from coin_ray.tracking.replay import sync_journals
from coin_ray.tracking.server import HOST, running_server
from coin_ray.tracking.tracker import Tracker
from tests.tracking_study import info, run_events


@pytest.fixture(autouse=True)
def no_tracker_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)


def test_a_workspace_of_a_colleague(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"")
    monkeypatch.setattr("os.access", lambda path, mode: False)  # nothing is forbidden to root
    with pytest.raises(UserError, match="can only be read") as caught, running_server(tmp_path):
        pass
    assert caught.value.where == str(tmp_path) and "--workspace" in caught.value.do
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGHUP])
def test_the_verb_serves_on_loopback_and_leaves_nothing_behind(
    sign: signal.Signals, tmp_path: Path
) -> None:
    (tmp_path / "random.py").write_text("raise SystemExit('from the workspace')")
    Tracker(tmp_path, info("server")).close()
    before = set(os.listdir(tmp_path))
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "coin_ray.cli", "ui", "--workspace", str(tmp_path)]
    process = subprocess.Popen(
        [*command, "--port", str(port)], stdout=subprocess.PIPE, text=True, bufsize=1
    )
    try:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        line = next(line for line in lines if line.startswith("MLflow, a row a cell: "))
        assert f"http://{HOST}:{port}/#/experiments/1/runs?" in line
        page = urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
            f"http://{HOST}:{port}"
        )
        assert b"MLflow" in page.read()
        listening = [c for c in net_connections("tcp") if c.status == "LISTEN"]
        assert {c.laddr.ip for c in listening if c.laddr.port == port} == {HOST}
        with pytest.raises(UserError, match="port is taken"), running_server(tmp_path, port):
            pass
    finally:
        process.send_signal(sign)
    assert process.wait(30) == 128 + sign
    with socket.socket() as probe:
        assert probe.connect_ex((HOST, port)) != 0
    assert set(os.listdir(tmp_path)) - before == {"ui.log"}


@pytest.mark.slow
def test_a_tracking_server_that_goes_away_and_comes_back_has_one_run_a_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served, workspace = tmp_path / "served", tmp_path / "workspace"
    connect(served, tracking_uri(served))  # its tables
    happening = list(run_events(workspace / "files"))
    half = [event["event"] for event in happening].index("CellFinished") + 3
    said: list[str] = []
    with running_server(served) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        tracker = Tracker(workspace, info("remote"), warn=said.append)
        for event in happening[:half]:
            tracker.record(event)
        assert tracker.sync()
    for event in happening[half:]:
        tracker.record(event)
    assert tracker.close() is False
    assert len(said) == 1

    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with running_server(served) as address:
        (done,) = sync_journals(workspace, uri=address)
        (again,) = sync_journals(workspace, uri=address)
        client = connect(workspace, address)
        experiment = client.get_experiment_by_name("coin-ray").experiment_id
        runs = list(study_runs(client, experiment, tracker.study))
        files = [len(client.list_artifacts(run.info.run_id)) for run in runs]
    assert (done.runs, done.written, again.written) == (3, 2, 0)  # one cell was there already
    assert [run.info.status for run in runs] == ["FINISHED"] * 3
    assert all(files)
    assert not (workspace / "mlflow.db").exists()


def test_no_database_is_said_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no tracking database"), running_server(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_a_server_elsewhere_is_named_instead_of_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@tracker:5000")
    with pytest.raises(UserError, match="runs already") as error, running_server(tmp_path):
        pass
    assert "http://tracker:5000" in str(error.value)
    assert "secret" not in str(error.value)


def test_a_server_that_cannot_start_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"")
    dying = [sys.executable, "-c", "raise SystemExit('the schema is out of date')"]
    monkeypatch.setattr(server, "_command", lambda *_: dying)
    with pytest.raises(UserError, match="did not start") as error, running_server(tmp_path):
        pass
    assert "the schema is out of date" in str(error.value)
    assert "ui.log" in str(error.value)
