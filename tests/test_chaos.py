"""The chaos tool: its schedules, its damage, its ill tracker and its verdict can be believed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from benchmarks import chaos_nodes, chaos_runs
from benchmarks.chaos_damage import by_age, damage, keep
from benchmarks.chaos_runs import Attack, Run, Target, attack, attacked, limited, outlived, wait
from benchmarks.chaos_schedules import DAMAGE, KINDS, Fault, schedule
from benchmarks.chaos_tracker import Front, ill
from benchmarks.chaos_verdict import Picture, differences, half_written, picture
from coin_ray.store.artifacts import Artifact, Store
from coin_ray.store.keys import make_key
from tests.conftest import ROOT


def test_a_schedule_is_a_function_of_its_seed_and_number() -> None:
    many = [schedule(5, number) for number in range(200)]
    assert many == [schedule(5, number) for number in range(200)]
    assert many != [schedule(6, number) for number in range(200)]
    assert str(schedule(0, 4).faults[0]) == "worker"  # as in every process, whatever its hash seed
    assert schedule(0, 4).faults[0].draw == 1543524096
    for plan in many:
        first = plan.faults[0]
        assert plan.kept <= first.when <= 1 or first.kind == "disk"


def test_every_kind_comes_before_any_comes_again() -> None:
    for start in (0, len(KINDS)):
        own = [schedule(1, start + number).faults[0].kind for number in range(len(KINDS))]
        assert sorted(own) == sorted(KINDS)
    drawn = {w for n in range(400) for f in schedule(1, n).faults for w in f.what}
    assert set(DAMAGE) <= drawn


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Six artifacts with values."""
    store = Store(tmp_path / "workspace" / "store")
    for n in range(6):
        info = {"names": ["aji", "pq"], "mean": n + 0.5, "count": n + 1.25}
        key = make_key("score", 1, f"image_{n}", {"n": n}, {})
        store.save(key, Artifact({"x": np.full(9, n)}, info), 1.0)
    return store


def content(store: Path) -> dict[str, bytes]:
    return {str(p.relative_to(store)): p.read_bytes() for p in store.rglob("*.*") if p.is_file()}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_done_and_is_drawn_by_its_seed(store: Store, tmp_path: Path, what: str) -> None:
    before, found = content(store.root), []
    for name in ("one", "other"):
        keep(store.root, tmp_path / name, 1.0)
        done = damage(Fault("damage", 1.0, what=(what,), draw=3), tmp_path / name)
        assert done and done[0].startswith(what)
        found.append(content(tmp_path / name))
    assert found[0] == found[1] != before
    changed = [name for name in before if found[0].get(name) != before[name]]
    file = "data" if what.endswith("data") else "manifest"
    assert [Path(name).stem for name in changed] == [file]


def test_the_first_artifacts_are_kept(store: Store, tmp_path: Path) -> None:
    keep(store.root, tmp_path / "half", 0.5)
    names = [folder.name for folder in by_age(store.root)]
    assert [folder.name for folder in by_age(tmp_path / "half")] == names[:3]


def test_the_verdict_tells_the_same_from_different() -> None:
    runs = Counter({("study", "FINISHED", ()): 1, ("cell", "FINISHED", (("aji", 0.5),)): 1})
    calm = Picture({"a.csv": "1", "b.tif": "2"}, runs)
    assert differences(calm, Picture(dict(calm.files), Counter(runs))) == []
    others = {
        "a.csv differs": Picture({"a.csv": "3", "b.tif": "2"}, runs),
        "b.tif is missing": Picture({"a.csv": "1"}, runs),
        "c.tmp is left over": Picture(calm.files | {"c.tmp": ""}, runs),
        "the tracker has 2 runs of cell, not 1": Picture(calm.files, runs + runs),
        "the tracker has 0 runs of cell, not 1": Picture(
            calm.files, Counter({("study", "FINISHED", ()): 1})
        ),
        "the tracker's run of cell is RUNNING": Picture(
            calm.files, Counter({("cell", "RUNNING", (("aji", 0.5),)): 1})
        ),
        "in the tracker aji of cell differ": Picture(
            calm.files, Counter({("cell", "FINISHED", (("aji", 0.6),)): 1})
        ),
        "the tracker has a run of other, which is no cell": Picture(
            calm.files, runs + Counter({("other", "FINISHED", ()): 1})
        ),
    }
    told = Counter(
        {("study", "FINISHED", ()): 1, ("cell", "FINISHED", (("aji", 0.5), ("loss", 1.0))): 1}
    )
    for pair in ((Picture(calm.files, told), calm), (calm, Picture(calm.files, told))):
        assert differences(*pair) == ["in the tracker loss of cell differ"]  # a point of a curve
    for line, found in others.items():
        assert line in differences(calm, found)


