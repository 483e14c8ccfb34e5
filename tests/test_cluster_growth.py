"""Clusters that grow and shrink: what is declared, asked for, waited for and followed. No cluster
is started."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray import cloudpickle
from ray.exceptions import ActorDiedError
from ray.tune.search import BasicVariantGenerator

from coin_ray.cli import options
from coin_ray.cluster import callbacks, executor, joining
from coin_ray.cluster.executor import Cluster
from coin_ray.errors import UserError
from coin_ray.events import events
from coin_ray.execution.refusals import target
from coin_ray.execution.tally import Tally
from coin_ray.planning.growth import Growth, bundles, grown
from coin_ray.planning.machines import Node, Request
from coin_ray.study.command_line import Request as Asked
from coin_ray.study.study import resolve
from tests.test_cluster_endings import LOST

GIB = 2**30
FOUR = Growth(4, {"cpu": 16.0, "gpu": 1.0, "memory": 60.0})
HEAD, BIG = Node(4, 0, 8 * GIB), Node(32, 2, 120 * GIB)
STUDY = "study: s\nextends: mini\ncluster: {max_nodes: 4, node: {cpu: 16, gpu: 1, memory: 60}}\n"


def test_a_cluster_at_its_largest_by_hand() -> None:
    one = Node(16, 1, 60 * GIB)
    assert grown([], FOUR) == [one] * 4
    assert grown([HEAD], FOUR) == [HEAD, one, one, one, one]
    assert grown([HEAD, BIG], FOUR) == [HEAD, BIG, one, one, one]
    assert grown([BIG] * 6, FOUR) == [BIG] * 6


def test_what_is_asked_for_by_hand() -> None:
    training = Request("", 4, 0.7, 0, count=2)
    steps = [Request("", 1, 0.25, 0), Request("", 1, 0, 8.0 * GIB), Request("", 1, 0, 8.0 * GIB)]
    assert bundles(steps, training, 2) == [
        *[{"CPU": 4, "GPU": 1.0}] * 4,
        {"CPU": 1, "memory": 8.0 * GIB},
    ]
    assert bundles(steps[:1], Request("", 1, 2, 0), 1) == [{"CPU": 1, "GPU": 2}]


def test_the_study_says_how_far_its_cluster_grows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan counts with it before a cluster is up; a run on this machine does not."""
    monkeypatch.chdir(tmp_path)
    Path("s.yaml").write_text(STUDY)
    study = resolve("s.yaml", Asked())
    assert study.cluster == FOUR
    here = Node(2, 0, 8 * GIB)
    monkeypatch.setattr(executor, "usable_machine", lambda: here)
    planned = target(study, Cluster(), ahead=True)
    assert (list(planned.nodes), planned.device) == (grown([], FOUR), "cuda")
    now = target(study, Cluster())
    assert (list(now.nodes), now.device) == ([here], "cpu")
    monkeypatch.setattr("coin_ray.cluster.nodes.nodes_of", lambda address: [here])
    to_come = target(study, Cluster("there:1"))
    assert (list(to_come.nodes), to_come.device) == ([here, *grown([], FOUR)], "cuda")
    much = replace(study, resources={"round": {"gpu": 2.0}})
    with pytest.raises(UserError, match=r"4 × \(16 CPU, 1 GPU, 60 GiB\)"):
        target(much, Cluster("there:1"))
    assert study.cells == resolve("s.yaml", Asked()).cells
    Path("s.yaml").write_text(STUDY.replace("gpu: 1", "gpus: 1"))
    with pytest.raises(UserError, match="did you mean 'gpu'"):
        resolve("s.yaml", Asked())


def test_how_long_is_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Cluster("there:1").minutes(FOUR) == executor.WAIT
    assert Cluster("there:1").minutes(None) == Cluster(wait=5).minutes(FOUR) == 0
    assert Cluster("there:1", wait=5).minutes(None) == 5 and Cluster("", wait=0).minutes(FOUR) == 0
    for local, address in ((True, None), (False, None)):
        with pytest.raises(UserError, match="--wait is for the nodes of a cluster"):
            options.executor(address, None, "auto", local=local, wait=3.0)
    # What nobody declares is not refused before it was waited for; what can never be is.
    study = replace(resolve("baseline", Asked()), resources={"round": {"gpu": 0.5}})
    Cluster("there:1", wait=5).check(study, [HEAD], "cuda", 1)
    with pytest.raises(UserError, match="the same GPU"):
        Cluster("there:1", wait=5).check(study, [HEAD], "cuda", 2)
    with pytest.raises(UserError, match="more than the cluster has"):
        Cluster("there:1").check(study, [HEAD], "cuda", 1)


