"""Studies on several real raylets: pretended GPUs, a node that is lost, an event hub that dies."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from coin_ray.cluster.executor import Cluster as RayCluster
from coin_ray.cluster.segmenters import Segmenters
from coin_ray.cluster.session import session
from coin_ray.confidence.settings import Sam
from coin_ray.data.dataset import DataSet, DataSpec
from coin_ray.data.synthetic import generated_samples
from coin_ray.events import events
from coin_ray.execution.study_run import Outcome, run_study
from coin_ray.pipeline.runner import open_local, run_local
from coin_ray.pipeline.settings import Cell
from coin_ray.pipeline.stages import STAGES
from coin_ray.store.artifacts import Store
from coin_ray.study.resolved import ResolvedStudy, StudyCell
from tests import pretended, toy_stage
from tests.conftest import ROOT
from tests.test_pipeline_cell import config

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]
HUB, TRIAL = "ray::EventHub", "ray::Implicit"
JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
NO_ROUNDS: dict[str, Any] = {"uss": {"family": "none"}, "rounds": {"count": 0}}
FAST = {"health_check_period_ms": 500, "health_check_failure_threshold": 2}
"""A node is taken for dead after a second."""


def study(cells: dict[str, Cell], **fields: Any) -> ResolvedStudy:
    data = DataSpec(name="tiles", kind="folder")
    return ResolvedStudy(
        name="nodes",
        title="",
        profile="test",
        source_files=(),
        data=(data,),
        levels=tuple(cells),
        baseline_level=next(iter(cells)),
        cells=tuple(
            StudyCell(level, data, 0, cell, f"{level}-0", {"level": level})
            for level, cell in cells.items()
        ),
        report=("aji",),
        **fields,
    )


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    samples = tuple(generated_samples(tmp_path_factory.mktemp("tiles"), 2, size=96, seed=3))
    return DataSet(tuple(s.image for s in samples), samples)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head of two CPUs; the test adds its nodes."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # for the hook
    head = {"num_cpus": 2, "include_dashboard": True, "dashboard_port": 0, "_system_config": FAST}
    made = Cluster(initialize_head=True, head_node_args=head)
    yield made
    made.shutdown()


def run(
    given: ResolvedStudy,
    tiles: DataSet,
    workspace: Path,
    cluster: Any,
    once: Callable[[events.Event], bool] | None = None,
    strike: Callable[[], Any] = lambda: None,
    **options: Any,
) -> tuple[Outcome, list[events.Event]]:
    """A study on the cluster, which is struck at the first event that ``once`` is true of."""
    heard: list[events.Event] = []
    struck: list[threading.Thread] = []

    def listen(event: events.Event) -> None:
        heard.append(event)
        if once is not None and not struck and once(event):
            struck.append(threading.Thread(target=strike))
            struck[0].start()

    outcome = run_study(
        given,
        {"tiles": tiles},
        workspace=workspace,
        listen=listen,
        executor=RayCluster(cluster.address),
        **options,
    )
    if once is not None:
        struck[0].join()
    return outcome, heard


def processes(title: str, node: Any) -> list[psutil.Process]:
    """Those of Ray's workers on a node whose title begins so."""
    (raylet,) = node.all_processes["raylet"]
    workers = psutil.Process(raylet.process.pid).children()
    return [worker for worker in workers if worker.name().startswith(title)]


def agreement(heard: list[events.Event]) -> dict[str, float]:
    finished = [e for e in heard if isinstance(e, events.CellFinished)]
    return {e.level: e.metrics["agreement"] for e in finished}


def alone(cells: dict[str, Cell], tiles: DataSet, workspace: Path) -> dict[str, float]:
    """What one process computes, on as many threads as a task of a CPU has."""
    torch.set_num_threads(1)
    return {
        level: run_local(open_local(cell, 0, tiles.train, workspace), tiles.samples)[1]["agreement"]
        for level, cell in cells.items()
    }


