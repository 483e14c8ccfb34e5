"""The folder of everything: it is a path, and what lies in it lies below it."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from coin_ray import cli
from coin_ray.api.studies import default_workspace
from coin_ray.files import write_text
from coin_ray.store.artifacts import Artifact, Store
from coin_ray.store.keys import make_key
from coin_ray.tracking.journal import Journal
from coin_ray.tracking.mlflow_store import locked
from coin_ray.workspace import Workspace
from tests.conftest import ROOT

PLACES = [name for name, found in vars(Workspace).items() if isinstance(found, property)]


def test_places_are_plain_folders_and_files_of_their_own(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    places = [getattr(workspace, name) for name in PLACES]
    assert {place.parent for place in places} == {tmp_path}
    assert len(set(places)) == len(places) >= 5
    assert not any(isinstance(place, Workspace) for place in places)


def test_it_travels_to_workers_and_equals_its_path(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    there = pickle.loads(pickle.dumps(workspace))  # noqa: S301
    assert isinstance(there, Workspace) and there == workspace == tmp_path
    assert Workspace(workspace).resolve().store == tmp_path.resolve() / "store"


@pytest.mark.parametrize("given", ["option", "variable", "nothing"])
def test_the_command_line_makes_one(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr("coin_ray.cli.verbs.status._studies", seen.append)
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".coin-ray").mkdir()
    option = ["--workspace", ".coin-ray"] if given == "option" else []
    if given == "variable":
        monkeypatch.setenv("COIN_RAY_WORKSPACE", str(tmp_path / ".coin-ray"))
    done = CliRunner().invoke(cli.app, ["status", *option])
    assert done.exit_code == 0, done.output
    assert isinstance(seen[0], Workspace) and seen[0] == tmp_path.resolve() / ".coin-ray"


def as_user(number: int, group: int, work: Callable[[], None]) -> int:
    """Do some work as another user of a group (as root; else as oneself); its exit code."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(group)
                os.setuid(number)
            os.umask(0o022)
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture
def homes() -> Iterator[Path]:
    """A folder that everybody may look into."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder of a group, with the setgid bit, which pytest's own folders are not open enough
    for."""
    folder = Path(tempfile.mkdtemp())
    group = 54321 if os.geteuid() == 0 else os.getgid()
    os.chown(folder, -1, group)
    folder.chmod(0o2775)
    yield folder
    shutil.rmtree(folder)


def test_two_users_of_a_group_write_one_workspace(shared: Path) -> None:
    group = shared.stat().st_gid
    key = make_key("ucis", 1, "tile", {}, {})

    def work(first: bool) -> None:
        workspace = Workspace(default_workspace(shared))
        log = Journal(workspace.journal / "study.jsonl")
        log.append({"event": "Note", "text": str(first)})
        log.close()
        write_text(workspace.runs / "study" / "sweep.json", str(first))
        store = Store(workspace.store)
        if not first:  # the other's artifact is used, goes, and is made again
            assert store.load(key)
            store.discard(store.folder(key))
        store.get(key, Artifact)
        with locked(workspace):
            assert workspace.tracker_lock.is_file()

    assert as_user(60001, group, lambda: work(True)) == 0
    assert as_user(60002, group, lambda: work(False)) == 0
    lines = (shared / "journal" / "study.jsonl").read_text().splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["True", "False"]
    assert (shared / "runs" / "study" / "sweep.json").read_text() == "False"
    for path in shared.rglob("*"):
        assert path.stat().st_gid == group and path.stat().st_mode & 0o060 == 0o060, path


def test_a_folder_of_ones_own_stays_so(shared: Path) -> None:
    shared.chmod(0o775)

    def work() -> None:
        write_text(Workspace(default_workspace(shared)).runs / "a" / "b.json", "")

    assert as_user(os.geteuid(), os.getegid(), work) == 0
    assert (shared / "runs" / "a" / "b.json").stat().st_mode & 0o777 == 0o644


