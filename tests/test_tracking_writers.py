"""Writers of one MLflow store: its lock, several drivers, and how often they ask it."""

from __future__ import annotations

import fcntl
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coin_ray.tracking import mlflow_writer, replay
from coin_ray.tracking import tracker as tracker_module
from coin_ray.tracking.lines import read_checked
from coin_ray.tracking.mlflow_store import CELL_TAG, alone, connect, locked, tracking_uri
from coin_ray.tracking.mlflow_writer import MlflowWriter
from coin_ray.tracking.replay import Replay, sync_journals
from coin_ray.tracking.tracker import Tracker
from tests.tracking_study import AWAY, info, run_events, stored

pytestmark = pytest.mark.usefixtures("no_tracker_of_the_user")


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Path]:
    with locked(tmp_path):
        yield tmp_path


def test_the_lock_is_the_workspaces(held: Path) -> None:
    with (held / "mlflow.lock").open("w") as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_with_a_server_nobody_waits_for_the_lock(held: Path) -> None:
    server = "http://127.0.0.1:9"
    connect(held, server)
    with alone(held, server):
        pass


def test_a_database_that_could_not_be_made_whole_is_made_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill or a full disk in the middle of MLflow's tables leaves no database at all."""
    import mlflow

    real, workspace = mlflow.MlflowClient, tmp_path / "w"

    def half(tracking_uri: str) -> None:
        Path(tracking_uri.removeprefix("sqlite:///")).write_bytes(b"half of its tables")
        raise OSError("No space left on device")

    monkeypatch.setattr(mlflow, "MlflowClient", half)
    with pytest.raises(OSError, match="No space"):
        connect(workspace, tracking_uri(workspace))
    assert not list(workspace.glob("*.db")) and not list(workspace.glob(".coin-ray-*"))
    monkeypatch.setattr(mlflow, "MlflowClient", real)
    assert connect(workspace, tracking_uri(workspace)).search_experiments()
    assert [path.name for path in workspace.glob("*.db")] == ["mlflow.db"]


class Watched:
    """A client that tells its calls, and in which threads they came."""

    def __init__(self, client: Any) -> None:
        self.client, self.calls = client, Counter[str]()
        self.threads: set[int] = set()

    def __getattr__(self, method: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls[method] += 1
            self.threads.add(threading.get_ident())
            return getattr(self.client, method)(*args, **kwargs)

        return call


def finished_cells(path: Path, digest: str, levels: tuple[str, ...]) -> Replay:
    """A replay of the journal of a run that nobody has written to MLflow."""
    tracker = Tracker(path, info(digest, levels=levels), uri=AWAY, warn=lambda text: None)
    for event in run_events(path / "files", levels=levels):
        tracker.record(event)
    tracker.close()
    return Replay(tracker._journal.path, MlflowWriter(path, tracker.study))


def test_a_cell_is_written_by_as_many_calls_whatever_else_is_there(tmp_path: Path) -> None:
    """It was looked for among all runs of its study, and its values were read back."""
    calls = []
    for number in (2, 12):
        levels = ("mae", *(f"other {i}" for i in range(number - 1)))
        replay = finished_cells(tmp_path / str(number), str(number), levels)
        replay.writer.open()
        watched = replay.writer._client = Watched(replay.writer._client)
        assert replay.run() == number + 1
        calls.append(watched.calls)
    each = {method: (calls[1][method] - calls[0][method]) / 10 for method in calls[1]}
    assert each.pop("log_batch") <= 2
    once = ("create_run", "set_terminated")
    assert each == dict.fromkeys(each, 0) | dict.fromkeys(once, 1)


def test_a_long_journal_is_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All its tables at once took gigabytes."""
    whole = finished_cells(tmp_path, "whole", ("mae", *map(str, range(5))))
    whole.read()
    part = Replay(whole.path, whole.writer)
    taken = []

    def reading(*where: Any, most: int, **how: Any) -> Any:
        taken.append(read_checked(*where, most=most, **how))
        return taken[-1]

    monkeypatch.setattr(replay, "AT_ONCE", 2)
    monkeypatch.setattr(replay, "read_checked", reading)
    part.read()
    assert part.records == whole.records and part.dirty == whole.dirty
    assert (part.offset, part.number, part.bad) == (whole.offset, whole.number, whole.bad)
    assert max(len(lines.good) for lines in taken) == 2 and len(taken) > 6


def test_runs_are_looked_for_once_another_driver_was_here(tmp_path: Path) -> None:
    levels = ("mae", *map(str, range(5)))
    ours = finished_cells(tmp_path, "both", levels)
    theirs = Replay(ours.path, MlflowWriter(tmp_path, ours.writer.study))
    ours.read()
    ours.writer.open()
    watched = ours.writer._client = Watched(ours.writer._client)
    first, *rest = [run for run in sorted(ours.records) if run]
    for run in ("", first):
        ours.writer.write(ours.records[run])
    assert watched.calls["search_runs"] == 0, "nobody else was here"
    theirs.run()
    for run in rest:
        ours.writer.write(ours.records[run])
    assert watched.calls["search_runs"] == len(rest) and watched.calls["create_run"] == 2
    assert len(stored(tmp_path, ours.writer.study)) == 1 + len(levels)


def test_a_server_takes_several_runs_at_once_and_no_lock(
    held: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drivers of one workspace do not wait for each other where a server orders them."""
    monkeypatch.chdir(held)  # a server's artifacts lie where it runs
    replay = finished_cells(held / "w", "served", ("mae", *map(str, range(9))))
    real = connect(held / "mlflow", tracking_uri(held / "mlflow"))
    watched, both = Watched(real), threading.Barrier(2, timeout=60)
    create = real.create_run

    def together(*args: Any, **options: Any) -> Any:
        if CELL_TAG in options["tags"] and watched.calls["create_run"] in (2, 3):
            both.wait()  # for a second one that is on its way
        return create(*args, **options)

    monkeypatch.setattr(real, "create_run", together)
    monkeypatch.setattr(mlflow_writer, "connect", lambda *_: watched)
    monkeypatch.setattr(mlflow_writer, "study_runs", lambda *_: iter(()))
    monkeypatch.setattr(replay.writer, "uri", "http://served")
    monkeypatch.setattr(replay.writer, "workspace", held)
    assert replay.run() == 11 and 1 < len(watched.threads) <= 1 + mlflow_writer.THREADS


def test_an_ended_study_waits_no_longer_than_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracker_module, "LAST", 0.0)
    monkeypatch.setattr(Tracker, "_run", lambda self: None)  # it has come to nothing so far
    said: list[str] = []
    tracker = Tracker(tmp_path, info("late"), warn=said.append)
    for event in run_events(tmp_path / "files"):
        tracker.record(event)
    assert not tracker.close()
    (line,) = said
    assert "3 runs" in line and "within 0 s" in line and "track sync" in line
    (done,) = sync_journals(tmp_path)
    assert done.written == 3