def test_files_are_told_by_their_bytes_but_for_those_that_tell_the_time(tmp_path: Path) -> None:
    seen = []
    for text in ("1", "2"):
        for name in ("results.csv", "report.html"):
            path = tmp_path / "runs" / "study" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        seen.append(picture(tmp_path, tmp_path / "mlflow.db", "chaos"))
    assert differences(*seen) == ["study/results.csv differs"]


def test_what_is_half_written_is_found(store: Store) -> None:
    workspace, called = store.root.parent, []
    assert half_written(workspace, lambda: called.append(1)) == []
    folder = by_age(store.root)[0]
    (folder / "manifest.json").unlink()
    (store.root / "tmp" / "left").mkdir()
    (workspace / ".coin-ray-left.csv").touch()
    shutil.rmtree(by_age(store.root)[1])
    found = half_written(workspace, lambda: None)
    assert len(found) == 3
    assert called == [1]


def under(folder: Path, code: str, attacks: Callable[[Target], Attack]) -> Run:
    """A run of a line of Python under an attack."""
    target = partial(Target, store=folder, total=1)
    command = [sys.executable, "-c", f"import time; {code}"]
    return attacked(command, {}, folder / "log", patience=20, target=target, attacks=attacks)


def test_a_kill_strikes_and_one_that_finds_nobody_says_so(tmp_path: Path) -> None:
    for kind in ("driver", "group"):
        done = under(tmp_path, "time.sleep(30)", partial(attack, Fault(kind, 0.0)))
        assert (done.code, done.struck) == (-signal.SIGKILL, True)
        assert outlived(done) == []
    done = under(tmp_path, "time.sleep(0.2)", partial(attack, Fault("hub", 0.0)))
    assert (done.code, done.struck) == (0, False)


def test_who_outlives_a_run_is_named_and_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chaos_runs, "LEAVING", 0.2)
    code = "import subprocess; subprocess.Popen(['/usr/bin/env', 'sleep', '30'])"
    done = under(tmp_path, code, lambda target: wait(0))
    assert outlived(done) == ["sleep"]
    assert outlived(done) == []


def test_a_pause_holds_a_process_up_and_lets_it_go(tmp_path: Path) -> None:
    pause = Fault("pause", 0.0, 0.4, ("driver",))
    done = under(tmp_path, "time.sleep(0.1)", partial(attack, pause))
    assert (done.code, done.struck) == (0, True)
    assert done.seconds > 0.4


def test_without_a_disk_of_its_own_a_file_finds_no_room(tmp_path: Path) -> None:
    code = "time.sleep(0.3); open('log.txt', 'wb').write(bytes(10**6))"
    done = under(tmp_path, code, partial(limited, Fault("disk", 0.0)))
    assert (done.code, done.struck) == (1, True)
    assert "File too large" in done.said


def test_a_run_that_does_not_end_is_ended_and_said(tmp_path: Path) -> None:
    done = attacked(
        ["sleep", "30"],
        {"PATH": "/usr/bin:/bin"},
        tmp_path / "log",
        patience=0.3,
        target=partial(Target, store=tmp_path, total=1),
    )
    assert done.code is None
    assert done.seconds < 5
    assert done.target.processes() == {}


