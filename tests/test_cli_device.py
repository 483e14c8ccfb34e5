"""Which cluster a verb uses, and which device: ``plan`` and ``sweep`` by one function."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import coin_ray
from coin_ray.cluster import nodes as cluster_nodes
from coin_ray.cluster.executor import Cluster
from coin_ray.errors import UserError
from coin_ray.execution.refusals import target
from coin_ray.planning import machines as nodes
from coin_ray.planning.machines import Node, find_device
from coin_ray.study.command_line import Request
from coin_ray.study.study import resolve
from tests.cli_calls import call, enter
from tests.test_cli_plan import STUDY

CPU, GPU = Node(8, 0, 2**36), Node(8, 2, 2**36)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(nodes, "this_machine", lambda: CPU)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return enter(tmp_path, monkeypatch, STUDY)


def test_auto_is_a_gpu_wherever_the_cluster_has_one() -> None:
    assert find_device("auto", [CPU, GPU], ["coin"]) == "cuda"
    assert find_device("auto", [CPU], ["mini"]) == "cpu"
    assert find_device("cpu", [GPU]) == "cpu" and find_device("cuda", [CPU]) == "cuda"
    for profile in ("coin", "official"):
        assert find_device("cpu", [CPU], [profile]) == "cpu"
        for named in ([profile], ["mine", profile]):
            with pytest.raises(UserError, match="--device cpu runs it all the same") as refused:
                find_device("auto", [CPU], named)
            assert f"profile {named[0]} has the paper's models" in str(refused.value)


@pytest.mark.parametrize("verb", ["plan", "sweep"])
def test_the_papers_profiles_are_refused_without_a_gpu(verb: str, folder: Path) -> None:
    done = call(verb, "s.yaml", "--profile", "coin")
    assert done.exit_code == 2 and "at least 1 GPU" in done.stderr
    assert "1 × (8 CPU, 0 GPU, 64 GiB)" in done.stderr and "--device cpu" in done.stderr
    assert not (folder / ".coin-ray" / "store").exists()


def test_a_profile_that_extends_one_of_the_papers_is_refused_as_it_is(folder: Path) -> None:
    (folder / "mine.yaml").write_text("profile: mine\nextends: coin\nbaseline: {ot.lambda: 0.2}\n")
    done = call("plan", "s.yaml", "--profile", "mine.yaml")
    assert done.exit_code == 2 and "at least 1 GPU" in done.stderr


@pytest.mark.parametrize("caller", ["plan", "sweep", "api plan", "api run"])
def test_auto_means_the_clusters_device_whoever_asks(
    caller: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine without a GPU, for a cluster that has some on another."""
    ran: list[str] = []

    def run_study(*_: Any, device: str, **__: Any) -> Any:
        ran.append(device)
        raise KeyboardInterrupt

    monkeypatch.setattr(cluster_nodes, "nodes_of", lambda address: [CPU, GPU])
    monkeypatch.setattr("coin_ray.execution.study_run.run_study", run_study)
    for address, device in (("auto", "cuda"), (None, "cpu")):
        ran.clear()
        if caller in ("plan", "sweep"):
            options = ("--address", address) if address else ()
            done = call(caller, "s.yaml", *options, *(["--no-tracking"] * (caller == "sweep")))
            ran += re.findall("timed on (cuda|cpu) here", done.output)
        elif caller == "api plan":
            ran.append(coin_ray.plan("s.yaml", Cluster(address)).where.device)
        else:
            with pytest.raises(KeyboardInterrupt):
                coin_ray.run("s.yaml", executor=Cluster(address), tracking=False)
        assert ran == [device]


def test_a_gpu_that_torch_cannot_use_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "this_machine", lambda: GPU)
    for usable in (True, False):
        monkeypatch.setattr("torch.cuda.is_available", lambda usable=usable: usable)
        assert bool(nodes.usable_machine().gpus) is usable
        found = target(resolve("s.yaml", Request()), Cluster())
        assert found.device == ("cuda" if usable else "cpu")


def test_a_ray_job_uses_its_own_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def nodes_of(address: str) -> list[Node]:
        asked.append(address)
        return [CPU, GPU]

    monkeypatch.setattr(cluster_nodes, "nodes_of", nodes_of)
    for value, option, cluster in (
        ("10.0.0.1:6379", (), "10.0.0.1:6379"),
        ("10.0.0.1:6379", ("--address", "auto"), "auto"),
        ("10.0.0.1:6379", ("--address", "local"), None),
        ("http://10.0.0.1:8265", (), None),  # for those who submit a job
        ("", (), None),
    ):
        asked.clear()
        monkeypatch.setenv("RAY_ADDRESS", value)
        done = call("plan", "s.yaml", *option)
        assert done.exit_code == 0, done.output
        assert asked == ([cluster] if cluster else [])
        assert ("timed on cuda" in done.output) is bool(cluster)
        assert ("(RAY_ADDRESS; --address local" in done.stderr) is (cluster == value)
