"""Which cluster a verb uses, and which device: ``plan`` and ``sweep`` by one function."""

from __future__ import annotations

from pathlib import Path

import pytest

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
    assert find_device("auto", [CPU, GPU], "coin") == "cuda"
    assert find_device("auto", [CPU], "mini") == "cpu"
    assert find_device("cpu", [GPU]) == "cpu" and find_device("cuda", [CPU]) == "cuda"
    for profile in ("coin", "official"):
        assert find_device("cpu", [CPU], profile) == "cpu"
        with pytest.raises(UserError, match="--device cpu runs it all the same"):
            find_device("auto", [CPU], profile)


@pytest.mark.parametrize("verb", ["plan", "sweep"])
def test_the_papers_profiles_are_refused_without_a_gpu(verb: str, folder: Path) -> None:
    done = call(verb, "s.yaml", "--profile", "coin")
    assert done.exit_code == 2 and "at least 1 GPU" in done.stderr
    assert "1 × (8 CPU, 0 GPU, 64 GiB)" in done.stderr and "--device cpu" in done.stderr
    assert not (folder / ".coin-ray" / "store").exists()


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
