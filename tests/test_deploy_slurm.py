"""The batch file under a pretended SLURM: what each node runs, the time limit, how it ends."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.conftest import ROOT
from tests.pretended_slurm import Ended, options, submit

SCRIPT = ROOT / "deploy" / "slurm" / "coin-ray.sbatch"
STUB = """\
#!/usr/bin/env bash
# Stands for the interpreter: notes what it is asked for, and pretends to be Ray and the sweep.
note() { printf '%s\\n' "$*" >>"$NOTES"; }
end() { note "$1 told to end"; kill %1 2>/dev/null; exit "$2"; }
case "$*" in
  -) echo "10.0.0.1 6001 6002" ;;
  "- "*) until (($(grep -c '^node' "$NOTES") >= $2)); do sleep .05; done ;;
  *health-check*) exit "${HEALTH:-0}" ;;
  *" start "*)
    trap 'end "node $SLURM_PROCID" 1' TERM
    note "node $SLURM_PROCID $* auth $RAY_AUTH_MODE ${#RAY_AUTH_TOKEN} in $RAY_ADDRESS"
    [[ ${DIES:-} != "$SLURM_PROCID" ]] || { echo "no room"; exit 1; }
    sleep 60 & wait ;;
  *" sweep "*)
    trap 'end sweep 143' TERM
    note "sweep $*"
    if [[ -n ${LONG:-} && -z ${SLURM_RESTART_COUNT:-} ]]; then
      sleep 60 & wait
    fi
    exit "${SWEEP:-0}" ;;
esac
"""


class Job:
    """A folder with a stub for an interpreter, and what it has noted."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.notes = folder, folder / "notes"
        (folder / "stub").write_text(STUB)
        (folder / "stub").chmod(0o755)
        (folder / "tmp").mkdir()
        self.env = {
            "COIN_RAY_PYTHON": str(folder / "stub"),
            "COIN_RAY_TMP": str(folder / "tmp"),
            "NOTES": str(self.notes),
        }

    def noted(self, what: str) -> list[str]:
        lines = self.notes.read_text().splitlines() if self.notes.exists() else []
        return [line for line in lines if line.startswith(what)]

    def sweeps(self) -> bool:
        return bool(self.noted("sweep"))

    def run(self, *words: str, **more: object) -> Ended:
        env = {**self.env, **more.pop("env", {})}  # type: ignore[dict-item]
        ended = submit(SCRIPT, *words, folder=self.folder, env=env, timeout=60, **more)  # type: ignore[arg-type]
        assert list((self.folder / "tmp").iterdir()) == [], "Ray's files stay behind"
        assert left_of(str(self.folder)) == []
        return ended


def left_of(*marks: str, patience: float = 0.0) -> list[list[str]]:
    """Command lines of processes that name one of the marks, ``patience`` seconds from now."""
    end = time.monotonic() + patience
    while True:
        lines = [p.info["cmdline"] or [] for p in psutil.process_iter(["cmdline"])]
        left = [line for line in lines if any(mark in word for mark in marks for word in line)]
        if not left or time.monotonic() > end:
            return left
        time.sleep(0.2)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