def test_both_drivers_write_at_once(shared: Path) -> None:
    """Lines of two processes do not mix, and neither waits for the other to end."""
    group, path = shared.stat().st_gid, shared / "journal" / "study.jsonl"

    def work() -> None:
        log = Journal(Workspace(default_workspace(shared)).journal / "study.jsonl")
        for i in range(50):
            log.append({"event": "Note", "text": f"{i} " + "x" * 5000})

    codes: list[int] = []
    other = threading.Thread(target=lambda: codes.append(as_user(60001, group, work)))
    other.start()
    codes.append(as_user(60002, group, work))
    other.join()
    assert codes == [0, 0]
    lines = path.read_text().splitlines()
    assert len(lines) == 100 and all(json.loads(line)["event"] == "Note" for line in lines)


STUDY = """\
study: shared
extends: mini
data: {generated: {train: 0, test: 2, size: 64}}
baseline:
  uss.family: none
  student: {width: 4, iterations: 2, batch: 2, crop: 64}
  rounds.count: 1
  infer: {scales: [1.0]}
design: one_at_a_time
factors:
  kept: {baseline: most, levels: {most: {select.value: 0.9}, few: {select.value: 0.3}}}
"""
OTHER_USER = """\
hidden=$1 python=$2 user=$3 group=$4 aside=$5; shift 5
if [ "$hidden" ]; then
  mount --bind "$python" "$aside"
  mount -t tmpfs -o mode=755 tmpfs "$hidden"
  mkdir -p "$python"
  mount --bind "$aside" "$python"
fi
umask 077
exec setpriv --reuid "$user" --regid "$group" --clear-groups "$@"
"""
"""Where Python lies in a folder that others may not enter, they see no more of that folder."""


def other_user(number: int, group: int, aside: Path) -> list[str]:
    """How a command becomes another user's, who keeps his files to himself."""
    if os.geteuid() != 0:
        pytest.skip("only root can be two other users")
    python = Path(sys.base_prefix).resolve()
    closed = [at for at in reversed(python.parents) if not at.stat().st_mode & stat.S_IXOTH]
    hidden = str(closed[0]) if closed else ""
    call = [*(["unshare", "--mount"] if hidden else []), "sh", "-e", "-c", OTHER_USER, "as_user"]
    call += [hidden, str(python), str(number), str(group), str(aside)]
    if subprocess.run([*call, sys.executable, "-c", "import coin_ray"], cwd="/").returncode:
        pytest.skip("another user of this machine cannot start Python here")
    return call


def test_two_users_drive_one_study_at_once(shared: Path, homes: Path, tmp_path: Path) -> None:
    """Both end with one table, each stage is computed once, and there is no file of one that the
    other could not go on with."""
    group, file = shared.stat().st_gid, shared / "shared.yaml"
    file.write_text(STUDY)
    file.chmod(0o664)
    os.chown(file, -1, group)
    running = []
    for number in (60001, 60002):
        home = homes / str(number)
        home.mkdir()
        os.chown(home, number, group)
        command = [*other_user(number, group, tmp_path), sys.executable, "-m", "coin_ray.cli"]
        own = {"HOME": str(home), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        running.append(
            subprocess.Popen(
                [*command, "sweep", str(file), "--local", "--workspace", str(shared)],
                cwd=home,
                env={"PATH": os.environ["PATH"], **own},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    said = [run.communicate(timeout=600)[0] for run in running]
    assert [run.returncode for run in running] == [0, 0] and "is away" not in "".join(said), said
    tables = {one.rpartition("\nshared\n")[2].partition("stages computed")[0] for one in said}
    assert len({table.rpartition("\n")[0] for table in tables}) == 1 and "Dice" in "".join(tables)
    computed = [int(n) for n in re.findall(r"(\d+) stages computed", "".join(said))]
    assert sum(computed) == len(list((shared / "store").glob("*/*/manifest.json"))) > 20
    for path in shared.rglob("*"):
        assert path.stat().st_gid == group and path.stat().st_mode & 0o060 == 0o060, path
