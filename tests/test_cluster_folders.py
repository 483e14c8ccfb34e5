"""Folders that Ray writes to: short, private, gone when a run ends; the rest is found."""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path

import pytest

from coin_ray.cluster import folders
from coin_ray.cluster.own import did_not_start
from coin_ray.errors import UserError
from tests.cli_calls import call

HOUR = 3700


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place for sessions."""
    found = tmp_path / "sessions"
    found.mkdir()
    monkeypatch.setattr(folders, "_places", lambda: [found])
    monkeypatch.setattr(folders, "LONGEST", 200)
    return found


def test_a_long_tmpdir_is_passed_over_and_a_short_one_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    long = tmp_path / ("x" * 90)
    long.mkdir()
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(long))
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    with folders.session_folder() as folder:
        assert str(folder.parent) in ("/tmp", "/var/tmp", "/dev/shm")
        # The longest of Ray's sockets, with a process id of seven digits.
        socket = folder / "session_2026-11-28_18-36-29_687847_1234567/sockets/dash_MetricsHead"
        assert len(os.fsencode(socket)) <= 107
    monkeypatch.setenv("RAY_TMPDIR", "/var/tmp")
    with folders.session_folder() as folder:
        assert folder.parent == Path("/var/tmp")
    monkeypatch.setattr(folders, "_places", lambda: [long])
    with pytest.raises(UserError, match="set RAY_TMPDIR"), folders.session_folder():
        pass


def test_a_session_is_private_and_gone_afterwards(place: Path) -> None:
    with folders.session_folder() as folder:
        assert folder.stat().st_mode & 0o077 == 0
        (folder / "session_1").mkdir()
        assert folders.abandoned(place) == [], "its driver lives"
    for error in (UserError("no GPU"), KeyboardInterrupt()):
        with pytest.raises(type(error)), folders.session_folder():
            raise error
    assert list(place.iterdir()) == []


def test_a_session_that_broke_keeps_its_logs_until_they_are_collected(place: Path) -> None:
    with pytest.raises(RuntimeError), folders.session_folder() as folder:
        (folder / "gcs.out").write_text("why")
        raise RuntimeError("the head has died")
    assert (folder / "gcs.out").is_file()
    assert folders.abandoned(place) == [folder]


def test_only_what_is_ours_and_nobodys_is_collected(place: Path, tmp_path: Path) -> None:
    workspace = tmp_path / "w"
    (workspace / "store").mkdir(parents=True)
    for name in ("coin-ray-of-somebody", "other"):  # no lock of ours in it
        (place / name).mkdir()
    dead = place / "coin-ray-dead"
    dead.mkdir()
    (dead / "lock").touch()
    (dead / "log").write_bytes(b"x" * 2000)
    runs = workspace / "ray"
    for name in ("old", "fresh"):
        (runs / name / "sub").mkdir(parents=True)
        (runs / name / "sub" / "state.json").write_bytes(b"x" * 1000)
    (runs / "link").symlink_to(tmp_path)
    for path in (runs / "old", runs / "old" / "sub", runs / "old" / "sub" / "state.json"):
        os.utime(path, (path.stat().st_mtime - HOUR,) * 2)
    with folders.run_folder(workspace) as living:
        assert folders.abandoned(workspace) == [runs / "old", dead]
        told = call("store", "gc", "--workspace", str(workspace), "--dry-run").stdout
        assert "left by killed runs: 2 folders of Ray" in told and dead.is_dir()
        assert "would free" in told and "would free 0" not in told
        call("store", "gc", "--workspace", str(workspace))
        assert {path.name for path in runs.iterdir()} == {"fresh", "link", living.name}
        assert {path.name for path in place.iterdir()} == {"coin-ray-of-somebody", "other"}
    assert not living.exists()


def test_a_lock_that_is_held_is_a_living_session(place: Path) -> None:
    folder = place / "coin-ray-other-process"
    folder.mkdir()
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert folders.abandoned(place) == []
    assert folders.abandoned(place) == [folder]


@pytest.mark.parametrize(
    ("error", "found", "do"),
    [
        (
            RuntimeError(
                "The last 20 lines of dashboard.log:\n  File x\nOSError: AF_UNIX too long"
            ),
            "The last 20 lines of dashboard.log:; OSError: AF_UNIX too long",
            "coin-ray doctor",
        ),
        (Exception("The current node timed out during startup."), "timed out", "try again"),
        (OSError(28, "No space left on device"), "No space left", "RAY_TMPDIR"),
        (ValueError(), "ValueError", "doctor"),
    ],
)
def test_a_start_that_fails_says_why_and_what_to_do(error: Exception, found: str, do: str) -> None:
    told = did_not_start(error)
    assert told.what == "Ray did not start" and found in told.found and do in told.do