def test_a_tracker_in_all_its_states(tmp_path: Path) -> None:
    class Behind(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(201)
            self.end_headers()
            self.wfile.write(body.upper())

        def log_message(self, *_: object) -> None: ...

    def ask() -> tuple[int, bytes]:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{front.address}/x", data=b"abc", timeout=5) as answer:
            return answer.status, answer.read()

    behind = ThreadingHTTPServer(("127.0.0.1", 0), Behind)
    Thread(target=behind.serve_forever, args=(0.01,), daemon=True).start()
    front = Front(f"http://127.0.0.1:{behind.server_address[1]}")
    target = Target(0, tmp_path, 1)
    try:
        assert ask() == (201, b"ABC")
        assert list(ill(Fault("tracker 500", 0.0), target, front)) == []
        with pytest.raises(urllib.error.HTTPError, match="500"):
            ask()
        restart = ill(Fault("tracker restart", 0.0, 0.2), target, front)
        next(restart)
        with pytest.raises(urllib.error.URLError, match="refused"):
            ask()
        for _ in restart:
            pass
        assert ask() == (201, b"ABC")
    finally:
        front.close()
        behind.shutdown()
        behind.server_close()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_driver_costs_nothing_but_time() -> None:
    killed = next(n for n in range(len(KINDS)) if schedule(0, n).faults[0].kind == "driver")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.chaos", "--schedule", str(killed)],
        cwd=ROOT,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"| {killed} | 0 | driver |" in done.stdout
    assert " -9 0 " in done.stdout


# Nodes


def test_nodes_are_lost_after_each_stage_and_at_moments_that_are_drawn(store: Store) -> None:
    for age, stage in enumerate(
        ("score", "round", "ucis", "evaluate", "masks", "select", "redraw")
    ):
        manifest = store.root / stage / "one" / "manifest.json"
        manifest.parent.mkdir(parents=True, exist_ok=True)
        manifest.touch()
        os.utime(manifest, (age + 1, age + 1))
    (store.root / "tmp").mkdir(exist_ok=True)
    found = list(chaos_nodes.runs(store.root, 7, 3))
    assert (
        found == list(chaos_nodes.runs(store.root, 7, 3)) != [*chaos_nodes.runs(store.root, 7, 4)]
    )
    assert [[moment.stage for moment in losses] for losses in found[:2]] == [
        ["score", "round", "ucis", "evaluate", "masks"],
        ["select", "redraw"],
    ]
    assert [len(losses) for losses in found[2:]] == [5, 2]
    for losses in found[2:]:
        shares = [moment.share for moment in losses]
        assert shares == sorted(shares) and len({moment.draw for moment in losses}) == len(losses)


def test_what_the_loss_of_a_node_says_is_told_from_progress() -> None:
    for line in (
        "[0:39] 2 cells; to compute: ucis 2, evaluate 16; stored: 0",
        "[1:24] cells 0/2 · stages 0 computed, 82 to go, 0 stored · elapsed 1:24 · left ?",
        "[1:31:02] most · generated · seed 0: training",
        "[1:35] few · generated · seed 0: round 1 done in 0:01 (agreement 0.820)",
        "[2:17] most · generated · seed 0: done in 2:00 (agreement 0.721); 1/2 cells, left 0:00",
    ):
        assert chaos_nodes.USUAL.match(line), line
    for line in (
        "[0:29] few--generated--s0 lost its process or its node and is tried again",
        "[2:08] most · generated · seed 0: FAILED: ActorDiedError (tried 3 times)",
        "Traceback (most recent call last):",
    ):
        assert not chaos_nodes.USUAL.match(line), line
    calm, moments = Picture({"a": "1"}, Counter()), [chaos_nodes.Moment("score")] * 2
    done = chaos_nodes.Sweep(0, 1.0, moments, ["a line"] * 20)
    assert chaos_nodes.faults(done, moments, calm, calm) == []
    bad = chaos_nodes.Sweep(1, 1.0, moments[:0], ["a line"] * 21)
    assert chaos_nodes.faults(bad, moments, calm, Picture({}, Counter())) == [
        *["no node went after the first score"] * 2,
        "it ended with 1",
        "it said 21 lines about 2 losses",
        "a is missing",
    ]
