"""A study of several machines in one bucket: raylets that share no folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from benchmarks import chaos_nodes
from benchmarks.chaos_verdict import differences
from coin_ray import bucket
from coin_ray.data.synthetic import generated_samples
from coin_ray.files import pull
from tests.cli_calls import call
from tests.conftest import ROOT
from tests.pretended_bucket import Door, refusing
from tests.process_trees import end_tree
from tests.test_bucket import artifacts
from tests.test_cluster_losses import Autoscaler

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]
OWN = 'mount --bind "$1" "$2"; shift 2; exec "$@"'
LEFT = """\
import os, signal, sys, ray
from coin_ray.cluster.joining import Demand
ray.init(sys.argv[1])
Demand(lambda n: [{"CPU": 1.0}] * n).follow(3)
os.kill(os.getpid(), signal.SIGKILL)
"""
KEPT = 400_000
"""Bytes that a machine keeps of the bucket."""


def apart(own: Path, place: Path) -> list[str]:
    """How a command sees ``own`` where others see ``place``."""
    user = ["--map-root-user"] * (os.geteuid() != 0)
    return ["unshare", "--mount", *user, "sh", "-ec", OWN, "apart", str(own), str(place)]


@contextmanager
def machine(
    name: str, address: str, folder: Path, place: Path, more: Mapping[str, str]
) -> Iterator[None]:
    """A raylet of one CPU, for which ``place`` is a folder of its own."""
    folder.mkdir()
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus", "1"]
    start += ["--address", address, "--node-name", name, "--object-store-memory", "100000000"]
    ports = ("--min-worker-port", "--max-worker-port", "--dashboard-agent-listen-port")
    start += [word for port in ports for word in (port, "0")]
    with tempfile.TemporaryDirectory(prefix="cr-", dir="/tmp", ignore_cleanup_errors=True) as ours:
        log = folder.with_suffix(".log")
        with log.open("wb") as said:
            raylet = subprocess.Popen(
                [*apart(folder, place), *start, "--temp-dir", ours],
                env={**os.environ, **more},
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
        try:
            yield
        finally:
            end_tree(raylet, patience=20)


def await_nodes(address: str, count: int, logs: Path) -> None:
    from ray._raylet import GcsClient

    until = time.monotonic() + 120
    while time.monotonic() < until:
        found = GcsClient(address=address).get_all_node_info()
        if sum(node.state == 0 for node in found.values()) == count:
            return
        time.sleep(0.5)
    raise AssertionError([path.read_text()[-500:] for path in logs.glob("*.log")])


def bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if "store" in path.parts)


def test_machines_that_share_a_bucket_alone_compute_each_stage_once(
    door: Door,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "here").mkdir()
    probe = [*apart(tmp_path, tmp_path / "here"), "true"]
    if subprocess.run(probe, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("no process can have a folder of its own here (unshare --mount)")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("COIN_RAY_CACHE_GB", str(KEPT / 1e9))
    generated_samples(bucket.local("s3://studies/tiles"), 2, size=64, seed=3)
    study = tmp_path / "nodes.yaml"
    study.write_text(chaos_nodes.STUDY)
    asked = ("sweep", str(study), "--data", "s3://studies/tiles", "--no-tracking", "--device")
    asked += ("cpu", "--set", "uss.family=none", "--set", "rounds.count=1", "--workspace")
    calm = call(*asked, "s3://studies/calm", "--local")
    assert calm.exit_code == 0, calm.output
    with ExitStack() as stack:
        nodes = chaos_nodes.Nodes(0)
        stack.callback(nodes.close)
        for name in ("one", "two"):
            given = (name, nodes.address, tmp_path / name, tmp_path / "here", {})
            stack.enter_context(machine(*given))
        await_nodes(nodes.address, 3, tmp_path)
        subprocess.run([sys.executable, "-c", LEFT, nodes.address], stdout=subprocess.DEVNULL)
        asked_for = Autoscaler(nodes).request
        assert len(asked_for()) == 3, "a driver that was killed has left it"
        done = call(*asked, "s3://studies/w", "--address", nodes.address)
        assert done.exit_code == 0 and asked_for() == [], done.output
        made = artifacts("w")
        assert made == artifacts("calm") and f"{len(made)} stages computed" in done.output
        written = {
            path: n for path, n in door.put.items() if path[len("/studies/w/store/") :] in made
        }
        assert set(written.values()) == {1} and len(written) == len(made), "each stage once"
        for workspace in ("calm", "w"):
            pull(bucket.local(f"s3://studies/{workspace}/runs"))
        pictures = [chaos_nodes.seen(bucket.local(f"s3://studies/{w}")) for w in ("calm", "w")]
        assert differences(*pictures) == [] and len(pictures[0].files) > 20
        total = sum(bucket.names(bucket.local("s3://studies/w/store")).values())
        for name in ("one", "two"):
            assert 0 < bytes_in(tmp_path / name) < 2 * KEPT < total
        with refusing() as closed:
            given = ("three", nodes.address, tmp_path / "three", tmp_path / "here")
            stack.enter_context(machine(*given, {"AWS_ENDPOINT_URL": closed}))
            await_nodes(nodes.address, 4, tmp_path)
            told = call("doctor", "--address", nodes.address, "--workspace", "s3://studies/w")
        assert told.exit_code == 1 and "runs tasks on 4 nodes" in told.output, told.output
        lines = re.findall(r"(\w+) +store +on \S+ \((\w+)\): (.*)", told.output)
        found = {name: (mark, text) for mark, name, text in lines}
        assert len(found) == 4 and found["three"][0] == "fail" and "Permission" in found["three"][1]
        for name in ("one", "two"):
            mark, text = found[name]
            assert mark == "ok" and re.search("MB/s, clock [01] s off, copies: 0.0 of", text), text
