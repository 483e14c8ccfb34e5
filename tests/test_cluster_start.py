"""A cluster of our own in a hostile place: only we can talk to it, and it runs only our code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import coin_ray

pytestmark = pytest.mark.ray
PACKAGE = Path(coin_ray.__file__).parent
SCRIPT = """
import json, os, signal, time, urllib.error, urllib.request
import grpc, ray
from coin_ray.cluster.own import listening
from coin_ray.cluster.session import session

def look():
    import sys, coin_ray
    return coin_ray.__file__, sys.path, os.environ["RAY_ADDRESS"]

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def refused(port):
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/api/jobs/", timeout=10)
    except urllib.error.HTTPError as error:
        return error.code

def mode():
    return int(ray._private.authentication.authentication_token_setup.get_authentication_mode())

signal.signal(signal.SIGTERM, signal.default_int_handler)
modes = [mode()]
before = dict(os.environ)
with session(cpus=1):
    modes.append(mode())
    found = dict(zip(("file", "path", "address"), ray.get(ray.remote(look).remote())))
    try:
        ray.get(ray.remote(die).options(max_retries=0).remote())
    except ray.exceptions.WorkerCrashedError:
        time.sleep(2)  # the raylet has something to say of it
    found["sockets"] = sorted({ip for ip, _, _ in listening()})
    found["http"] = refused(ray._private.worker._global_node.webui_url.rpartition(":")[2])
    ask = "/ray.rpc.JobInfoGcsService/GetAllJobInfo"
    try:
        grpc.insecure_channel(found["address"]).unary_unary(ask)(b"", timeout=10)
    except grpc.RpcError as error:
        found["gcs"] = error.code().name
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
    except KeyboardInterrupt:
        found["term"] = "ours"
changed = {name for name, _ in set(before.items()) ^ set(os.environ.items())}
found["environment"] = sorted(changed - {"PYTHONBREAKPOINT"})  # Ray's own leaving
found["modes"] = [*modes, mode()]
found["here"] = os.getcwd()
print("FOUND", json.dumps(found))
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """The script, run where each module of the working folder is a trap, with a home that cannot be
    written and a TMPDIR as a batch system makes it."""
    here = tmp_path_factory.mktemp("here")
    trap = "raise SystemExit('from the working folder')\n"
    for name in ("coin_ray/__init__.py", "ray/__init__.py", "random.py", "code.py"):
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).write_text(trap)
    long = here / ("x" * 90)
    long.mkdir()
    hidden = ("RAY_", "PYTHONSAFEPATH", "PYTHONPATH", "COIN_RAY")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(hidden)}
    environment |= {"HOME": "/nonexistent", "TMPDIR": str(long)}
    script = tmp_path_factory.mktemp("elsewhere") / "driver.py"
    script.write_text(f"import sys\nsys.path.insert(0, {str(PACKAGE.parent)!r})\n{SCRIPT}")
    return subprocess.run(
        [sys.executable, str(script)],
        cwd=here,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )


@pytest.fixture
def found(run: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    line = [line for line in run.stdout.splitlines() if line.startswith("FOUND ")]
    assert run.returncode == 0 and line, run.stdout + run.stderr
    return json.loads(line[0].removeprefix("FOUND "))


def test_it_listens_on_loopback_alone_and_asks_for_a_token(found: dict[str, Any]) -> None:
    assert found["sockets"] == ["127.0.0.1"]
    assert (found["http"], found["gcs"]) == (401, "UNAUTHENTICATED")
    assert found["environment"] == [], "nothing of it stays behind"
    assert found["modes"] == [0, 1, 0], "nor in Ray: it asks for a token in between alone"


def test_workers_run_the_drivers_code_and_see_nothing_of_the_folder(
    found: dict[str, Any],
) -> None:
    assert found["file"] == str(PACKAGE / "__init__.py")
    assert str(PACKAGE.parent) in found["path"]
    assert not {"", ".", found["here"]} & set(found["path"])


def test_a_polite_kill_is_ours_and_ray_prints_nothing(
    found: dict[str, Any], run: subprocess.CompletedProcess[str]
) -> None:
    assert found["term"] == "ours"
    assert [line for line in run.stdout.splitlines() if not line.startswith("FOUND")] == []
    assert run.stderr == ""