def test_it_is_a_script() -> None:
    assert subprocess.run(["bash", "-n", SCRIPT]).returncode == 0
    if shutil.which("shellcheck") is None:
        pytest.skip("no shellcheck")
    done = subprocess.run(["shellcheck", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_it_asks_slurm_for_one_task_a_node_a_signal_and_another_try() -> None:
    asked = options(SCRIPT)
    assert asked["ntasks-per-node"] == "1" and asked["signal"] == "B:USR1@120"
    assert {"requeue", "no-kill"} <= set(asked) and asked["open-mode"] == "append"
    known = {"job-name", "nodes", "ntasks-per-node", "cpus-per-task", "mem", "time", "output"}
    assert set(asked) == known | {"open-mode", "signal", "requeue", "no-kill"}
    text = SCRIPT.read_text()
    assert text.count("#SBATCH") == len(asked), "one is below the first command, or misspelt"


def test_each_node_takes_what_slurm_gave_and_the_sweep_runs_once(job: Job) -> None:
    given = {"SLURM_CPUS_PER_TASK": "3", "SLURM_GPUS_ON_NODE": "2", "SLURM_MEM_PER_NODE": "1000"}
    ended = job.run("my study", "--data", "a b", env=given)
    assert (ended.code, ended.starts) == (0, 1)
    head, worker = sorted(job.noted("node"))[::2]
    assert re.findall(r"told", head + worker) == []
    for line in (head, worker):
        assert "--num-cpus 3 --num-gpus 2 " in line and "--memory 838860800" in line
        assert "--min-worker-port 0 --max-worker-port 0" in line
        assert line.endswith("auth token 64 in 10.0.0.1:6001")
    assert "--head --node-ip-address 10.0.0.1 --port 6001 --ray-client-server-port 6002" in head
    assert "--head" not in worker and "--address 10.0.0.1:6001" in worker
    assert job.noted("sweep") == [
        "sweep -m coin_ray.cli sweep my study --data a b --address 10.0.0.1:6001"
    ]
    assert len([line for line in job.noted("node") if "told to end" in line]) == 2


@pytest.mark.parametrize("code", [1, 2, 70])
def test_the_exit_code_is_the_sweeps(job: Job, code: int) -> None:
    ended = job.run("study", env={"SWEEP": str(code)})
    assert (ended.code, ended.starts) == (code, 1)


def test_at_the_time_limit_the_same_command_is_put_back(job: Job) -> None:
    ended = job.run("study", "--seeds", "3", env={"LONG": "1"}, limit=job.sweeps)
    assert (ended.code, ended.starts) == (0, 2)
    first, told, second = job.noted("sweep")
    assert first == second and told == "sweep told to end"
    assert ended.log.count("put back in the queue") == 1


def test_a_limit_that_comes_when_the_sweep_is_done_changes_nothing(job: Job) -> None:
    ended = job.run("study", env={"SWEEP": "1"}, limit=job.sweeps)
    assert (ended.code, ended.starts) == (1, 1)


def test_slurm_may_refuse_and_tries_are_counted(job: Job) -> None:
    ended = job.run("study", env={"LONG": "1", "NO_REQUEUE": "1"}, limit=job.sweeps)
    assert (ended.code, ended.starts) == (143, 1)
    assert "SLURM would not put the job back" in ended.log
    job.notes.unlink()
    ended = job.run("study", env={"LONG": "1", "COIN_RAY_REQUEUES": "0"}, limit=job.sweeps)
    assert (ended.code, ended.starts) == (143, 1) and "given up" in ended.log


def test_a_cancelled_job_is_not_put_back(job: Job) -> None:
    ended = job.run("study", env={"LONG": "1"}, kill=job.sweeps)
    assert (ended.code, ended.starts) == (143, 1)
    assert "sweep told to end" in job.noted("sweep") and "put back" not in ended.log


def test_a_node_that_dies_is_said_and_ends_nothing(job: Job) -> None:
    ended = job.run("study", env={"DIES": "1", "LONG": "1"}, limit=lambda: died(job))
    assert (ended.code, ended.starts) == (0, 2)
    assert "Ray has ended on" in ended.log and "no room" in ended.log


def died(job: Job) -> bool:
    return job.sweeps() and "Ray has ended" in (job.folder / "job.log").read_text()


def test_without_ray_the_job_fails_and_says_so(job: Job) -> None:
    ended = job.run("study", env={"DIES": "0", "HEALTH": "1", "SLURM_JOB_NUM_NODES": "1"})
    assert (ended.code, ended.starts) == (1, 1)
    assert "no room" in ended.log and "Ray did not start" in ended.log
    assert not job.sweeps()


STUDY = """\
study: nodes
extends: mini
data: {generated: {train: 0, test: 2, size: 64}}
baseline:
  uss: {family: none}
  rounds: {count: 0}
design: one_at_a_time
factors:
  kept:
    baseline: most
    levels:
      most: {select.value: 0.9}
      few: {select.value: 0.3}
"""
STAGES = 20
"""Of this study."""


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_a_sweep_on_two_nodes_that_is_put_back_goes_on_from_the_store(tmp_path: Path) -> None:
    """Two raylets of one processor each; SLURM alone is pretended."""
    (tmp_path / "s.yaml").write_text(STUDY)
    env = {
        "COIN_RAY_PYTHON": sys.executable,
        "SLURM_CPUS_PER_TASK": "1",
        "HOME": str(tmp_path),
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
    }
    masks = tmp_path / ".coin-ray" / "store" / "masks"
    ended = submit(
        *(SCRIPT, "s.yaml", "--no-tracking"),
        folder=tmp_path,
        env=env,
        limit=lambda: masks.is_dir() and any(masks.iterdir()),
        timeout=800,
    )
    assert (ended.code, ended.starts) == (0, 2), ended.log
    assert ended.log.count("Ray: 2 of 2 nodes, 2 CPUs, 0 GPUs") == 2
    ((computed, reused),) = re.findall(r"(\d+) stages computed, (\d+) reused", ended.log)
    assert int(computed) < STAGES and int(reused) > 0
    # A server that Ray's dashboard forks from ends when it finds the dashboard gone.
    name = f"cr-{os.getpid()}-"
    assert left_of(f"/{name}", str(tmp_path), patience=10) == []
    assert not list(Path("/tmp").glob(f"{name}*"))