def test_every_process_of_a_study_sees_the_card_that_it_was_given(
    cluster: Any, tiles: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two cells at once on a node of two cards, from the first step to the last; a segmenter a
    card, and nothing on a card that needs none."""
    monkeypatch.setenv(JOB, pretended.job(tmp_path / "cards"))
    cluster.add_node(num_cpus=2, num_gpus=2)
    one = {"rounds": {"count": 1}, "student": {"iterations": 2}}
    cells = {f"f{size}": config(**one, instances={"footprint": size}) for size in (7, 9)}
    outcome, heard = run(study(cells), tiles, tmp_path, cluster, device="cuda")
    assert outcome.failed == {} and agreement(heard) == alone(cells, tiles, tmp_path / "alone")
    said = pretended.lines(tmp_path / "cards")
    for line in said:
        assert line["sees"] == line["given"] and len(line["given"]) <= 1, line
        assert bool(line["given"]) or line["where"] in ("cpu", "limit"), line
    cards = defaultdict(set)
    for line in said:
        cards[line["process"]].update(line["given"])
    assert {process: seen for process, seen in cards.items() if len(seen) > 1} == {}
    held = {
        what: [line["given"] for line in said if (line["what"], line["where"]) == (what, "limit")]
        for what in ("segmenter", "training", "step")
    }
    assert sorted(held["segmenter"]) == [["0"], ["1"]]
    assert sorted(held["training"]) == [["0"], ["1"]]
    drew = [line["given"] for line in said if line["where"] == "segmenter"]
    assert drew and {*map(tuple, drew)} <= {("0",), ("1",)}  # who is asked is a matter of load
    on_cards = {line["what"] for line in said if line["where"] == "device"}
    assert on_cards == {"features", "centroids", "similarity", "predict", "round"}
    assert [] in held["step"]  # what is asked of them is made on CPUs, or is there


def test_segmenters_are_found_again_where_nodes_come_and_go(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of each model a card, whatever happens to processes and nodes."""
    import ray

    monkeypatch.setenv(JOB, pretended.job(tmp_path / "cards"))
    first = cluster.add_node(num_cpus=1, num_gpus=2)
    told: dict[str, dict[str, Any]] = {}
    hub = SimpleNamespace(staff=SimpleNamespace(remote=lambda m, there, _: told.update({m: there})))

    def settled(*nodes: tuple[Any, int]) -> dict[str, dict[tuple[str, str], Any]]:
        """Once every model has one segmenter on every card of these nodes, and no other."""
        wanted = sorted((node.node_id, str(card)) for node, n in nodes for card in range(n))
        end = time.monotonic() + 120
        while time.monotonic() < end:
            crew.tend(hub)
            found = {}
            for model, there in told.items():
                with contextlib.suppress(ray.exceptions.RayActorError):
                    places = ray.get([actor.where.remote() for actor in there.values()])
                    cards = [(node, *of) for node, of in places]
                    found[model] = dict(zip(cards, there.values(), strict=True))
                    if len(found[model]) < len(there):
                        break  # two on one card
            if len(found) == 2 and all(sorted(places) == wanted for places in found.values()):
                return found
            time.sleep(0.2)
        pytest.fail(f"{wanted} wanted, there are {found}")

    with session(cluster.address, device="cuda"):
        crew = Segmenters(tmp_path, "cuda", 0.3, int)
        assert not any(crew.ready(Sam(model=model)) for model in ("mini", "vit_b"))
        found = settled((first, 2))
        assert all(crew.ready(Sam(model=model)) for model in found)
        (place, one), other = list(found["mini"].items())
        ray.kill(one)  # as if its process had crashed
        with contextlib.suppress(ray.exceptions.RayActorError):
            while True:  # a call may still be answered before it has gone
                ray.get(one.where.remote())
        again = settled((first, 2))["mini"]
        assert again[place] != one and again[other[0]] == other[1]
        second = cluster.add_node(num_cpus=1, num_gpus=1)
        settled((first, 2), (second, 1))
        cluster.remove_node(first, allow_graceful=False)
        settled((second, 1))


@pytest.mark.slow
def test_two_workers_of_a_round_have_a_card_each(
    cluster: Any, tiles: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They see each other's, as NCCL has it, and use their own."""
    monkeypatch.setenv(JOB, pretended.job(tmp_path / "cards", "workers_hook"))
    cluster.add_node(num_cpus=2, num_gpus=2)
    cell = config(uss={"family": "none"}, rounds={"count": 1}, student={"iterations": 2})
    outcome, _ = run(study({"base": cell}), tiles, tmp_path, cluster, device="cuda", workers=2)
    assert outcome.failed == {}
    said = [line for line in pretended.lines(tmp_path / "cards") if line["what"] == "_loop"]
    assert sorted(line["given"] for line in said) == [["0"], ["1"]]
    for line in said:
        assert line["sees"] == ["0", "1"] and line["sees"][line["index"]] == line["given"][0]


@pytest.mark.slow
def test_two_workers_on_two_nodes_train_what_two_on_one_node_train(
    cluster: Any, tiles: DataSet, tmp_path: Path
) -> None:
    """And the labels of the second round, of which each worker has made its images'."""
    import ray

    cells = {"base": config(uss={"family": "none"}, student={"iterations": 3})}
    places: set[str] = set()

    def look(event: events.Event) -> bool:
        if isinstance(event, events.RoundFinished):
            for group in ray.util.placement_group_table().values():
                if group["state"] == "CREATED" and len(group["bundles"]) == 2:
                    places.update(group["bundles_to_node_id"].values())
        return bool(places)

    def trained(workspace: Path, memory: dict[str, float], nodes: int) -> dict[str, bytes]:
        places.clear()
        given = study(cells, resources={"round": memory})
        outcome, _ = run(given, tiles, workspace, cluster, look, workers=2)
        assert outcome.failed == {} and len(places) == nodes
        return {
            str(path.relative_to(workspace)): path.read_bytes()
            for stage in ("round", "select", "predict")
            for path in (workspace / "store" / stage).glob("*/data.safetensors")
        }

    together = trained(tmp_path / "one", {}, 1)
    cluster.add_node(num_cpus=2)
    sizes = [node.memory for node in RayCluster(cluster.address).nodes()]
    apart = trained(tmp_path / "two", {"memory": 0.6 * max(sizes) / 2**30}, 2)
    assert together == apart
    assert sum("/round/" in name for name in apart) == 2


@pytest.mark.slow  # what goes at five moments is seen in test_cluster_losses
def test_the_loss_of_a_node_costs_time_only(cluster: Any, tiles: DataSet, tmp_path: Path) -> None:
    """Four trials on three nodes; one that has a trial goes as soon as the first is heard of."""
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    gone: list[Any] = []

    def strike() -> None:
        end = time.monotonic() + 60
        while not gone and time.monotonic() < end:
            gone.extend([node for node in nodes if processes(TRIAL, node)][:1])
        cluster.remove_node(gone[0], allow_graceful=False)

    cells = {
        f"f{size}": config(**NO_ROUNDS, instances={"footprint": size}) for size in (5, 7, 9, 11)
    }
    outcome, heard = run(
        study(cells),
        tiles,
        tmp_path,
        cluster,
        lambda event: isinstance(event, events.CellStarted),
        strike,
    )
    assert gone and outcome.failed == {}
    assert agreement(heard) == alone(cells, tiles, tmp_path / "alone")


@pytest.mark.slow
def test_a_segmenter_whose_node_is_lost_is_stood_in_for(
    cluster: Any, tiles: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(JOB, pretended.job(tmp_path / "cards"))
    nodes = [cluster.add_node(num_cpus=1, num_gpus=1) for _ in range(2)]
    cells = {"base": config(**NO_ROUNDS)}
    outcome, heard = run(
        study(cells),
        tiles,
        tmp_path,
        cluster,
        lambda event: isinstance(event, events.StageFinished) and event.stage == "masks",
        lambda: cluster.remove_node(nodes[0], allow_graceful=False),
        device="cuda",
    )
    assert outcome.failed == {} and agreement(heard) == alone(cells, tiles, tmp_path / "alone")


def test_an_event_hub_that_dies_is_started_again(
    cluster: Any, tiles: DataSet, tmp_path: Path
) -> None:
    killed: list[int] = []

    def strike() -> None:
        for process in processes(HUB, cluster.head_node):
            process.kill()
            killed.append(process.pid)

    cells = {f"f{size}": config(**NO_ROUNDS, instances={"footprint": size}) for size in (5, 7, 9)}
    outcome, heard = run(
        study(cells),
        tiles,
        tmp_path,
        cluster,
        lambda event: isinstance(event, events.CellStarted),
        strike,
    )
    assert len(killed) == 1 and outcome.failed == {}
    assert agreement(heard) == alone(cells, tiles, tmp_path / "alone")


def test_a_stage_of_one_module_runs_here_and_on_a_cluster(
    cluster: Any, tiles: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Added in every process by one call: planned, placed, stored and computed as the others."""
    monkeypatch.setenv(JOB, pretended.job(tmp_path / "cards", "hook", "tests.toy_stage"))
    for name in ("smooth", "instances"):  # given back in the end
        monkeypatch.setitem(STAGES, name, STAGES["instances"])
    toy_stage.hook()
    cells = {"base": config(rounds={"count": 0})}
    outcome, heard = run(study(cells), tiles, tmp_path, cluster)
    assert outcome.failed == {} and agreement(heard) == alone(cells, tiles, tmp_path / "alone")
    for workspace in (tmp_path, tmp_path / "alone"):
        store = Store(workspace / "store")
        assert len(store.folders("smooth")) == len(tiles.train)