def test_a_wait_is_told_ever_more_seldom_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    now, there = [0.0], [HEAD]

    def sleep(seconds: float) -> None:
        now[0] += seconds
        if now[0] > 100:
            there[:] = [HEAD, BIG]

    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=sleep)
    monkeypatch.setattr(joining, "time", clock)
    monkeypatch.setattr(joining, "connected", lambda: list(there))
    told: list[Any] = []

    def unmet(nodes: Any) -> list[str]:
        return [] if BIG in nodes else ["one node with 1 CPU, 1 GPU"]

    assert joining.awaited(unmet, 5.0, told.append) == [HEAD, BIG]
    assert [event.text for event in told] == [
        "waiting for one node with 1 CPU, 1 GPU; there are 1 × (4 CPU, 0 GPU, 8 GiB) "
        f"({seconds} s of at most 5 minutes)"
        for seconds in (0, 30, 90)
    ]
    now[0], there[:] = -500.0, [HEAD]
    with pytest.raises(UserError, match="more than the cluster has after 1 minute") as refused:
        joining.awaited(unmet, 1.0, told.append)
    assert "--wait MINUTES" in str(refused.value)


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stands for Ray's head, of the driver ``1``: ``asked`` as often as nodes were asked for."""
    kept: dict[str, Any] = {"asked": [], "dead": {"0"}}

    def put(key: str, value: str, *, overwrite: bool, namespace: str) -> None:
        kept[key, namespace] = value.encode()

    context = SimpleNamespace(get_job_id=lambda: "1")
    monkeypatch.setattr(joining.ray, "get_runtime_context", lambda: context)
    monkeypatch.setattr(joining.kv, "_internal_kv_put", put)
    monkeypatch.setattr(
        joining.kv, "_internal_kv_get", lambda key, *, namespace: kept.get((key, namespace))
    )
    monkeypatch.setattr(
        joining.kv, "_internal_kv_del", lambda key, *, namespace: kept.pop((key, namespace))
    )
    monkeypatch.setattr(
        "ray._private.state.state.job_table",
        lambda: [{"JobID": job, "IsDead": job in kept["dead"]} for job in "012"],
    )
    monkeypatch.setattr(
        joining, "request_resources", lambda bundles: kept["asked"].append(len(bundles))
    )
    return kept


def test_what_is_asked_for_follows_what_is_left_and_is_taken_back(kept: dict[str, Any]) -> None:
    with pytest.raises(KeyboardInterrupt), joining.Demand(lambda n: [{"CPU": 1.0}] * n) as demand:
        for trainings in (3, 3, 2, 5000):
            demand.follow(trainings)
        raise KeyboardInterrupt
    assert kept["asked"] == [3, 2, joining.MOST, 0]
    with joining.Demand(lambda n: []):
        pass
    assert len(kept["asked"]) == 4


def test_what_a_killed_driver_has_asked_for_is_taken_back(kept: dict[str, Any]) -> None:
    joining.take_back()
    joining.Demand(lambda n: [{"CPU": 1.0}] * n).follow(3)
    joining.take_back()
    assert kept["asked"] == [3], "its driver lives"
    kept["dead"].add("1")
    joining.take_back()
    joining.take_back()
    assert kept["asked"] == [3, 0]


def test_trials_at_once_follow_the_cluster() -> None:
    limited, room = BasicVariantGenerator(max_concurrent=1), [1, 4, 2]
    following = callbacks.Following(limited, lambda: room.pop(0))
    for expected in (1, 4, 2):
        following.on_step_begin(0, [])
        assert limited.max_concurrent == expected


class Trial:
    """What Tune has of one that has failed."""

    def __init__(self, job: str, folder: Path) -> None:
        self.config, self.run_metadata = {"job": job}, SimpleNamespace(num_failures=2)
        self.pickled_error_file = str(folder / "error.pkl")


def test_trials_that_are_lost_together_are_one_line_and_come_again_while_they_advance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    advances = dict.fromkeys("abcde", 0) | {"a": 3}
    retold = callbacks.Retold(told.append, advances.__getitem__)
    trials = [Trial(job, tmp_path) for job in "abcde"]
    (tmp_path / "error.pkl").write_bytes(cloudpickle.dumps(ActorDiedError()))
    for trial in trials:
        retold.on_trial_recover(0, trials, trial)
    assert [trial.run_metadata.num_failures for trial in trials] == [0, 2, 2, 2, 2]
    retold.on_step_end(0, trials)
    assert told == []
    monkeypatch.setattr(callbacks, "GATHER", 0.0)
    retold.on_step_end(0, trials)
    retold.on_experiment_end(trials)
    (line,) = [event.text for event in told]
    assert line.startswith("a, b, c and 2 more lost their processes or their node and are tried")
    assert line.endswith(")") and "ActorDiedError" in line
    trials[0].run_metadata.num_failures = 2
    retold.on_trial_recover(0, trials, trials[0])  # no further than before
    retold.on_experiment_end(trials)
    assert trials[0].run_metadata.num_failures == 2
    assert told[-1].text.startswith("a lost its process or its node and is tried again (")
    retold.on_trial_error(0, trials, trials[0])
    (tmp_path / "error.pkl").unlink()
    retold.on_trial_error(0, trials, trials[1])
    (tmp_path / "error.pkl").write_bytes(cloudpickle.dumps(ValueError("no such thing")))
    retold.on_trial_error(0, trials, trials[2])
    given_up = retold.given_up
    assert [given_up[job].gone for job in "abc"] == [True, True, False]
    assert given_up["b"].cause == "its process or its node was lost (tried 3 times)"
    assert given_up["c"].cause == "ValueError: no such thing"
    assert not LOST.gone  # unless it is said


def test_what_a_cell_advances_by() -> None:
    who = {"cell": "c", "level": "l", "data": "d", "seed": 0}
    tally = Tally(lambda event: None)

    def advances(event: events.Event) -> int:
        tally(event)
        return tally.advances["c"]

    made = {"image": "i", "seconds": 1.0}
    assert advances(events.CellStarted(**who)) == 0
    assert advances(events.StageFinished(**who, stage="score", key="k", **made)) == 1
    assert advances(events.StageReused(**who, stage="score", key="k", image="i")) == 1
    assert advances(events.RoundProgress(**who, step=5, steps=9)) == 2
    assert advances(events.RoundProgress(**who, step=4, steps=9)) == 2  # since it was lost
    assert advances(events.RoundProgress(**who, step=6, steps=9)) == 3
    assert advances(events.StageFinished(**who, stage="round", key="r", **made)) == 4
    assert advances(events.RoundProgress(**who, step=1, steps=9)) == 5
