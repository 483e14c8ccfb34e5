"""Many runs into a database by several processes: the same as by one, and nothing outlives them."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from coin_ray.errors import UserError
from coin_ray.tracking import backlog
from coin_ray.tracking.mlflow_writer import MlflowWriter
from coin_ray.tracking.replay import sync_journals
from tests.test_tracking_writers import finished_cells
from tests.tracking_study import stored, without_ids

LEVELS = ("mae", *(f"other {i}" for i in range(6)))


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three processes for a few runs, whatever the database."""
    monkeypatch.setattr(backlog, "WORTH", 2)
    monkeypatch.setattr(backlog, "SHARE", 1)
    monkeypatch.setattr(backlog, "processes", lambda uri: 3)


def test_several_processes_write_what_one_does(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    found = []
    for many in (False, True):
        if many:
            request.getfixturevalue("shared")
        study = finished_cells(tmp_path / str(many), "same", LEVELS).writer.study
        (tmp_path / str(many) / "files" / "overlay.png").unlink(missing_ok=True)
        (synced,) = sync_journals(tmp_path / str(many))
        assert synced.written == synced.runs == len(LEVELS) + 1
        found.append(without_ids(stored(tmp_path / str(many), study), study))
        found.append({"missing": [Path(path).name for path in synced.missing]})
        assert sync_journals(tmp_path / str(many))[0].written == 0
    assert found[:2] == found[2:] and found[1] == {"missing": ["overlay.png"]}
    assert multiprocessing.active_children() == []


def test_a_process_that_is_gone_is_said_and_the_rest_is_written_later(
    tmp_path: Path, shared: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = finished_cells(tmp_path, "gone", LEVELS)
    held = MlflowWriter.held

    @contextmanager
    def without(writer: MlflowWriter) -> Iterator[None]:
        with held(writer):
            for process in multiprocessing.active_children()[:1]:
                process.kill()
                process.join()
            yield

    with monkeypatch.context() as patched:
        patched.setattr(MlflowWriter, "held", without)
        with pytest.raises(UserError, match="a process that wrote has gone"):
            sync_journals(tmp_path)
    assert multiprocessing.active_children() == []
    (synced,) = sync_journals(tmp_path)
    assert 0 < synced.written < synced.runs
    assert len(stored(tmp_path, done.writer.study)) == len(LEVELS) + 1


def test_a_file_of_sqlite_has_one_writer_and_a_server_of_databases_several() -> None:
    assert backlog.processes("sqlite:////w/mlflow.db") == 1
    assert 1 <= backlog.processes("postgresql://mlflow@db/mlflow") <= backlog.PROCESSES
