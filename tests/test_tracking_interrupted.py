"""An interrupted, edited or cut-off study leaves in MLflow what an uninterrupted one leaves."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coin_ray.tracking import mlflow_writer
from coin_ray.tracking.mlflow_writer import MlflowWriter
from coin_ray.tracking.replay import Replay, journal_path, sync_journals
from coin_ray.tracking.tracker import Tracker
from tests.tracking_study import (
    AWAY,
    CELL,
    PARENT,
    info,
    record_run,
    run_events,
    stored,
    without_ids,
)

pytestmark = pytest.mark.usefixtures("no_tracker_of_the_user")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all tests of this file: making its tables takes a second. A blank in the path,
    because database and artifact addresses have to carry it."""
    return tmp_path_factory.mktemp("work space")


class Crash(Exception):
    """Not one of the tracker's own errors: stands for a killed driver."""


class Crashing:
    """A client that stops the driver at its n-th call, before or after the call takes effect."""

    def __init__(self, client: Any, at: int, late: bool) -> None:
        self.client, self.left, self.late = client, at, late

    def __getattr__(self, method: str) -> Any:
        return self.around(getattr(self.client, method))

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.left -= 1
            if self.left == 0 and not self.late:
                raise Crash
            result = function(*args, **kwargs)
            if self.left == 0:
                raise Crash
            return result

        return call


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
def test_a_crash_at_any_call_leaves_what_an_uninterrupted_run_leaves(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    whole = record_run(workspace, f"whole{int(late)}", levels=("mae",))
    wanted = without_ids(stored(workspace, whole), whole)
    recorded = journal_path(workspace, whole).read_text()
    # Every other call: what is not hit before it takes effect is hit after it.
    calls = 0 if late else -1
    crashed = True
    while crashed:
        calls += 2
        study_id = whole.replace("whole", f"crash{calls}")
        path = tmp_path / f"{study_id}.jsonl"
        path.write_text(recorded.replace("whole", f"crash{calls}"))
        writer = MlflowWriter(workspace, study_id)
        writer.open()
        crashing = writer._client = Crashing(writer._client, calls, late)
        try:
            with monkeypatch.context() as patched:
                patched.setattr(mlflow_writer, "attach", crashing.around(mlflow_writer.attach))
                Replay(path, writer).run()
            crashed = False
        except Crash:
            Replay(path, MlflowWriter(workspace, study_id)).run()
        if calls % 3 == 0 or not crashed:  # reading a study back is the slow part
            assert without_ids(stored(workspace, study_id), study_id) == wanted
    assert calls > 10  # every kind of call was hit


def test_an_interrupted_study_that_is_run_again_has_one_run_a_cell(workspace: Path) -> None:
    happening = list(run_events(workspace / "files"))
    half = [e["event"] for e in happening].index("CellFinished") + 3
    tracker = Tracker(workspace, info("killed"))
    for event in happening[:half]:
        tracker.record(event)
    assert tracker.sync()
    assert {run["status"] for run in stored(workspace, tracker.study).values()} == {
        "RUNNING",
        "FINISHED",
    }
    tracker.close()  # and no StudyFinished: the driver is gone
    assert record_run(workspace, "killed") == tracker.study
    runs = stored(workspace, tracker.study)
    assert {run["status"] for run in runs.values()} == {"FINISHED"}
    assert runs[CELL]["metrics"]["aji"] == [(1, 0.51), (2, 0.52)]


def test_a_study_that_gained_a_level_is_the_same_study(workspace: Path) -> None:
    study_id = record_run(workspace, "edited", levels=("mae",))
    before = stored(workspace, study_id)
    assert record_run(workspace, "edited", levels=("mae", "none")) == study_id
    after = stored(workspace, study_id)
    assert len(after) == len(before) + 1
    assert after[CELL] == before[CELL]
    assert after[PARENT]["id"] == before[PARENT]["id"]
    assert after[PARENT]["tags"]["factor.backbone"] == '["mae", "none"]'


def test_a_study_runs_on_while_the_tracker_is_away(workspace: Path) -> None:
    said: list[str] = []
    start = time.monotonic()
    uri = AWAY.replace("//", "//user:secret@")
    tracker = Tracker(workspace, info("away"), uri=uri, warn=said.append)
    for event in run_events(workspace / "files"):
        tracker.record(event)
    assert time.monotonic() - start < 5  # recording does not wait for anybody
    assert tracker.close() is False
    assert len(said) == 1
    assert "track sync" in said[0]
    assert "secret" not in said[0]
    synced = {done.study: done for done in sync_journals(workspace)}[tracker.study]
    assert (synced.runs, synced.written) == (3, 3)
    assert stored(workspace, tracker.study)[CELL]["status"] == "FINISHED"


def test_a_file_that_is_gone_is_named_and_costs_nothing_else(workspace: Path) -> None:
    tracker = Tracker(workspace, info("gone"), uri=AWAY, warn=lambda _: None)
    for event in run_events(workspace / "gone"):
        tracker.record(event)
    tracker.close()
    (workspace / "gone" / "overlay.png").unlink()
    synced = {done.study: done for done in sync_journals(workspace)}[tracker.study]
    assert synced.missing == (str(workspace / "gone" / "overlay.png"),)
    assert "per_image.csv" in stored(workspace, tracker.study)[CELL]["files"]
