"""Studies on real raylets of which nodes are killed, drained and added while they run."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import chaos_nodes
from coin_ray.data.dataset import DataSet
from coin_ray.data.synthetic import generated_samples
from coin_ray.events import events
from coin_ray.planning.growth import Growth
from tests import pretended
from tests.conftest import ROOT
from tests.test_cluster_nodes import JOB, agreement, alone, run, study
from tests.test_pipeline_cell import config

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[chaos_nodes.Nodes]:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    made = chaos_nodes.Nodes(0)
    yield made
    made.close()


class Autoscaler:
    """Adds a node with a GPU while Ray is asked for one that is not there."""

    def __init__(self, nodes: chaos_nodes.Nodes) -> None:
        from ray._private.ray_constants import AUTOSCALER_RESOURCE_REQUEST_CHANNEL

        self._nodes, self._channel = nodes, AUTOSCALER_RESOURCE_REQUEST_CHANNEL
        self.asked: list[Any] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._scale)

    def request(self) -> list[dict[str, float]]:
        from ray._raylet import GcsClient

        kept = GcsClient(address=self._nodes.address).internal_kv_get(self._channel, None)
        return json.loads(kept) if kept else []

    def _scale(self) -> None:
        while not self._stop.wait(1.0):
            found = self.request()
            if found and not self._nodes.nodes:
                self.asked.append(found)
                self._nodes.add()

    def __enter__(self) -> Autoscaler:
        self._thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stop.set()
        self._thread.join()


def drain(nodes: chaos_nodes.Nodes, node: Any) -> None:
    """As a cloud's notice of pre-emption reaches Ray."""
    from ray._raylet import GcsClient
    from ray.core.generated import autoscaler_pb2

    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    end = int(1000 * (time.time() + 120))
    client = GcsClient(address=nodes.address)
    accepted, why = client.drain_node(node.node_id, reason, "a test", end)
    assert accepted, why


@pytest.mark.slow
def test_gpus_are_waited_for_and_a_drained_node_leaves_a_checkpoint(
    nodes: chaos_nodes.Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A head without a GPU; the node that comes is drained inside a training, and killed."""
    monkeypatch.setenv(JOB, pretended.job(tmp_path / "cards", "slow_hook"))
    samples = tuple(generated_samples(tmp_path / "tiles", 1, size=96, seed=3))
    tiles = DataSet(tuple(s.image for s in samples), samples)
    cell = config(
        uss={"family": "none"},
        rounds={"count": 1, "checkpoint": 3600.0},
        student={"iterations": 200},
    )
    given = replace(
        study({"base": cell}), cluster=Growth(3, {"cpu": 1.0, "gpu": 1.0, "memory": 0.1})
    )
    kept: list[float] = []

    def strike() -> None:
        (node,), start = nodes.nodes, time.monotonic()
        drain(nodes, node)
        while not kept and time.monotonic() < start + 60:
            if any((tmp_path / "store" / "checkpoints").rglob("state")):
                kept.append(time.monotonic() - start)
            time.sleep(0.1)
        nodes.lose(node)

    with Autoscaler(nodes) as scaler:
        outcome, heard = run(
            given,
            tiles,
            tmp_path,
            nodes,
            lambda event: isinstance(event, events.RoundProgress),
            strike,
            device="cuda",
        )
        assert scaler.request() == []  # taken back
    assert outcome.failed == {} and kept
    assert agreement(heard) == alone({"base": cell}, tiles, tmp_path / "alone")
    assert scaler.asked[0] == [{"CPU": 1.0, "GPU": 1.0}]
    told = [event.text for event in heard if isinstance(event, events.Note)]
    assert told[0].startswith("waiting for one node with 1 CPU, 0.25 GPU (resources.stage); ")
    steps = [event.step for event in heard if isinstance(event, events.RoundProgress)]
    first = steps[0]
    assert all(step >= first for step in steps)  # it went on where it was


def test_nodes_that_go_at_five_moments_cost_time_only(
    nodes: chaos_nodes.Nodes, tmp_path: Path
) -> None:
    """The command, as a user runs it, without a GPU; the tables are those of one process."""
    study, own = tmp_path / "nodes.yaml", chaos_nodes.environment(tmp_path)
    study.write_text(chaos_nodes.STUDY)
    # A training long enough to be met in it.
    changed = ("uss.family=none", "rounds.count=1", "student.iterations=150")
    less = (*(word for value in changed for word in ("--set", value)), "--device", "cpu")
    calm = chaos_nodes.sweep(study, tmp_path / "calm", ["--local", *less], own, patience=300)
    assert calm.code == 0
    for _ in range(2):
        nodes.add()
    place = ("--address", nodes.address, *less)
    going = chaos_nodes.losses(nodes, tmp_path / "struck" / "store", 1, chaos_nodes.FIVE)
    done = chaos_nodes.sweep(study, tmp_path / "struck", place, own, going=going, patience=600)
    pictures = chaos_nodes.seen(tmp_path / "calm"), chaos_nodes.seen(tmp_path / "struck")
    assert chaos_nodes.faults(done, chaos_nodes.FIVE, *pictures) == [], done.about
