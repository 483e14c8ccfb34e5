"""A study that is edited while it runs: by two real processes, and cell by cell."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from coin_ray import bucket
from coin_ray.cluster.executor import Cluster
from coin_ray.data.dataset import DataSet
from coin_ray.events import events
from coin_ray.execution import driving, edits
from coin_ray.execution.driving import driving as drives
from coin_ray.execution.executor import Executor
from coin_ray.execution.jobs import REMOVED
from coin_ray.execution.local import Local
from coin_ray.execution.study_run import Outcome, run_study
from coin_ray.execution.trial_log import runs_folder
from coin_ray.files import seen, whole
from coin_ray.planning.states import stages_by_cell
from coin_ray.store import lease
from coin_ray.store.artifacts import Store
from coin_ray.study.command_line import Request
from coin_ray.study.datasets import read_data
from coin_ray.study.resolved import ResolvedStudy
from coin_ray.study.snapshot import from_text, to_text
from coin_ray.study.study import resolve
from tests.pretended_bucket import Door

STUDY = """
study: edited
extends: mini
seeds: 1
data: {{generated: {{train: 0, test: 1, size: 96}}}}
baseline:
  uss.zoom: 2.0
  rounds.count: 0
factors:
  weight:
    baseline: base
    levels:
      base: {{}}
{levels}
"""
BEFORE = {"kept": 0.2, "gone": 0.4, "other": 0.5}
AFTER = {"kept": 0.2, "other": 0.6, "new": 0.7}


def write(folder: Path, levels: dict[str, float]) -> Path:
    lines = [f"      {level}: {{ot.lambda: {value}}}" for level, value in levels.items()]
    (folder / "s.yaml").write_text(STUDY.format(levels="\n".join(lines)))
    return folder / "s.yaml"


def read(
    folder: Path, levels: dict[str, float], workspace: Path | None = None
) -> tuple[ResolvedStudy, dict[str, DataSet]]:
    place = workspace or folder / "workspace"
    return read_data(resolve(str(write(folder, levels)), Request()), place)


@contextmanager
def held(given: ResolvedStudy, data: dict[str, DataSet], workspace: Path, level: str, stage: str):
    """While the body runs, somebody else is at the first of these stages of a level."""
    (cell,) = [c for c in given.cells if c.level == level]
    (own,) = stages_by_cell([cell], data, workspace)
    key = next(k for k in own.missing.values() if k.stage == stage)
    store = Store(workspace / "store")
    token = store.reserve(key)
    assert token is not None
    with lease.held(store.claim(key), token):
        yield


def until(found: Callable[[], bool], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end
        time.sleep(0.05)


class Run:
    """A run of a study in a thread of its own."""

    def __init__(
        self, given: ResolvedStudy, data: dict[str, DataSet], workspace: Path, executor: Executor
    ) -> None:
        self.heard: list[events.Event] = []
        self.taken = threading.Event()
        self.outcome: Outcome | None = None

        def work() -> None:
            self.outcome = run_study(
                given,
                data,
                workspace=workspace,
                listen=self.heard.append,
                executor=executor,
                edited=lambda study: self.taken.set(),
            )

        self.thread = threading.Thread(target=work)
        self.thread.start()

    def told(self, kind: type[Any], level: str) -> list[Any]:
        return [e for e in self.heard if isinstance(e, kind) and e.level == level]


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "workspace"


def test_a_study_crosses_processes_as_text(tmp_path: Path) -> None:
    given, _ = read(tmp_path, BEFORE)
    assert from_text(to_text(given)) == given


def test_what_an_edit_changes(tmp_path: Path) -> None:
    before, after = read(tmp_path, BEFORE)[0], read(tmp_path, AFTER)[0]
    found = edits.difference(before, after)
    levels = {c.key_label: c.level for c in (*before.cells, *after.cells)}
    told = {name: [levels[label] for label in labels] for name, labels in vars(found).items()}
    assert told == {
        "added": ["new"],
        "changed": ["other"],
        "removed": ["gone", "other"],
        "kept": ["base", "kept"],
    }
    assert found.words == "1 cell added, 1 changed, 2 removed, 2 kept"


def check_a_running_cell_that_is_removed(tmp_path: Path, executor: Executor) -> None:
    workspace = tmp_path / "workspace"
    given, data = read(tmp_path, {"gone": 0.4, "kept": 0.2})
    with held(given, data, workspace, "gone", "transport"):
        run = Run(given, data, workspace, executor)
        until(lambda: bool(run.told(events.CellStarted, "gone")))
        after, _ = read(tmp_path, {"kept": 0.2, "new": 0.7})
        edit = edits.hand_in(after, runs_folder(given, workspace))
        until(lambda: edits.answer(edit) is not None)
        assert "1 cell added, 1 removed, 2 kept" in (edits.answer(edit) or "")
        time.sleep(1)  # a cluster hears of it within a quarter of a second
    run.thread.join()
    assert run.outcome is not None and run.outcome.failed == {}
    (left,) = run.told(events.CellLeftOut, "gone")
    assert left.reason == REMOVED
    done = {e.stage for e in run.told(events.StageFinished, "gone")}
    assert not done & {"refine", "instances", "round", "evaluate"}
    for level in ("base", "kept", "new"):
        assert len(run.told(events.CellFinished, level)) == 1
        assert len(run.told(events.CellStarted, level)) == 1
    assert run.outcome.study.levels == after.levels


def test_a_running_cell_that_is_removed_stops_at_its_next_stage(tmp_path: Path) -> None:
    check_a_running_cell_that_is_removed(tmp_path, Local())


@pytest.mark.ray
@pytest.mark.slow
def test_so_it_does_on_a_cluster(tmp_path: Path) -> None:
    check_a_running_cell_that_is_removed(tmp_path, Cluster(cpus=2))


def test_an_edit_that_cannot_be_run_is_refused_and_costs_nothing(tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    given, data = read(tmp_path, {})
    path = write(tmp_path, {"new": 0.7})
    path.write_text(path.read_text().replace("study: edited", "study: another"))
    other, _ = read_data(resolve(str(path), Request()), workspace)
    with held(given, data, workspace, "base", "transport"):
        run = Run(given, data, workspace, Local())
        until(lambda: bool(run.told(events.CellStarted, "base")))
        runs = runs_folder(given, workspace)
        bad = [edits.hand_in(other, runs), runs / edits.FOLDER / "1-here-2.json"]
        bad[1].write_text("{}")
        until(lambda: all(edits.answer(edit) is not None for edit in bad))
    run.thread.join()
    assert "was refused" in (edits.answer(bad[0]) or "")
    assert "cannot be read" in (edits.answer(bad[1]) or "")
    assert run.outcome is not None and run.outcome.study == given and run.outcome.failed == {}


def test_the_run_of_a_dead_driver_is_taken_over(tmp_path: Path) -> None:
    given, _ = read(tmp_path, {})
    dead = subprocess.run(
        [sys.executable, "-c", f"from coin_ray.store import lease; from pathlib import Path; "
         f"print(lease.acquire(Path({str(tmp_path / driving.LEASE)!r})))"],
        capture_output=True, check=True, text=True,
    )  # fmt: skip
    assert dead.stdout.strip() != "None"
    edits.hand_in(given, tmp_path)
    heard: list[events.Event] = []
    with drives(given, tmp_path, heard.append):
        assert not list((tmp_path / edits.FOLDER).glob("*"))
    assert heard == [] and not (tmp_path / driving.LEASE).exists()


def test_a_driver_that_was_lost_with_its_machine_is_waited_for_as_long_as_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, _ = read(tmp_path, {})
    monkeypatch.setattr(lease, "STALE", 0.5)
    (tmp_path / driving.LEASE).write_text("elsewhere:1:token")
    heard: list[events.Event] = []
    with drives(given, tmp_path, heard.append):
        pass
    told = driving.WAITS.format(who="process 1 on elsewhere") + driving.ELSEWHERE
    assert heard == [events.Note(told)] and "silent for 30 s" in told


def sweep(folder: Path, name: str, workspace: str, cache: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "coin_ray.cli", "sweep", "s.yaml", "--local", "--no-tracking"]
    out = (folder / name).open("w")
    return subprocess.Popen(
        [*command, "--workspace", workspace],
        cwd=folder,
        stdout=out,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COIN_RAY_CACHE": str(cache)},
    )


def test_an_edit_that_is_still_being_written_is_none(tmp_path: Path) -> None:
    given, _ = read(tmp_path, BEFORE, tmp_path / "workspace")
    taken: list[str] = []
    edit = tmp_path / edits.FOLDER / "1-here-2.json"

    def take(study: ResolvedStudy, by: str) -> str:
        taken.append(by)
        return "taken"

    with edits.watched(tmp_path, take):
        with whole(edit) as part:
            part.write_text(to_text(given), encoding="utf-8")
            time.sleep(3 * edits.LOOK)
            assert not taken
        until(lambda: edits.answer(edit) == "taken")
    assert taken == ["process 2 on here"]


def check_that_a_second_sweep_joins(tmp_path: Path, workspace: str) -> None:
    """Each with a folder of its own before a bucket, as on two machines."""
    place = bucket.local(workspace)
    given, data = read(tmp_path, BEFORE, place)
    first, second = tmp_path / "first", tmp_path / "second"
    with held(given, data, place, "base", "transport"):
        one = sweep(tmp_path, "first", workspace, tmp_path / "one")
        until(lambda: "to compute" in first.read_text())
        write(tmp_path, AFTER)
        other = sweep(tmp_path, "second", workspace, tmp_path / "two")
        until(lambda: "goes on with this study" in second.read_text())
    assert (one.wait(200), other.wait(200)) == (0, 0)
    said, answered = first.read_text(), second.read_text()
    words = "1 cell added, 1 changed, 2 removed, 2 kept"
    assert f"the study was edited by process {other.pid} on" in said and words in said
    assert f"process {one.pid} on" in answered and "runs this study already" in answered
    assert f"process {one.pid} goes on with this study: {words}" in answered
    # What the first has run, the second finds: the table of both is that of the edited file.
    assert "0 stages computed" in answered
    for text in (said, answered):
        table = text[text.index("seed 0") :]
        assert all(f" {level} " in table for level in ("base (baseline)", "kept", "other", "new"))
    done = [line for line in said.splitlines() if ": done in" in line]
    assert sorted(line.split()[1] for line in done) == ["base", "kept", "new", "other"]
    started = [line for line in said.splitlines() if " gone " in line and "left out" not in line]
    assert not [line for line in started if "·" in line]
    runs = place / "runs" / given.run_name
    assert not seen(runs / driving.LEASE) and not bucket.names(runs / edits.FOLDER)


def test_a_second_sweep_of_the_edited_file_joins_the_first(tmp_path: Path) -> None:
    check_that_a_second_sweep_joins(tmp_path, str(tmp_path / "workspace"))


@pytest.mark.slow
def test_a_second_machine_joins_through_a_bucket(door: Door, tmp_path: Path) -> None:
    check_that_a_second_sweep_joins(tmp_path, "s3://studies/w")
